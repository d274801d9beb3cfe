r"""The protocol of the Open Graph Benchmark: the true triple among given candidates."""
import sys
from typing import Any, Callable, Dict, List, Optional, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.evaluation.evaluator import _device, _evaluating

#: Triples scored at once by default.
MAX_TRIPLES = 2**17


@torch.no_grad()
def evaluate_ogb(
    model: Union[torch.nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]],
    data: HeteroData,
    split: str,
    *,
    batch_size: Optional[int] = None,
    device: Optional[torch.device] = None,
    log: bool = False,
) -> Dict[str, Any]:
    r"""Rank each triple of a split among the negatives that the benchmark gives for its head and
    for its tail, by the ``Evaluator`` of ogb.

    Unlike :func:`evaluate` it looks neither at other entities nor at known triples: these numbers
    compare with the leaderboard of the benchmark, and with no others.

    Args:
        model (torch.nn.Module or callable): Gives the scores of triples, ``model(head_index,
            rel_type, tail_index)``, each :math:`(n)`, higher is better. It has to understand
            inverse relations :math:`r + R`, as all models of this package do: heads are asked
            for as the tails of these.
        data (HeteroData): The graph of an :class:`~pyg_mmkgc.datasets.OGBDataset`.
        split (str): ``'val'`` or ``'test'``.
        batch_size (int, optional): Triples ranked at once, each with its negatives (default:
            as many as make 131,072 scores).
        device (torch.device, optional): Where triples are handed to the model (default: the
            device of the module's parameters, for others that of :obj:`data`).
        log (bool, optional): If set to :obj:`True`, will show a progress bar.
            (default: :obj:`False`)

    Returns:
        Dict[str, Any]: ``'split'``, ``'protocol'``, and for ``'both'`` sides, ``'head'`` and
        ``'tail'`` the metrics ``'mrr'``, ``'hits@1'``, ``'hits@3'``, ``'hits@10'`` (fractions of
        one) and ``'count'``, in the shape of :meth:`Evaluation.to_dict`.

    Raises:
        ValueError: If the split is unknown or has no given negatives, :obj:`batch_size` is below
            1, or scores are NaN or of another shape.
        ImportError: If ogb is not installed.
    """
    if 'ogb_name' not in data:
        raise ValueError("'data' is no graph of the Open Graph Benchmark (it has no 'ogb_name')")
    head_index, rel_type, tail_index = get_triples(data, split)
    store = data[EDGE]
    negatives = {side: store.get(f'{split}_{side}_neg') for side in ('head', 'tail')}
    for side, index in negatives.items():
        if index is None:
            raise ValueError(f"split {split!r} has no given negatives (expected "
                             f"'{split}_{side}_neg' of the edge store)")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"'batch_size' needs to be at least 1 (got {batch_size})")
    evaluator = _evaluator(data.ogb_name)
    device = device or _device(model) or rel_type.device

    metrics: Dict[str, List[Dict[str, Tensor]]] = {'head': [], 'tail': []}
    with _evaluating(model), tqdm(total=2 * rel_type.numel(), disable=not log, desc='Ranking',
                                  leave=False) as bar:
        for side, (start, relation, answer) in {
                'head': (tail_index, rel_type + store.num_relations, head_index),
                'tail': (head_index, rel_type, tail_index)}.items():
            index = negatives[side]
            size = batch_size or max(MAX_TRIPLES // (1 + index.size(1)), 1)
            for i in range(0, rel_type.numel(), size):
                candidates = torch.cat([answer[i:i + size, None], index[i:i + size]], dim=1)
                score = _score(model, start[i:i + size].to(device), relation[i:i + size].to(device),
                               candidates.long().to(device))  # [B, 1 + K]
                metrics[side].append(evaluator.eval({'y_pred_pos': score[:, 0],
                                                     'y_pred_neg': score[:, 1:]}))
                bar.update(len(score))
    return {
        'split': split,
        'protocol': {'evaluator': data.ogb_name, 'filtered': False, 'ties': 'realistic',
                     'sides': ['head', 'tail'], 'candidates': 'given',
                     'num_candidates': 1 + negatives['tail'].size(1)},
        'both': _mean(metrics['head'] + metrics['tail']),
        'head': _mean(metrics['head']),
        'tail': _mean(metrics['tail']),
    }


def _score(model: Any, start: Tensor, relation: Tensor, candidates: Tensor) -> Tensor:
    size, num_candidates = candidates.shape
    score = model(start.repeat_interleave(num_candidates), relation.repeat_interleave(
        num_candidates), candidates.view(-1))
    if score.shape != (candidates.numel(), ):
        raise ValueError(f'The model returned shape {list(score.shape)} for {candidates.numel()} '
                         f'triples (expected [{candidates.numel()}])')
    # The evaluator would take what it cannot compare for a bad candidate, which flatters.
    if bool(score.isnan().any()):
        raise ValueError(f'{int(score.isnan().sum())} of {score.numel()} scores in a batch are NaN')
    return score.view(size, num_candidates)


def _mean(parts: List[Dict[str, Tensor]]) -> Dict[str, float]:
    keys = {key: f'{key}_list' for key in ('mrr', 'hits@1', 'hits@3', 'hits@10')}
    values = {key: torch.cat([part[name].cpu() for part in parts]).double()
              for key, name in keys.items()}
    return {**{key: float(value.mean()) for key, value in values.items()},
            'count': values['mrr'].numel()}


def _evaluator(name: str) -> Any:
    # On import ogb asks the network for its newest version, in a thread without a time limit that
    # the interpreter waits for at its end. It does not where it finds no package `outdated`.
    hidden = 'outdated'
    missing = object()
    modules: Dict[str, Any] = sys.modules  # None stops an import, which typeshed does not say.
    module = modules.get(hidden, missing)
    modules[hidden] = None
    try:
        from ogb.linkproppred import Evaluator
    except ImportError as error:
        raise ImportError("'evaluate_ogb' needs ogb: pip install ogb") from error
    finally:
        if module is missing:
            del modules[hidden]
        else:
            modules[hidden] = module
    return Evaluator(name)
