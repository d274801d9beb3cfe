r"""Texts of the entities as a modality."""
from typing import Callable, List, Optional, Sequence, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import set_modality
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.transforms.text_encoders import HashTextEncoder, MiniLMEncoder

TextEncoder = Callable[[Sequence[str]], Tensor]

#: The encoders that have a name.
ENCODERS = {'hash': HashTextEncoder, 'minilm': MiniLMEncoder}


class EncodeText(BaseTransform):
    r"""Encodes texts of the entities into one modality with its mask.

    Args:
        encoder (str or callable, optional): Takes a list of :math:`n` texts and returns a tensor
            :math:`(n, C)`; or ``'hash'`` (:class:`HashTextEncoder`, light-weight, any script) or
            ``'minilm'`` (:class:`MiniLMEncoder`, English). (default: :obj:`'hash'`)
        source (str or Sequence[str], optional): The attributes of ``data['entity']`` that hold
            the texts, each a list with :obj:`None` or an empty text where there is none. Those
            that an entity has are joined by ``': '``; an entity with none of them lacks the
            modality. (default: :obj:`'label'`)
        modality (str, optional): The name of the modality. (default: :obj:`'text'`)

    Raises:
        ValueError: If the encoder is unknown or returns another shape, or a source is missing.
    """
    def __init__(self, encoder: Union[str, TextEncoder] = 'hash',
                 source: Union[str, Sequence[str]] = 'label', modality: str = 'text'):
        if isinstance(encoder, str) and encoder not in ENCODERS:
            raise ValueError(f'Unknown encoder {encoder!r} (expected a callable or one of '
                             f'{sorted(ENCODERS)})')
        self.encoder = encoder
        self.source = [source] if isinstance(source, str) else list(source)
        self.modality = modality

    def forward(self, data: HeteroData) -> HeteroData:
        texts = self._texts(data)
        mask = torch.tensor([text is not None for text in texts], dtype=torch.bool)
        encoder = ENCODERS[self.encoder]() if isinstance(self.encoder, str) else self.encoder
        present = [text for text in texts if text is not None]
        encoded = encoder(present)
        if not isinstance(encoded, Tensor) or encoded.dim() != 2 or len(encoded) != len(present):
            found = list(encoded.shape) if isinstance(encoded, Tensor) else type(encoded).__name__
            raise ValueError(f'The encoder {encoder} needs to return a tensor of shape '
                             f'[{len(present)}, channels] (got {found})')
        x = torch.zeros(len(texts), encoded.size(1))
        x[mask] = encoded.detach().float().cpu()
        set_modality(data, self.modality, x, mask)
        return data

    def _texts(self, data: HeteroData) -> List[Optional[str]]:
        store = data['entity']
        columns = []
        for key in self.source:
            if key not in store or isinstance(store[key], (Tensor, str)):
                raise ValueError(f"data['entity'] has no texts {key!r} (expected one of "
                                 f'{_text_keys(data)})')
            if len(store[key]) != store.num_nodes:
                raise ValueError(f'{key!r} needs one text for each of {store.num_nodes} entities '
                                 f'(got {len(store[key])})')
            columns.append(store[key])
        return [': '.join(filter(None, parts)) or None for parts in zip(*columns, strict=True)]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.encoder!r}, source={self.source}, '
                f'modality={self.modality!r})')


def _text_keys(data: HeteroData) -> List[str]:
    store = data['entity']
    return sorted(key for key, value in store.items() if isinstance(value, (Labels, list, tuple)))
