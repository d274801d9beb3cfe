r"""What negatives a sampler draws in the course of training, and what that is worth."""
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.sampler import EGNS, Uniform
from pyg_mmkgc.studies.base import Line, Row, Study
from pyg_mmkgc.training import SAMPLERS, Fit, Recipe

NONE = 'no negatives'
#: Training triples that a probe draws negatives for, and negatives of each.
PROBED, DRAWN = 256, 32


def rows(recipe: Recipe, data: HeteroData, modalities: Optional[Sequence[str]] = None) -> List[Row]:
    r"""The recipe with each sampler, and with none where it has another loss: the same number of
    negatives per triple, and all epochs, so that cost differs by what a sampler itself takes
    (the seconds of the table, which leave probes out).

    Args:
        recipe (Recipe): The recipe.
        data (HeteroData): The graph.
        modalities (Sequence[str], optional): Unused. (default: :obj:`None`)
    """
    recipe = recipe.override({'train.patience': None})
    out = [Row(name, recipe.override({'sampler': name}), probe=probe)
           for name in sorted(SAMPLERS, key=lambda name: name != 'egns')]
    if recipe.model.get('objective') != 'sampled':
        out.append(Row(NONE, recipe.override({'sampler': None}), probe=probe))
    return out


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    r"""EGNS against every other sampler.

    Args:
        names (Sequence[str]): The names of the looks.
    """
    return [('egns', name) for name in names if name != 'egns']


@torch.no_grad()
def probe(fit: Fit) -> Dict[str, Any]:
    r"""What the sampler draws now for a fixed sample of training triples, by the model as it is:
    the shares of the :class:`~pyg_mmkgc.sampler.EGNS` classes easy, ambiguous and hard by its
    default thresholds, the mean entropy in nats, the mean probability :math:`\sigma(s)` of a
    negative, and the share of draws that are known triples. Draws of uniform negatives if the model
    has no sampler. Leaves all random numbers of the training as they are.

    Args:
        fit (Fit): The training.
    """
    model, data = fit.model, fit.data
    device = model.seen.device
    triples = torch.stack(get_triples(data, 'train'))
    chosen = torch.randperm(triples.size(1), generator=torch.Generator().manual_seed(0))[:PROBED]
    head_index, rel_type, tail_index = triples[:, chosen].to(device)
    sampler = model.neg_sampling
    if sampler is None:
        sampler = Uniform(model.num_entities, DRAWN, candidates=model.seen_index.cpu())
        sampler.to(device)
    mode = model.training
    model.eval()
    try:
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            neg_index, mask = sampler.corrupt(head_index, rel_type, tail_index)
        score = model.score_all(head_index, rel_type).float().gather(1, neg_index)[mask]
    finally:
        model.train(mode)
    reference = EGNS(model.num_entities, 1)
    classes = torch.bincount(reference.classify(score.cpu()).long(), minlength=3)
    return {'entropy_classes': (classes / classes.sum()).tolist(),
            'entropy': float(EGNS.entropy(score).mean()),
            'probability': float(score.sigmoid().mean()),
            'known': float((~mask).double().mean())}


def findings(lines: Mapping[str, Line]) -> List[str]:
    r"""Where to look.

    Args:
        lines (Mapping[str, Line]): The lines by look.
    """
    return ['Classes of the negatives drawn, epoch by epoch, are in the figure and in the history '
            'of each cell.']


NEGATIVES = Study('negatives', 'What negatives are drawn, and what that is worth', rows, pairs,
                  findings)
