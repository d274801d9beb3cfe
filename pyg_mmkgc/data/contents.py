r"""What of an entity people can look at: its texts, numbers and pictures."""
import base64
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Dict

from torch_geometric.data import HeteroData

from pyg_mmkgc.data.labels import Labels

#: What the files that browsers show begin with.
SIGNATURES = {b'\x89PNG\r\n\x1a\n': 'image/png', b'\xff\xd8\xff': 'image/jpeg'}
_NUMBERS, _ATTRIBUTES = 'numeric_value', 'numeric_attribute'


@dataclass(frozen=True)
class EntityContents:
    r"""The contents behind the features of an entity, as far as they are at hand.

    Args:
        texts (Dict[str, str], optional): Texts by name. (default: none)
        numbers (Dict[str, float], optional): Numbers by name. (default: none)
        pictures (Dict[str, bytes], optional): Small pictures by name, as PNG or JPEG.
            (default: none)
    """
    texts: Dict[str, str] = field(default_factory=dict)
    numbers: Dict[str, float] = field(default_factory=dict)
    pictures: Dict[str, bytes] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        r"""All of it, ready for JSON; pictures are `data:` addresses."""
        return {**asdict(self), 'pictures': {name: picture_address(picture)
                                             for name, picture in self.pictures.items()}}


def entity_contents(data: HeteroData, entity: int) -> EntityContents:
    r"""What a graph itself holds of an entity beside its label: texts (each a
    :class:`~pyg_mmkgc.data.Labels` of the node store, paths of files left out) and the numbers of
    ``numeric_value``, by the names of ``numeric_attribute``.

    Args:
        data (HeteroData): The graph.
        entity (int): The entity's id.
    """
    store = data['entity']
    texts = {name: value[entity] for name, value in store.items()
             if isinstance(value, Labels) and name != 'label' and not name.endswith('_path')
             and value[entity]}
    numbers = {}
    if _NUMBERS in store and _ATTRIBUTES in store:
        numbers = {name: value for name, value in zip(
            store[_ATTRIBUTES], store[_NUMBERS][entity].tolist(), strict=True)
            if not math.isnan(value)}
    return EntityContents(texts, numbers)


def picture_address(picture: bytes) -> str:
    r"""A picture as a `data:` address, which a page holds in itself.

    Args:
        picture (bytes): The file's content.

    Raises:
        ValueError: If it is neither PNG nor JPEG.
    """
    for signature, kind in SIGNATURES.items():
        if picture.startswith(signature):
            return f'data:{kind};base64,{base64.b64encode(picture).decode("ascii")}'
    raise ValueError(f'expected a picture as PNG or JPEG (got {picture[:8]!r})')
