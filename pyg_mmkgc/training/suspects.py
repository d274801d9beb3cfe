r"""Known triples that a model finds implausible."""
import copy
from typing import Any, Dict, List

import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, build_index, get_triples, set_triples
from pyg_mmkgc.evaluation import TriplePredictions, predict_triples
from pyg_mmkgc.training.fit import Fit
from pyg_mmkgc.training.recipe import Recipe


def suspects(data: HeteroData, found: TriplePredictions, split: str = 'train',
             top: int = 20) -> List[Dict[str, Any]]:
    r"""The triples of a split in the order of their probability, the least plausible first. What
    that is worth depends on who judged: a model has seen the triples that it was trained on, see
    :func:`cross_predict`.

    Args:
        data (HeteroData): The graph with labels.
        found (TriplePredictions): What was found of the triples of the split, in its order, see
            :meth:`~pyg_mmkgc.nn.KGModel.predict_triples`.
        split (str, optional): The split. (default: :obj:`"train"`)
        top (int, optional): The number of triples. (default: :obj:`20`)

    Returns:
        List[Dict[str, Any]]: For each triple the labels ``'head'``, ``'relation'`` and ``'tail'``,
        its ``'index'`` in the split, ``'probability'``, ``'score'``, ``'head_rank'`` and
        ``'tail_rank'``.

    Raises:
        ValueError: If :obj:`top` is below 1, the split is unknown, or the predictions are of
            another number of triples.
    """
    if top < 1:
        raise ValueError(f"'top' needs to be at least 1 (got {top})")
    head_index, rel_type, tail_index = (x.cpu() for x in get_triples(data, split))
    if found.score.numel() != rel_type.numel():
        raise ValueError(f"'found' is of {found.score.numel()} triples (expected the "
                         f'{rel_type.numel()} of split {split!r})')
    entities, relations = data['entity'].label, data[EDGE].label
    order = found.probability.argsort(stable=True)[:top].tolist()
    return [{
        'head': entities[int(head_index[i])], 'relation': relations[int(rel_type[i])],
        'tail': entities[int(tail_index[i])], 'index': i,
        **{name: float(values[i]) for name, values in found._asdict().items()},
    } for i in order]


def cross_predict(recipe: Recipe, data: HeteroData, folds: int = 5,
                  log: bool = False) -> TriplePredictions:
    r"""What models say of training triples that they were not trained on: train is split into
    parts, and each part is judged by a model that was trained on all others. It takes as many
    trainings as there are folds. An entity all of whose triples are in one part is unseen there,
    and known by its modalities only.

    Args:
        recipe (Recipe): How the models are trained; its seed also draws the parts.
        data (HeteroData): The graph; not changed.
        folds (int, optional): The number of parts. (default: :obj:`5`)
        log (bool, optional): Whether to show progress bars. (default: :obj:`False`)

    Raises:
        ValueError: If there are fewer than two parts, or more than triples.
        KeyboardInterrupt: If a training is interrupted.
    """
    triples = torch.stack(get_triples(data, 'train'), dim=1).cpu()
    # A repeat would give the other away.
    distinct, index = triples.unique(dim=0, return_inverse=True)
    if not 2 <= folds <= len(distinct):
        raise ValueError(f"'folds' needs to be from 2 to the {len(distinct)} training triples "
                         f'(got {folds})')
    config = recipe.train_config()
    generator = torch.Generator().manual_seed(config.seed)
    part = torch.randperm(len(distinct), generator=generator)[index] % folds
    rows, found = [], []
    for fold in range(folds):
        rest = copy.copy(data)
        rest.candidates = 'all'  # Some may be unseen now.
        set_triples(rest, 'train', triples[part != fold])
        fit = Fit(recipe, rest, log)
        if fit().interrupted:
            raise KeyboardInterrupt
        head_index, rel_type, tail_index = (
            triples[part == fold].to(fit.model.seen.device).unbind(1))
        rows.append((part == fold).nonzero().view(-1))
        # What is held out is known all the same, and no competitor of its neighbours.
        found.append(predict_triples(fit.model, head_index, rel_type, tail_index,
                                     build_index(data)))
    order = torch.cat(rows).argsort()
    return TriplePredictions(*(torch.cat(x)[order] for x in zip(*found, strict=True)))
