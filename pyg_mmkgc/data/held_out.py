r"""Triples to choose by where the published ones are spent."""
import copy
from typing import Sequence

import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import build_index, get_triples, set_triples
from pyg_mmkgc.data.splits import SPENT, clean_splits, spare_triples


def is_spent(data: HeteroData, split: str) -> bool:
    r"""Whether more than half of a split's distinct triples stand in train, so that a model chosen
    by them is one that remembers.

    Args:
        data (HeteroData): The graph.
        split (str): The split.
    """
    if split == 'train':
        return False
    known = torch.isin(build_index(data, [split]).keys, build_index(data, ['train']).keys)
    return float(known.float().mean()) > 1 - SPENT


def hold_out(data: HeteroData, share: float = 0.05, seed: int = 0,
             splits: Sequence[str] = ('val', )) -> HeteroData:
    r"""A graph in which a seeded part of train takes the place of other splits. No entity and no
    relation leaves train with it; repeats do.

    Args:
        data (HeteroData): The graph; not changed.
        share (float, optional): The share of the training triples. (default: :obj:`0.05`)
        seed (int, optional): The seed. (default: :obj:`0`)
        splits (Sequence[str], optional): The splits that the part stands for.
            (default: :obj:`('val', )`)

    Raises:
        ValueError: If no triple can be spared.
    """
    triples = torch.stack(get_triples(data, 'train'), dim=1).cpu()
    triples = clean_splits({'train': triples})['train']  # A repeat would give the other away.
    spare = spare_triples(triples, seed)[:max(1, round(share * len(triples)))].sort().values
    if spare.numel() == 0:
        raise ValueError(f'none of the {len(triples)} training triples can be held out such that '
                         f'each entity and relation stays in train')
    kept = torch.ones(len(triples), dtype=torch.bool)
    kept[spare] = False
    out = copy.copy(data)
    set_triples(out, 'train', triples[kept])
    for split in splits:
        set_triples(out, split, triples[spare])
    return out
