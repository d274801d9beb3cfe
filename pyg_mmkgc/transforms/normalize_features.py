from typing import Optional, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import seen_entities, set_modality
from pyg_mmkgc.transforms.select_modalities import chosen_modalities

MODES = ('l2', 'standard')


class NormalizeFeatures(BaseTransform):
    r"""Scales the features of modalities, each on its own.

    - ``'l2'``: each row to length one, :math:`\mathbf{x} / \lVert \mathbf{x} \rVert_2`; a row
      of zeros stays.
    - ``'standard'``: each column to :math:`(x - \mu)/\sigma`, with mean and (population) standard
      deviation over the training entities that have the modality. A column that is constant
      over them becomes zero.

    Rows of entities that lack the modality stay zero.

    Args:
        modalities (Sequence[str], optional): The modalities. (default: all there are)
        mode (str, optional): ``'l2'`` or ``'standard'``. (default: :obj:`'l2'`)

    Raises:
        ValueError: If the mode is unknown, the graph lacks a modality, or no training entity
            has it, so that there are no statistics.
    """
    def __init__(self, modalities: Optional[Sequence[str]] = None, mode: str = 'l2'):
        if mode not in MODES:
            raise ValueError(f'Unknown mode {mode!r} (expected one of {list(MODES)})')
        self.modalities = None if modalities is None else list(modalities)
        self.mode = mode

    def forward(self, data: HeteroData) -> HeteroData:
        for m in chosen_modalities(data, self.modalities):
            x, mask = data['entity'][m], data['entity'][f'{m}_mask']
            if self.mode == 'l2':
                x = torch.nn.functional.normalize(x, dim=-1)
            else:
                known = x[training_rows(data, m)].double()
                mean, std = known.mean(dim=0), known.std(dim=0, correction=0)
                # A constant column says nothing; rounding may make its deviation not quite zero.
                constant = (known == known[:1]).all(dim=0)
                x = ((x - mean) / std.masked_fill(constant, torch.inf)).to(x.dtype)
            set_modality(data, m, x, mask)
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(modalities={self.modalities}, mode={self.mode!r})'


def training_rows(data: HeteroData, modality: str) -> Tensor:
    r"""The entities that statistics of a modality are taken from, boolean ``[N]``: those that have
    it and occur in a training triple.

    Args:
        data (HeteroData): The graph.
        modality (str): The modality.

    Raises:
        ValueError: If there is none.
    """
    mask = data['entity'][f'{modality}_mask']
    mask = mask & seen_entities(data).to(mask.device)
    if not bool(mask.any()):
        raise ValueError(f'No training entity has the modality {modality!r} (expected at least '
                         f'one to take statistics from)')
    return mask
