r"""Texts of the entities as a modality."""
import hashlib
from typing import Callable, Dict, List, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.cache import FeatureCache
from pyg_mmkgc.transforms.encode_content import EncodeContent, get_column, resolve_encoder
from pyg_mmkgc.transforms.text_encoders import (
    HashTextEncoder,
    HuggingFaceTextEncoder,
    MiniLMEncoder,
)

TextEncoder = Callable[[Sequence[str]], Tensor]

#: The encoders that have a name.
ENCODERS: Dict[str, Callable[[], TextEncoder]] = {'hash': HashTextEncoder, 'minilm': MiniLMEncoder}


class EncodeText(EncodeContent):
    r"""Encodes texts of the entities into one modality with its mask.

    Args:
        encoder (str or callable, optional): Takes a list of :math:`n` texts and returns a tensor
            or array :math:`(n, C)`; or ``'hash'`` (:class:`HashTextEncoder`, light-weight, any
            script), ``'minilm'`` (:class:`MiniLMEncoder`, English) or ``'hf:<name or folder>'``
            (:class:`HuggingFaceTextEncoder`). An encoder without the attribute `cache_key` gets
            all texts at once, since its vectors may depend on all of them.
            (default: :obj:`'hash'`)
        source (str or Sequence[str], optional): The attributes of ``data['entity']`` that hold
            the texts, each a list with :obj:`None` or an empty text where there is none. Those
            that an entity has are joined by ``': '``; an entity with none of them lacks the
            modality. (default: :obj:`'label'`)
        modality (str, optional): The name of the modality. (default: :obj:`'text'`)
        cache (FeatureCache or str, optional): Where vectors are kept, see :class:`FeatureCache`:
            only those of encoders with a `cache_key`, such as ``'minilm'`` and ``'hf:...'``.
            (default: the folder `$PYG_MMKGC_CACHE` if set, else nowhere)

    Raises:
        ValueError: If the encoder is unknown or returns another shape, or a source is missing.
    """
    reader = 'text 1'
    batch_size = 1024  # An encoder makes its own batches.
    shard_size = 1024

    def __init__(self, encoder: Union[str, TextEncoder] = 'hash',
                 source: Union[str, Sequence[str]] = 'label', modality: str = 'text',
                 cache: Union[FeatureCache, PathLike, None] = None):
        function = resolve_encoder(encoder, ENCODERS, HuggingFaceTextEncoder)
        super().__init__(encoder, function, modality, cache)
        self.source = [source] if isinstance(source, str) else list(source)

    def contents(self, data: HeteroData) -> List[Sequence[str]]:
        columns = [get_column(data, key, 'texts') for key in self.source]
        texts = [': '.join(filter(None, parts)) for parts in zip(*columns, strict=True)]
        return [[text] if text else [] for text in texts]

    def digest(self, item: str) -> str:
        return hashlib.sha256(item.encode('utf-8', 'surrogatepass')).hexdigest()

    def encode_new(self, data: HeteroData, item: str) -> Tensor:
        if hasattr(self._encoder, 'encode_new'):  # It learned from the texts of the graph.
            texts = [text for items in self.contents(data) for text in items]
            return self._encoder.encode_new(texts, [item])
        return super().encode_new(data, item)

    def encode_all(self, items: List[str], name: Callable[[int], str]) -> Tuple[Tensor, Tensor]:
        if getattr(self._encoder, 'cache_key', None) is not None:
            return super().encode_all(items, name)
        return self.encode(items), torch.ones(len(items), dtype=torch.bool)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.encoder!r}, source={self.source}, '
                f'modality={self.modality!r})')
