from difflib import get_close_matches
from typing import List, Optional, Sequence

from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import modality_names


class SelectModalities(BaseTransform):
    r"""Keeps some modalities and removes all others, with their masks.

    Args:
        modalities (Sequence[str]): The modalities to keep; may be empty.

    Raises:
        ValueError: If the graph lacks a modality.
    """
    def __init__(self, modalities: Sequence[str]):
        self.modalities = list(modalities)

    def forward(self, data: HeteroData) -> HeteroData:
        kept = chosen_modalities(data, self.modalities)
        for m in modality_names(data):
            if m not in kept:
                del data['entity'][m]
                del data['entity'][f'{m}_mask']
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.modalities})'


def chosen_modalities(data: HeteroData, modalities: Optional[Sequence[str]]) -> List[str]:
    r"""The modalities that an argument stands for.

    Args:
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): Their names, or :obj:`None` for all there are.

    Raises:
        ValueError: If the graph lacks one.
    """
    names = modality_names(data)
    for m in modalities or []:
        if m not in names:
            close = get_close_matches(str(m), names, n=1)
            hint = f'did you mean {close[0]!r}? ' if close else ''
            raise ValueError(f'Unknown modality {m!r} ({hint}expected some of {names})')
    return names if modalities is None else list(modalities)
