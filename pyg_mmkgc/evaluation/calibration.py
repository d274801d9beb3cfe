r"""Scores as probabilities: the temperature, and how far they can be relied on."""
import math
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import EDGE, TripleIndex, build_index, get_triples, seen_entities, split_names
from pyg_mmkgc.evaluation.evaluator import _as_scorer, _candidates, _device, _evaluating
from pyg_mmkgc.evaluation.ranking import MAX_BATCH_SIZE_CPU, Scorer

#: Stands for a score of minus infinity, which times a probability of zero would be NaN.
LOWEST = -1e30
#: Most scores held at once, as far as this leaves some queries.
MAX_ELEMENTS, MIN_QUERIES = 2**26, 64
#: Temperatures that are looked at, and how often the range is halved (on a log scale).
BOUNDS, HALVINGS = (1e-4, 1e4), 40


@dataclass(frozen=True)
class Reliability:
    r"""How often the best answer is right, among queries of similar confidence.

    Args:
        confidence (List[float]): The mean probability of the best answer in each bin.
        accuracy (List[float]): How often it was right.
        count (List[int]): The queries in each bin; bins without any are left out.
    """
    confidence: List[float]
    accuracy: List[float]
    count: List[int]

    @property
    def ece(self) -> float:
        r"""The expected calibration error :math:`\sum_b \frac{n_b}{Q} |a_b - c_b|`."""
        return sum(n * abs(a - c) for c, a, n in zip(
            self.confidence, self.accuracy, self.count, strict=True)) / sum(self.count)

    def to_dict(self) -> Dict[str, Any]:
        r"""All of it, ready for JSON."""
        return {'ece': self.ece, 'confidence': self.confidence, 'accuracy': self.accuracy,
                'count': self.count}


@torch.no_grad()
def fit_temperature(model: Any, data: HeteroData, split: str = 'val', *,
                    candidates: Optional[str] = None, max_queries: int = 2048,
                    seed: int = 0) -> float:
    r"""The temperature :math:`T` under which the answers of a split are most likely, as in `"On
    Calibration of Modern Neural Networks" <https://arxiv.org/abs/1706.04599>`_:

    .. math::
        p(t \mid h, r) = \frac{\exp(s_t / T)}{\sum_{c \in \mathcal C} \exp(s_c / T)}, \qquad
        T = \arg\max_T \sum_{(h, r, t)} \log p(t \mid h, r) .

    The setting is *filtered*: :math:`\mathcal C` holds the candidates but the other answers to
    :math:`(h, r)` that train, validation or the split itself know. So a probability is that of
    the answer to be the missing one, given that there is exactly one; no other split is
    looked at. Queries are both sides of each triple. The likelihood is concave in :math:`1 / T`;
    its one maximum is found by bisection, up to the bounds :data:`BOUNDS`.

    Args:
        model (KGModel): A model that was built for :obj:`data`.
        data (HeteroData): The graph.
        split (str, optional): A split that the model was not fitted to.
            (default: :obj:`"val"`)
        candidates (str, optional): ``'seen'`` or ``'all'``, see :func:`evaluate`.
            (default: as there)
        max_queries (int, optional): Of more queries, a seeded sample is taken; it is smaller
            where entities are very many. (default: :obj:`2048`)
        seed (int, optional): The seed of the sample. (default: :obj:`0`)

    Raises:
        ValueError: If the split is unknown or :obj:`candidates` is invalid.
    """
    parts = list(_scores(model, data, split, candidates, max_queries, seed))
    low, high = (math.log(bound) for bound in BOUNDS)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        slope = 0.0  # Of the likelihood in 1 / T: falls, and so rises in T.
        for scores, own in parts:
            mean = ((scores / math.exp(middle)).softmax(dim=1) * scores).sum(dim=1)
            slope += float((own - mean).double().sum())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp((low + high) / 2)


@torch.no_grad()
def reliability(model: Any, data: HeteroData, split: str, temperature: float = 1.0, *,
                candidates: Optional[str] = None, num_bins: int = 15, max_queries: int = 2048,
                seed: int = 0) -> Reliability:
    r"""Compare the probability of the best answer with how often it is right, in bins of equal
    width, in the setting of :func:`fit_temperature`. Of several best answers each counts its share.

    Args:
        model (KGModel): A model that was built for :obj:`data`.
        data (HeteroData): The graph.
        split (str): The split.
        temperature (float, optional): :math:`T`. (default: :obj:`1.0`)
        candidates (str, optional): See :func:`fit_temperature`. (default: as there)
        num_bins (int, optional): The number of bins. (default: :obj:`15`)
        max_queries (int, optional): See :func:`fit_temperature`. (default: :obj:`2048`)
        seed (int, optional): The seed of the sample. (default: :obj:`0`)

    Raises:
        ValueError: If the temperature or the number of bins is not positive, the split is unknown
            or :obj:`candidates` is invalid.
    """
    _check_temperature(temperature)
    if num_bins < 1:
        raise ValueError(f"'num_bins' needs to be at least 1 (got {num_bins})")
    confidence, right = [], []
    for scores, own in _scores(model, data, split, candidates, max_queries, seed):
        best = scores.amax(dim=1)
        confidence.append((best / temperature - (scores / temperature).logsumexp(dim=1)).exp())
        right.append((own == best) / (scores == best.unsqueeze(1)).sum(dim=1))
    share, hit = torch.cat(confidence).double().cpu(), torch.cat(right).double().cpu()
    index = (share * num_bins).long().clamp(max=num_bins - 1)
    count = torch.bincount(index, minlength=num_bins)
    kept = count > 0
    mean = [torch.bincount(index, x, num_bins)[kept] / count[kept] for x in (share, hit)]
    return Reliability(mean[0].tolist(), mean[1].tolist(), count[kept].tolist())


@torch.no_grad()
def log_probability(scorer: Scorer, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                    known: TripleIndex, *, num_entities: int, temperature: float = 1.0,
                    candidates: Optional[Tensor] = None) -> Tensor:
    r"""The logarithm of the filtered probability (see :func:`fit_temperature`) of each answer.

    Args:
        scorer (Scorer): Scores ranges of entities for a batch of queries.
        head_index (torch.Tensor): The entity of each query, :math:`(Q)`.
        rel_type (torch.Tensor): The relation of each query, inverse ones included, :math:`(Q)`.
        tail_index (torch.Tensor): The answer to each query, :math:`(Q)`.
        known (TripleIndex): The triples that are filtered out. It may hold the answers.
        num_entities (int): The number of entities.
        temperature (float, optional): :math:`T`. (default: :obj:`1.0`)
        candidates (torch.Tensor, optional): Which entities are candidates, boolean :math:`(N)`.
            (default: :obj:`None`, all entities)

    Raises:
        ValueError: If the temperature is not positive.
    """
    _check_temperature(temperature)
    parts = [head_index.new_empty(0, dtype=torch.float)]
    for scores, own in filtered_scores(scorer, head_index, rel_type, tail_index, known,
                                       num_entities, candidates):
        parts.append(own / temperature - (scores / temperature).logsumexp(dim=1))
    return torch.cat(parts)


def filtered_scores(scorer: Scorer, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
                    known: TripleIndex, num_entities: int, candidates: Optional[Tensor] = None,
                    ) -> Iterator[Tuple[Tensor, Tensor]]:
    r"""For each batch of queries, the scores :math:`(B, N)` of all entities, :data:`LOWEST` where
    one is no candidate or another known answer, and those of the answers :math:`(B)`. The arguments
    are those of :func:`log_probability`."""
    size = max(1, min(MAX_BATCH_SIZE_CPU, MAX_ELEMENTS // num_entities))
    known = known.to(head_index.device)
    for h, r, t in zip(*(x.split(size) for x in (head_index, rel_type, tail_index)), strict=True):
        scores = scorer(h, r, 0, num_entities).float()
        own = scores.gather(1, t.unsqueeze(1))
        if candidates is not None:
            scores = scores.masked_fill(~candidates.to(scores.device), LOWEST)
        scores = scores.index_put(known.answers(h, r), scores.new_tensor(LOWEST))
        yield scores.scatter(1, t.unsqueeze(1), own), own.squeeze(1)


def known_splits(data: HeteroData, split: str) -> List[str]:
    r"""The splits that a question of a split is filtered by: train, validation and itself."""
    return [name for name in split_names(data) if name in ('train', 'val', split)]


def _scores(model: Any, data: HeteroData, split: str, candidates: Optional[str], max_queries: int,
            seed: int) -> Iterator[Tuple[Tensor, Tensor]]:
    triples, seen = get_triples(data, split), seen_entities(data)
    candidates = _candidates(data, split, candidates, seen, triples)
    device = _device(model) or triples[0].device
    head_index, rel_type, tail_index = (x.to(device) for x in triples)
    queries = torch.stack([
        torch.cat([head_index, tail_index]),
        torch.cat([rel_type, rel_type + data[EDGE].num_relations]),
        torch.cat([tail_index, head_index])
    ])
    order = torch.randperm(queries.size(1), generator=torch.Generator().manual_seed(seed))
    num_entities = data['entity'].num_nodes
    size = min(max_queries, max(MIN_QUERIES, MAX_ELEMENTS // num_entities))
    head_index, rel_type, tail_index = queries[:, order[:size].to(device)]
    with _evaluating(model):
        yield from filtered_scores(
            _as_scorer(model), head_index, rel_type, tail_index,
            build_index(data, known_splits(data, split)), num_entities,
            seen if candidates == 'seen' else None)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"'temperature' needs to be positive (got {temperature})")
