import hashlib
from typing import Optional, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from pyg_mmkgc.data.hetero import seen_entities, set_modality
from pyg_mmkgc.transforms.select_modalities import chosen_modalities

WHERE = ('all', 'seen', 'unseen')


class DropModality(BaseTransform):
    r"""Takes modalities away from some of the entities that have them, at random.

    Of the :math:`n` entities that have a modality, :math:`\mathrm{round}(n \cdot rate)` lose it:
    their mask becomes false and their row zero. Under one seed, a larger rate
    drops all that a smaller one does and more, so that curves over the rate are smooth. Which
    entities lose a modality does not depend on the other modalities.

    Args:
        rate (float): The share that is dropped, from 0 to 1.
        modalities (Sequence[str], optional): The modalities. (default: all there are)
        seed (int, optional): The seed. (default: :obj:`0`)
        where (str, optional): Which entities may lose it: ``'all'``, those ``'seen'`` in a
            training triple, or those ``'unseen'``; :math:`n` counts these alone.
            (default: :obj:`'all'`)

    Raises:
        ValueError: If the rate is not in :math:`[0, 1]`, :obj:`where` is unknown or the graph
            lacks a modality.
    """
    def __init__(self, rate: float, modalities: Optional[Sequence[str]] = None, seed: int = 0,
                 where: str = 'all'):
        check_share('rate', rate)
        if where not in WHERE:
            raise ValueError(f"Unknown 'where' {where!r} (expected one of {list(WHERE)})")
        self.rate = rate
        self.modalities = None if modalities is None else list(modalities)
        self.seed = seed
        self.where = where

    def forward(self, data: HeteroData) -> HeteroData:
        for m in chosen_modalities(data, self.modalities):
            x, mask = data['entity'][m], data['entity'][f'{m}_mask'].clone()
            pool = mask
            if self.where != 'all':
                seen = seen_entities(data).to(mask.device)
                pool = mask & (seen if self.where == 'seen' else ~seen)
            mask[draw_rows(pool, self.rate, modality_generator(self.seed, m))] = False
            set_modality(data, m, x, mask)
        return data

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.rate}, modalities={self.modalities}, '
                f'seed={self.seed}, where={self.where!r})')


def check_share(name: str, value: float) -> None:
    r"""Refuse a share that is not from 0 to 1.

    Args:
        name (str): The argument.
        value (float): Its value.
    """
    if not 0 <= value <= 1:
        raise ValueError(f'{name!r} needs to be between 0 and 1 (got {value})')


def modality_generator(seed: int, modality: str) -> torch.Generator:
    r"""Random numbers of one modality, which do not depend on what other modalities there are.

    Args:
        seed (int): The seed.
        modality (str): The name of the modality.
    """
    digest = hashlib.sha256(f'{seed} {modality}'.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], 'little'))


def draw_rows(mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    r"""A random share of the rows of a mask, in random order; a smaller share is the beginning of
    a larger one.

    Args:
        mask (torch.Tensor): The rows to draw from, boolean ``[N]``.
        share (float): How much of them.
        generator (torch.Generator): Random numbers.
    """
    index = mask.nonzero().view(-1)
    order = torch.randperm(index.numel(), generator=generator).to(index.device)
    return index[order[:round(share * index.numel())]]
