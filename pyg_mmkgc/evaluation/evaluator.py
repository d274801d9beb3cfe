r"""The evaluation protocol: which queries, which candidates, which filter, which groups."""
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.distributed as dist
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import (
    EDGE,
    RELATION_CLASSES,
    TripleIndex,
    build_index,
    get_triples,
    modality_dicts,
    relation_classes,
    seen_entities,
    split_names,
)
from pyg_mmkgc.evaluation.memory import explain_out_of_memory, keeping_memory
from pyg_mmkgc.evaluation.metrics import compute_metrics
from pyg_mmkgc.evaluation.ranking import Ranks, Scorer, rank

CANDIDATES = ('seen', 'all')
#: Largest degree of each bin but the last, and the names of the bins.
DEGREES = (0, 2, 5, 10, 20)
DEGREE_BINS = ['0', '1-2', '3-5', '6-10', '11-20', '>20']


@dataclass(frozen=True)
class Evaluation:
    r"""The ranks of one split, the protocol they were found by, and their metrics.

    Args:
        split (str): The name of the split.
        protocol (Dict[str, Any]): How the ranks were found, ready for JSON.
        ranks (Dict[str, Ranks]): The ranks of the ``'head'`` and of the ``'tail'`` of each
            triple of the split, in its order.
        groups (Dict[str, Tuple[torch.Tensor, List[str]]]): Partitions of the triples: the
            group of each triple, :math:`(T)`, and the name of each group.
    """
    split: str
    protocol: Dict[str, Any]
    ranks: Dict[str, Ranks]
    groups: Dict[str, Tuple[Tensor, List[str]]] = field(default_factory=dict)

    def metrics(self, side: str = 'both', mask: Optional[Tensor] = None) -> Dict[str, float]:
        r"""The metrics (:meth:`compute_metrics`) of ``'head'``, ``'tail'``, or of the ranks of
        ``'both'`` together, for all triples or those in :obj:`mask`, boolean or of positions.

        Raises:
            ValueError: If there is no such side.
        """
        if side not in ('both', *self.ranks):
            raise ValueError(f"Unknown side {side!r} (expected 'both', 'head' or 'tail')")
        parts = list(self.ranks.values()) if side == 'both' else [self.ranks[side]]
        if mask is not None:
            parts = [part[mask] for part in parts]
        return compute_metrics(Ranks.cat(parts))

    @property
    def mrr(self) -> float:
        r"""The mean reciprocal rank of both sides, by which checkpoints are chosen."""
        return self.metrics()['mrr']

    def to_dict(self) -> Dict[str, Any]:
        r"""Everything but the single ranks, in the shape of ``metrics.json``."""
        out: Dict[str, Any] = {'split': self.split, 'protocol': dict(self.protocol)}
        for side in ('both', 'head', 'tail'):
            out[side] = self.metrics(side)
        for key, (group, names) in self.groups.items():
            found, sizes = group.unique(return_counts=True)
            parts = group.argsort(stable=True).split(sizes.tolist())
            out[key] = {names[i]: self.metrics(mask=part)
                        for i, part in zip(found.tolist(), parts, strict=True)}
        return out

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.split!r}, mrr={self.mrr:.4f})'


@torch.no_grad()
def evaluate(
    model: Union[Scorer, Any],
    data: HeteroData,
    split: str,
    *,
    filter_splits: Optional[Sequence[str]] = None,
    candidates: Optional[str] = None,
    batch_size: Optional[int] = None,
    chunk_size: Optional[int] = None,
    device: Optional[torch.device] = None,
    log: bool = False,
    process_group: Optional[Any] = None,
) -> Evaluation:
    r"""Rank head and tail of each triple of a split by the protocol of this package: filtered,
    both sides, realistic, one-based (see :meth:`rank`). A triple that the split holds twice
    counts twice.

    Args:
        model (Scorer or object): A scorer, or an object with a method ``scorer()`` that
            returns one. A :class:`torch.nn.Module` is put into evaluation mode meanwhile.
        data (HeteroData): The graph with its splits.
        split (str): The split to rank.
        filter_splits (Sequence[str], optional): The splits whose triples leave the candidates.
            Without any, ranks are unfiltered. (default: all splits of :obj:`data`)
        candidates (str, optional): ``'all'`` entities, or those ``'seen'`` in training
            (default: ``'all'`` for a split whose name starts with ``'inductive'``, else what
            ``data.candidates`` says, else ``'all'``).
        batch_size (int, optional): Queries scored at once (default: see :meth:`rank`).
        chunk_size (int, optional): Entities scored at once (default: see :meth:`rank`).
        device (torch.device, optional): Where queries are handed to the scorer (default: the
            device of the module's parameters, for other scorers that of :obj:`data`).
        log (bool, optional): If set to :obj:`True`, will show a progress bar.
            (default: :obj:`False`)
        process_group (torch.distributed.ProcessGroup, optional): Processes that share the
            candidates, such as ``torch.distributed.group.WORLD``, see :meth:`rank`; all have to
            call this, and all get the result. ``model.scorer(part, num_parts)`` is then asked for
            the part of the process. (default: :obj:`None`, this process alone)

    Returns:
        Evaluation: Ranks and metrics, in total, by side, by relation, by relation class (one or
        many heads per tail and tails per head in training, ``'unseen'`` without any training
        triple), by whether both entities of the triple were seen in training, by the degree of
        the rarer one (training triples that name it), and by the modalities that both have.

    Raises:
        ValueError: If the split is unknown, :obj:`candidates` is invalid or ``'seen'``
            although an answer is not, or :obj:`model` is no scorer.
        MemoryError: If memory does not suffice; the message says what to lower.
    """
    triples = get_triples(data, split)
    seen = seen_entities(data)
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    candidates = _candidates(data, split, candidates, seen, triples)
    filter_splits = split_names(data) if filter_splits is None else list(filter_splits)
    none = torch.empty(0, dtype=torch.long)
    known = (build_index(data, filter_splits) if filter_splits else
             TripleIndex(none, none, none, num_entities, num_relations))

    head_index, rel_type, tail_index = (
        x.to(device or _device(model) or x.device) for x in triples)
    advice = "lower 'batch_size' or 'chunk_size', or 'hidden_channels' of the model"
    with (_evaluating(model), keeping_memory(),
          explain_out_of_memory(f'ranking split {split!r}', advice)):
        both = rank(
            _as_scorer(model, process_group),
            torch.cat([tail_index, head_index]),
            torch.cat([rel_type + num_relations, rel_type]),
            torch.cat([head_index, tail_index]),
            known,
            num_entities=num_entities,
            candidates=seen if candidates == 'seen' else None,
            batch_size=batch_size,
            chunk_size=chunk_size,
            log=log,
            process_group=process_group,
        )

    head_index, rel_type, tail_index = (x.cpu() for x in triples)
    is_unseen = ~(seen[head_index] & seen[tail_index])
    return Evaluation(
        split=split,
        protocol={
            'filtered': len(filter_splits) > 0,
            'filter_splits': filter_splits,
            'ties': 'realistic',
            'sides': ['head', 'tail'],
            'candidates': candidates,
            'num_candidates': int(seen.sum()) if candidates == 'seen' else num_entities,
        },
        ranks={'head': both[:rel_type.numel()], 'tail': both[rel_type.numel():]},
        groups={
            'by_relation': (rel_type, _relation_labels(data)),
            'by_relation_class': (relation_classes(data)[rel_type], list(RELATION_CLASSES)),
            'by_seen': (is_unseen.long(), ['seen', 'unseen']),
            'by_degree': (_degree_bins(data, head_index, tail_index), DEGREE_BINS),
            'by_modalities': _shared_modalities(data, head_index, tail_index),
        },
    )


def _candidates(data: HeteroData, split: str, candidates: Optional[str], seen: Tensor,
                triples: Tuple[Tensor, Tensor, Tensor]) -> str:
    if candidates is None and split.startswith('inductive'):
        candidates = 'all'
    source = "'candidates'" if candidates is not None else "'data.candidates'"
    if candidates is None:
        candidates = getattr(data, 'candidates', 'all')
    if candidates not in CANDIDATES:
        raise ValueError(f"{source} needs to be 'seen' or 'all' (got {candidates!r})")

    if candidates == 'seen':
        answers = torch.cat([triples[0], triples[2]]).cpu()
        unseen = answers[~seen[answers]].unique()
        if unseen.numel() > 0:
            entity = int(unseen[0])
            label = data['entity'].label[entity] if 'label' in data['entity'] else entity
            raise ValueError(f'{unseen.numel()} entities of split {split!r} are in no training '
                             f'triple and so no candidates (first: {label!r}); pass '
                             f"candidates='all' to rank over all entities")
    return candidates


def _degree_bins(data: HeteroData, head_index: Tensor, tail_index: Tensor) -> Tensor:
    degree = torch.bincount(data[EDGE].edge_index.reshape(-1).cpu(),
                            minlength=data['entity'].num_nodes)
    rarer = torch.minimum(degree[head_index], degree[tail_index])
    return torch.bucketize(rarer, torch.tensor(DEGREES))


def _shared_modalities(data: HeteroData, head_index: Tensor,
                       tail_index: Tensor) -> Tuple[Tensor, List[str]]:
    _, mask_dict = modality_dicts(data)
    code = torch.zeros_like(head_index)  # A bit for each modality.
    for i, mask in enumerate(mask_dict.values()):
        code += (mask.cpu()[head_index] & mask.cpu()[tail_index]).long() << i
    sets, group = code.unique(return_inverse=True)
    names = ['+'.join(m for i, m in enumerate(mask_dict) if value >> i & 1) or 'none'
             for value in sets.tolist()]
    return group, names


def _as_scorer(model: Any, process_group: Optional[Any] = None) -> Scorer:
    part = () if process_group is None else (dist.get_rank(process_group),
                                             dist.get_world_size(process_group))
    scorer = model.scorer(*part) if hasattr(model, 'scorer') else model
    if not callable(scorer):
        raise ValueError(f'{type(model).__name__!r} cannot be evaluated (expected a scorer '
                         f"'(head_index, rel_type, start, stop) -> scores' or an object with a "
                         f"method 'scorer()')")
    return scorer


def _device(model: Any) -> Optional[torch.device]:
    if not isinstance(model, torch.nn.Module):
        return None
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return None if tensor is None else tensor.device


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    # The mode is kept for each module, since a part may be frozen in evaluation mode on purpose.
    modes = {}
    if isinstance(model, torch.nn.Module):
        modes = {module: module.training for module in model.modules()}
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _relation_labels(data: HeteroData) -> List[str]:
    num_relations = data[EDGE].num_relations
    labels = data[EDGE].label if 'label' in data[EDGE] else list(map(str, range(num_relations)))
    count = Counter(labels)  # Relations that share a label are told apart by their ids.
    return [x if count[x] == 1 else f'{x} ({i})' for i, x in enumerate(labels)]
