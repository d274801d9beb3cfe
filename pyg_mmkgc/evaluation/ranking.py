r"""The rank of each answer among all entities, found by counting."""
from dataclasses import dataclass
from typing import Any, List, Optional, Protocol, Sequence, Tuple

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.data.share import bounds
from pyg_mmkgc.data.triples import check_ids

#: More queries in a batch than this gain nothing, and models may hold more than scores per query.
MAX_BATCH_SIZE = 1024
#: The same on a CPU, where the memory of more scores would be returned to the system each time.
MAX_BATCH_SIZE_CPU = 256
#: Comparisons in a block, so that they stay in the cache of a CPU.
BLOCK = 2**18


class Scorer(Protocol):
    r"""All that the evaluation asks of a model: scores of a range of candidates."""
    def __call__(self, head_index: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
        r"""Scores ``[B, stop - start]`` of the entities from :obj:`start` to :obj:`stop`
        (exclusive) as answers to the queries :math:`(h, r, ?)`, higher is better.

        Inverse relations :math:`r + R` have to be understood: they ask for heads.
        """
        ...


@dataclass(frozen=True)
class Ranks:
    r"""Ranks of the answers to :math:`Q` queries, one-based, on the CPU.

    Args:
        optimistic (torch.Tensor): One plus the candidates that score higher, :math:`(Q)`.
        pessimistic (torch.Tensor): The same plus the other candidates that tie, :math:`(Q)`.
        num_candidates (torch.Tensor): The candidates that are left after filtering, the
            answer included, :math:`(Q)`.
    """
    optimistic: Tensor
    pessimistic: Tensor
    num_candidates: Tensor

    @property
    def rank(self) -> Tensor:
        r"""The realistic rank, the mean of optimistic and pessimistic, as ``float64``."""
        return (self.optimistic + self.pessimistic).double() / 2

    @classmethod
    def cat(cls, parts: Sequence['Ranks']) -> 'Ranks':
        r"""Join the ranks of several sets of queries."""
        return cls(torch.cat([part.optimistic for part in parts]),
                   torch.cat([part.pessimistic for part in parts]),
                   torch.cat([part.num_candidates for part in parts]))

    def __getitem__(self, index: Any) -> 'Ranks':
        return Ranks(self.optimistic[index], self.pessimistic[index], self.num_candidates[index])

    def __len__(self) -> int:
        return self.optimistic.numel()

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({len(self)})'


@torch.no_grad()
def rank(
    scorer: Scorer,
    head_index: Tensor,
    rel_type: Tensor,
    tail_index: Tensor,
    known: TripleIndex,
    *,
    num_entities: int,
    candidates: Optional[Tensor] = None,
    batch_size: Optional[int] = None,
    chunk_size: Optional[int] = None,
    max_elements: int = 2**26,
    log: bool = False,
    process_group: Optional[Any] = None,
) -> Ranks:
    r"""Filtered, realistic, one-based ranks of the tails of :math:`(h, r, ?)`.

    .. math::
        \mathrm{rank} = 1 + |\{c \in \mathcal C : s_c > s_t\}|
        + \tfrac12 |\{c \in \mathcal C : s_c = s_t\}|

    The candidates :math:`\mathcal C` are the entities in :obj:`candidates` without the answer
    :math:`t` and without all other known answers of :math:`(h, r)`. Both numbers are counted
    over whole chunks of entities, from which the counts of the known answers are subtracted;
    nothing is sorted and no mask matrix is built. The answer's score is taken from the product
    that also scores the candidates, so that equal scores are equal bit by bit.

    Heads are ranked by the same function, since they are the tails of the inverse relation:
    ``rank(scorer, tail_index, rel_type + num_relations, head_index, ...)``.

    Args:
        scorer (Scorer): Scores ranges of entities for a batch of queries, the same each time
            it is asked.
        head_index (torch.Tensor): The entity of each query, :math:`(Q)`.
        rel_type (torch.Tensor): The relation of each query, inverse ones included, :math:`(Q)`.
        tail_index (torch.Tensor): The answer to each query, :math:`(Q)`.
        known (TripleIndex): The triples that are filtered out. It may hold the ranked ones.
        num_entities (int): The number of entities :math:`N`.
        candidates (torch.Tensor, optional): Which entities are candidates, boolean
            :math:`(N)`. The answer counts as a candidate of its own query even if it is
            outside. (default: :obj:`None`, all entities)
        batch_size (int, optional): Queries scored at once (default: as many as
            :obj:`max_elements` allows, at most 1,024, or 256 on a CPU).
        chunk_size (int, optional): Entities scored at once (default: all of them, at most
            :obj:`max_elements`). With several chunks, chunks that hold an answer of the batch
            may be scored twice.
        max_elements (int, optional): Largest number of scores held at once, from which
            the default sizes follow. (default: :obj:`2**26`, 256 MiB of ``float32``)
        log (bool, optional): If set to :obj:`True`, will show a progress bar.
            (default: :obj:`False`)
        process_group (torch.distributed.ProcessGroup, optional): Processes that share the
            candidates: each scores an equal range of them for all queries, and the counts are
            added up. All have to call this, with the same queries. (default: :obj:`None`)

    Returns:
        Ranks: On the CPU, in the order of the queries. They do not depend on
        :obj:`batch_size` and :obj:`chunk_size` except where floating-point scores do.

    Raises:
        ValueError: If ids, shapes or sizes are invalid, or if any score is NaN (one that
            cannot be compared would count as a bad candidate, and flatter the answer).
    """
    _check_queries(head_index, rel_type, tail_index, known, num_entities)
    head_index, rel_type, tail_index = head_index.long(), rel_type.long(), tail_index.long()
    if candidates is None:
        candidates = torch.ones(num_entities, dtype=torch.bool)
    if candidates.dtype != torch.bool or candidates.shape != (num_entities, ):
        raise ValueError(f"'candidates' needs to be boolean of shape [{num_entities}] "
                         f'(got {candidates.dtype}, {list(candidates.shape)})')
    for name, size in [('batch_size', batch_size), ('chunk_size', chunk_size),
                       ('max_elements', max_elements)]:
        if size is not None and size < 1:
            raise ValueError(f'{name!r} needs to be at least 1 (got {size})')
    chunk_size = min(chunk_size or max_elements, num_entities)
    if process_group is not None:  # The same in all processes, and so are batches.
        chunk_size = min(chunk_size, -(-num_entities // dist.get_world_size(process_group)))
    starts, chunks = _chunks(num_entities, chunk_size, process_group)
    device = head_index.device
    most = MAX_BATCH_SIZE_CPU if device.type == 'cpu' else MAX_BATCH_SIZE
    batch_size = batch_size or min(max(max_elements // chunk_size, 1), most)
    known, candidates = known.to(device), candidates.to(device)
    # Neighbours in this order have their answers in the same chunk, so that one chunk is enough
    # to find the scores of a batch's answers, and share relations, of which a scorer may profit:
    place = torch.bucketize(tail_index.contiguous(), starts.to(device), right=True) - 1
    number = place % len(chunks)
    order = torch.argsort(number * (2 * known.num_relations) + rel_type, stable=True)
    counts = torch.empty(3, head_index.numel(), dtype=torch.long, device=device)
    with tqdm(total=head_index.numel(), disable=not log, desc='Ranking', leave=False) as bar:
        for start in range(0, order.numel(), batch_size):
            batch = order[start:start + batch_size]
            counts[:, batch] = _count(scorer, head_index[batch], rel_type[batch],
                                      tail_index[batch], known, candidates, chunks, number[batch],
                                      process_group)
            bar.update(batch.numel())

    above, ties, num_others = counts.cpu().unbind(0)
    return Ranks(1 + above, 1 + above + ties, 1 + num_others)


def _check_queries(head_index: Tensor, rel_type: Tensor, tail_index: Tensor, known: TripleIndex,
                   num_entities: int) -> None:
    if head_index.dim() != 1 or not head_index.shape == rel_type.shape == tail_index.shape:
        raise ValueError(f"'head_index', 'rel_type' and 'tail_index' need to be vectors of one "
                         f'size (got {list(head_index.shape)}, {list(rel_type.shape)}, '
                         f'{list(tail_index.shape)})')
    if known.num_entities != num_entities:
        raise ValueError(f"'known' is an index over {known.num_entities} entities "
                         f'(expected {num_entities})')
    check_ids('head_index', head_index, num_entities)
    check_ids('rel_type', rel_type, 2 * known.num_relations)
    check_ids('tail_index', tail_index, num_entities)


def _chunks(num_entities: int, chunk_size: int,
            process_group: Optional[Any]) -> Tuple[Tensor, Sequence[Tuple[int, int]]]:
    r"""The starts of the chunks of all processes, and the chunks of this one. Each has as many as
    the others, since they score at the same time."""
    if process_group is None:
        starts = torch.arange(0, num_entities, chunk_size)
        return starts, [(start, min(start + chunk_size, num_entities))
                        for start in starts.tolist()]
    size = dist.get_world_size(process_group)
    if size > num_entities:
        raise ValueError(f"'process_group' has {size} processes for {num_entities} entities")
    shares = bounds(0, num_entities, size)
    sizes = [stop - start for start, stop in shares]
    num_chunks = min(-(-max(sizes) // chunk_size), min(sizes))  # No chunk is empty.
    parts = [bounds(start, stop, num_chunks) for start, stop in shares]
    return (torch.tensor([start for part in parts for start, _ in part]),
            parts[dist.get_rank(process_group)])


def _count(scorer: Scorer, head_index: Tensor, rel_type: Tensor, tail_index: Tensor,
           known: TripleIndex, candidates: Tensor, chunks: Sequence[Tuple[int, int]],
           number: Tensor, process_group: Optional[Any]) -> Tensor:
    r"""Of the other candidates of each query: how many are above the answer, how many tie with
    it, and how many there are, ``[3, B]``.

    The answer of a query is in the chunk of this number, of this process or another one.
    """
    def score(chunk: int) -> Tensor:
        start, stop = chunks[chunk]
        scores = scorer(head_index, rel_type, start, stop)  # [B, stop - start]
        if scores.shape != (head_index.numel(), stop - start):
            raise ValueError(f'The scorer returned shape {list(scores.shape)} for '
                             f'{head_index.numel()} queries and the entities {start} to {stop} '
                             f'(expected {[head_index.numel(), stop - start]})')
        return scores

    def pick(scores: Tensor, chunk: int) -> Tuple[Tensor, Tensor]:
        column = tail_index - chunks[chunk][0]
        inside = (column >= 0) & (column < scores.size(1))
        return inside, scores.gather(1, column.clamp(0, scores.size(1) - 1).unsqueeze(-1))

    # Pass 1: the score of each answer, from the chunk that it is in.
    first, last = int(number.min()), int(number.max())
    scores = score(first)
    answer = scores.new_zeros(head_index.numel(), 1)
    for chunk in range(first, last + 1):
        if chunk != first:
            del scores  # Never two chunks in memory.
            scores = score(chunk)
        inside, picked = pick(scores, chunk)
        answer = torch.where(inside.unsqueeze(-1), picked, answer)
    if process_group is not None:  # Zero in all processes but one.
        dist.all_reduce(answer, group=process_group)

    # Pass 2: the counts. It starts with the chunk that is still at hand, so that a single chunk
    # is scored once.
    counts = torch.zeros(3, head_index.numel(), dtype=torch.long, device=head_index.device)
    has_nan = torch.zeros_like(head_index, dtype=torch.bool)
    blocks = _blocks_of_answers(known, head_index, rel_type)
    for chunk in [last, *range(last), *range(last + 1, len(chunks))]:
        if chunk != last:
            del scores
            scores = score(chunk)
        start, stop = chunks[chunk]
        has_nan |= scores.amax(dim=-1).isnan()  # The maximum carries NaN on.

        is_candidate = candidates[start:stop]  # [stop - start]
        counts[:2] += _compare(scores, answer, is_candidate)
        counts[2] += is_candidate.sum()

        # Known answers leave, one row for each; the answer itself is among them if it is known.
        for rows in blocks:
            row, entity = _answers_between(known, head_index[rows], rel_type[rows], start, stop)
            row += rows.start
            leaves = candidates[entity] & (entity != tail_index[row])
            known_score, own_score = scores[row, entity - start], answer[row, 0]
            counts.index_add_(1, row, -torch.stack([(known_score > own_score) & leaves,
                                                    (known_score == own_score) & leaves,
                                                    leaves]).long())

        # The answer leaves by what it was counted as, which is a tie unless the scorer is not
        # deterministic, so that no rank can fall below one.
        inside, picked = pick(scores, chunk)
        leaves = candidates[tail_index] & inside
        counts -= torch.stack([(picked > answer).squeeze(-1) & leaves,
                               (picked == answer).squeeze(-1) & leaves,
                               leaves]).long()

    if process_group is not None:
        counts = torch.cat([counts, has_nan.long().unsqueeze(0)])
        dist.all_reduce(counts, group=process_group)
        counts, has_nan = counts[:3], counts[3] > 0
    if bool(has_nan.any()):
        query = int(has_nan.nonzero()[0, 0])
        raise ValueError(f'{int(has_nan.sum())} of {has_nan.numel()} queries in a batch have NaN '
                         f'scores (first: head {int(head_index[query])}, relation '
                         f'{int(rel_type[query])})')
    return counts


def _compare(scores: Tensor, answer: Tensor, is_candidate: Tensor) -> Tensor:
    r"""How many candidates of each row are above the answer, and how many tie with it, ``[2, B]``.

    On a CPU, a comparison whose result has the type of the scores takes a quarter of the time of
    one that returns booleans.
    """
    rows = scores.size(0)
    if scores.device.type == 'cpu':
        rows = max(1, BLOCK // scores.size(1))
    weight = is_candidate.to(scores.dtype)
    parts = []
    for block, own in zip(scores.split(rows), answer.split(rows), strict=True):
        hit = torch.empty_like(block, memory_format=torch.contiguous_format)
        parts.append(torch.stack([_sum_rows(torch.gt(block, own, out=hit).mul_(weight)),
                                  _sum_rows(torch.eq(block, own, out=hit).mul_(weight))]))
    return torch.cat(parts, dim=1)


def _sum_rows(hit: Tensor) -> Tensor:
    r"""The number of ones in each row, added up in blocks that are short enough to be exact in
    half precision."""
    num_blocks = hit.size(1) // 128
    blocks, rest = hit[:, :num_blocks * 128], hit[:, num_blocks * 128:]
    blocks = blocks.unflatten(1, (num_blocks, 128)).sum(dim=-1)
    return blocks.sum(dim=-1, dtype=torch.long) + rest.sum(dim=-1, dtype=torch.long)


def _blocks_of_answers(known: TripleIndex, head_index: Tensor, rel_type: Tensor) -> List[slice]:
    r"""Consecutive queries that have at most :obj:`BLOCK` known answers together, if none has more
    than half of that: in a batch, many may ask the same of a hub."""
    lower, upper = known.bounds(head_index, rel_type)
    block = (upper - lower).cumsum(0) // max(1, BLOCK // 2)
    ends = block.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]


def _answers_between(known: TripleIndex, head_index: Tensor, rel_type: Tensor, start: int,
                     stop: int) -> Tuple[Tensor, Tensor]:
    r"""Row and entity of the known answers within a range of entities.

    As :meth:`TripleIndex.answers`, but a query with very many answers takes no more memory
    than its chunk of scores does.
    """
    first = (rel_type * known.num_entities + head_index) * known.num_entities
    lower = torch.searchsorted(known.keys, first + start)
    count = torch.searchsorted(known.keys, first + stop) - lower
    row = torch.repeat_interleave(torch.arange(count.numel(), device=count.device), count)
    offset = count.cumsum(0) - count
    position = torch.arange(row.numel(), device=row.device) - offset[row] + lower[row]
    return row, known.keys[position] - first[row]
