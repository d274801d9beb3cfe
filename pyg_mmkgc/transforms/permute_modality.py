from typing import Optional, Sequence

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.transforms.select_modalities import chosen_modalities


class PermuteModality(BaseTransform):
    r"""Deals the features of a modality out anew among the entities that have it.

    The control of every claim that a modality helps: coverage and all statistics stay as they are,
    only what a feature says about *its* entity is destroyed.

    Args:
        modalities (Sequence[str], optional): The modalities; all are permuted independently.
            (default: all there are)
        seed (int, optional): The seed of the permutations. (default: :obj:`0`)

    Raises:
        ValueError: If the graph lacks a modality.
    """
    def __init__(self, modalities: Optional[Sequence[str]] = None, seed: int = 0):
        self.modalities = None if modalities is None else list(modalities)
        self.seed = seed

    def forward(self, data: HeteroData) -> HeteroData:
        generator = torch.Generator().manual_seed(self.seed)
        for m in chosen_modalities(data, self.modalities):
            x, mask = data['entity'][m], data['entity'][f'{m}_mask']
            index = mask.nonzero().view(-1)
            out = x.clone()
            out[index] = x[index[torch.randperm(index.numel(), generator=generator)]]
            data['entity'][m] = out
        return data

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(modalities={self.modalities}, seed={self.seed})'
