r"""The embedded default dataset."""
import json
import math
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pyg_mmkgc.data.contents import EntityContents, entity_contents
from pyg_mmkgc.data.hetero import build_data
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.datasets.base import GraphDataset, number_row
from pyg_mmkgc.transforms.encode_image import read_image
from pyg_mmkgc.transforms.encode_text import EncodeText
from pyg_mmkgc.transforms.image_encoders import EfficientNetLite0Encoder

#: What `numeric` is made of, in the order of its columns.
NUMBERS = ('latitude', 'longitude', 'area', 'population', 'gdp_per_head', 'literacy')
_DIGITS = 3  # That are left of a number in half precision.
_BICUBIC = 3  # Of Pillow, which is an extra.
#: The files that ship with the package, written by `datasets/atlas/build.py`.
FOLDER = Path(__file__).parent / 'data' / 'atlas'
SPLITS = ('train', 'val', 'test', 'inductive_test')


class Atlas(GraphDataset):
    r"""Countries, languages, scripts, currencies and regions: a real multi-modal knowledge graph
    that ships with the package and needs no download, no root and no cache.

    About 1,000 entities, 11 relations such as ``'borders'`` and ``'official_language'``, and
    3,400 facts that anybody can check by eye. The split is deliberately sparse: every entity of
    ``'val'`` and ``'test'`` is seen in training, while ``'inductive_test'`` holds all triples of
    22 countries that training never mentions. Transductive ranking is over the entities seen in
    training (``data.candidates == 'seen'``).

    Modalities: ``text`` (sentence embedding of "name (type)"; all entities), ``numeric``
    (position, area, population, GDP per head, literacy; countries), ``image`` (flag) and
    ``outline`` (shape on the map). ``data['entity'].type`` holds the type of each entity.
    The dataset card in `datasets/atlas/README.md` names origins, licences and known pitfalls;
    disputed territories follow the sources.

    Args:
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
    """
    def __init__(self, transform: Optional[Callable[..., Any]] = None):
        super().__init__(transform=transform)
        entities = _read_table('entities.tsv', header=True, columns=3)
        relations = _read_table('relations.tsv', header=True, columns=2)
        labels = [row[0] for row in entities]
        entity_id = {label: i for i, label in enumerate(labels)}
        rel_id = {row[0]: i for i, row in enumerate(relations)}

        splits = {
            split: torch.tensor([[entity_id[h], rel_id[r], entity_id[t]]
                                 for h, r, t in _read_table(f'{split}.tsv', columns=3)])
            for split in SPLITS
        }
        data = build_data(splits, labels, [row[0] for row in relations],
                          _read_modalities(len(labels)))
        data['entity'].type = Labels(row[1] for row in entities)
        data['entity'].code = Labels(row[2] for row in entities)
        data['entity', 'to', 'entity'].description = Labels(row[1] for row in relations)
        data.candidates = 'seen'
        self.data = data

    def encode_content(self, modality: str, content: Any) -> Tensor:
        r"""The vector of content as the builder would make it, from what it noted down.

        - ``text``: the name and the type, ``'France (country)'``; needs the extra ``text``;
        - ``image``: the path of a picture of the flag, ``outline``: black on white, north up; they
          need the extra ``image``;
        - ``numeric``: ``latitude`` and ``longitude`` (degrees), and as far as known ``area``
          (square kilometres), ``population``, ``gdp_per_head`` (dollars a year) and ``literacy``
          (percent).

        Args:
            modality (str): The modality.
            content (Any): A text, the path of a file, or numbers by name.
        """
        if modality == 'text':
            return EncodeText('minilm').encode_new(self._data, content)
        if modality == 'numeric':
            return self._encode_numbers(content)
        return self._encode_picture(modality, content)

    def _encode_picture(self, name: str, path: str) -> Tensor:
        encoder, image = EfficientNetLite0Encoder(), read_image(path)
        state = load_file(FOLDER / 'encoders.safetensors')
        # As wide or high as what the network sees, in the middle of grey, which is zero to it; the
        # encoder cuts the margin off.
        scale = encoder.image_size / max(image.size)
        image = image.resize([max(1, round(scale * side)) for side in image.size],
                             resample=_BICUBIC)
        canvas = image.resize((encoder.resized_size, ) * 2)
        canvas.paste((127, 127, 127), (0, 0, *canvas.size))
        canvas.paste(image, tuple((encoder.resized_size - side) // 2 for side in image.size))
        x = encoder([canvas]) - state[f'{name}_mean'].float()
        return x @ state[f'{name}_axes'].float().t()

    def _encode_numbers(self, numbers: Mapping[str, float]) -> Tensor:
        row = number_row(numbers, NUMBERS)
        if bool(row[:2].isnan().any()):
            raise ValueError(f"expected 'latitude' and 'longitude' (got {sorted(numbers)})")
        if bool((row[2:] <= 0).any()):
            raise ValueError(f'expected {list(NUMBERS[2:])} to be positive (got {dict(numbers)})')
        state = load_file(FOLDER / 'encoders.safetensors')
        latitude, longitude = row[:2].deg2rad()
        position = torch.stack([latitude.cos() * longitude.cos(),
                                latitude.cos() * longitude.sin(), latitude.sin()])
        phase = position @ state['numeric_waves'].double()
        waves = torch.stack([phase.sin(), phase.cos()], dim=1).flatten()
        # Factors that give each column about unit variance, as in `datasets/atlas/features.py`.
        row[2:5] = row[2:5].log()
        mean, std = state['numeric_scales'].double().unbind(1)
        value = (row[2:] - mean) / std
        value = torch.stack([value.nan_to_num(0.0), value.isnan().double()], dim=1).flatten()
        return torch.cat([3**0.5 * position, 2**0.5 * waves, value]).float().unsqueeze(0)

    def contents(self, entity: int) -> EntityContents:
        r"""Type and code of an entity, and of a country its pictures and its numbers: those of
        :data:`NUMBERS`, read back from the feature and so rounded to three digits.

        Args:
            entity (int): The entity's id.
        """
        pictures = {kind: self.thumbnail(entity, kind) for kind in ('image', 'outline')}
        return EntityContents(
            entity_contents(self._data, entity).texts, self._decode_numbers(entity),
            {kind: picture for kind, picture in pictures.items() if picture is not None})

    def _decode_numbers(self, entity: int) -> Dict[str, float]:
        # The inverse of `_encode_numbers`.
        if not bool(self._data['entity'].numeric_mask[entity]):
            return {}
        x = self._data['entity'].numeric[entity].double()
        position, (value, missing) = x[:3] / 3**0.5, x[-8:].view(4, 2).unbind(1)
        mean, std = load_file(FOLDER / 'encoders.safetensors')['numeric_scales'].double().unbind(1)
        value = value * std + mean
        value[:3] = value[:3].exp()
        value[missing > 0] = float('nan')
        latitude = position[2].clamp(-1, 1).asin().rad2deg()
        longitude = torch.atan2(position[1], position[0]).rad2deg()
        row = torch.cat([torch.stack([latitude, longitude]), value])
        return {name: float(f'{number:.{_DIGITS}g}') for name, number in zip(
            NUMBERS, row.tolist(), strict=True) if not math.isnan(number)}

    @property
    def info(self) -> Dict[str, Any]:
        r"""What the builder noted down: modalities, held-out countries, sources and versions."""
        return json.loads((FOLDER / 'modalities.json').read_text(encoding='utf-8'))

    def thumbnail(self, entity: int, kind: str = 'image') -> Optional[bytes]:
        r"""A small picture of an entity as PNG, or :obj:`None` if it has none.

        Args:
            entity (int): The entity's id.
            kind (str, optional): ``'image'`` (the flag) or ``'outline'``.
                (default: :obj:`'image'`)

        Raises:
            ValueError: If there is no such entity or kind.
        """
        if not 0 <= entity < self.num_entities:
            raise ValueError(f"'entity' needs to be an id from 0 to {self.num_entities - 1} "
                             f'(got {entity})')
        with zipfile.ZipFile(FOLDER / 'thumbnails.zip') as archive:
            names = set(archive.namelist())
            kinds = sorted({name.split('/')[0] for name in names})
            if kind not in kinds:
                raise ValueError(f'Unknown kind {kind!r} of thumbnail (expected one of {kinds})')
            name = f'{kind}/{entity}.png'
            return archive.read(name) if name in names else None


def _read_table(name: str, columns: int, header: bool = False) -> List[List[str]]:
    # The file is our own, so its shape is an invariant; names may hold any character but tab.
    lines = (FOLDER / name).read_text(encoding='utf-8').split('\n')[int(header):-1]
    rows = [line.split('\t') for line in lines]
    assert all(len(row) == columns for row in rows), name
    return rows


def _read_modalities(num_entities: int) -> Dict[str, Tuple[Tensor, Tensor]]:
    tensors = load_file(FOLDER / 'features.safetensors')
    modalities = {}
    for name in sorted(tensors):
        if f'{name}_index' in tensors:
            index = tensors[f'{name}_index'].long()
            x = torch.zeros(num_entities, tensors[name].size(1))
            x[index] = tensors[name].float()
            mask = torch.zeros(num_entities, dtype=torch.bool)
            mask[index] = True
            modalities[name] = (x, mask)
    return modalities
