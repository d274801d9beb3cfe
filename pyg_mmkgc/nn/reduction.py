r"""Losses over all candidates, without their scores in memory three times over."""
from typing import Any, Iterator, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyg_mmkgc.nn.rows import select_rows

#: Scores in a block, so that the passes over it find it in the cache of a CPU.
BLOCK = 2**18
#: Fewest candidates in a block of all queries; products with less are slow.
MIN_COLUMNS = 256
#: Answers that are looked up at once.
PIECE = 2**13
REDUCTIONS = ('logsumexp', 'softplus')

Pairs = Tuple[Tensor, Tensor]


class Answers(NamedTuple):
    r"""The known answers of queries, once for all queries that ask the same.

    Args:
        group (torch.Tensor): Which of the distinct queries each query is, :math:`(B)`.
        num_groups (int): The number of distinct queries.
        row (torch.Tensor): The distinct query of each answer, :math:`(A)`.
        entity (torch.Tensor): The answers, :math:`(A)`.
    """
    group: Tensor
    num_groups: int
    row: Tensor
    entity: Tensor


def reduce_scores(query: Tensor, table: Tensor, reduction: str, allowed: Optional[Tensor] = None,
                  pairs: Optional[Pairs] = None, mass: Union[float, Tensor] = 0.0,
                  answers: Optional[Answers] = None, answer_mass: float = 1.0,
                  bias: Optional[Tensor] = None,
                  weight: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
    r"""What a loss needs of the scores :math:`s_{ij} = \langle q_i, t_j \rangle + b` of all
    candidates.

    The softmax loss and the binary cross-entropy are both a sum over all candidates, minus the
    scores of a few:

    .. math::
        \log \sum_j e^{s_{ij}} - s_{iy} \qquad \text{and} \qquad
        \sum_j \log(1 + e^{s_{ij}}) - \sum_y s_{iy} .

    This takes three matrix products, and a few passes over one buffer :math:`(B, N)` in which
    scores are replaced by the derivative of the sum, which is all that the backward pass needs.
    Under autocast, products and buffer have its type; sums are in single precision. There are no
    second derivatives, and the graph can be walked only once.

    With :obj:`weight` the sums of all queries are one number, so that the derivative of
    ``'softplus'`` is known before the backward pass but for a factor. Unless scores are looked
    up, it is found candidates by candidates along with the sum, and no buffer is left.

    Args:
        query (torch.Tensor): Queries :math:`(B, C)`.
        table (torch.Tensor): Candidates :math:`(N, C)`.
        reduction (str): ``'logsumexp'`` or ``'softplus'``, the two sums above.
        allowed (torch.Tensor, optional): The candidates that the sum is over, boolean
            :math:`(N)`. (default: all)
        pairs (Tuple[torch.Tensor, torch.Tensor], optional): Rows and candidates :math:`(P)` whose
            scores are looked up, in any order. (default: none)
        mass (float or torch.Tensor, optional): What :math:`\sum_j s_{ij}` over the same
            candidates is subtracted with, for the label smoothing of either loss.
            (default: :obj:`0.0`)
        answers (Answers, optional): Answers, whose scores are subtracted if they are allowed. They
            are no more than a sum of candidates for each distinct query. (default: none)
        answer_mass (float, optional): What these are subtracted with. (default: :obj:`1.0`)
        bias (torch.Tensor, optional): The number :math:`b`, of shape :math:`(1)`.
            (default: zero)
        weight (torch.Tensor, optional): What each query counts, :math:`(B)`; gets no gradient.
            (default: :obj:`None`, the sums are kept apart)

    Returns:
        (torch.Tensor, torch.Tensor): The sums :math:`(B)`, or their weighted sum, and the scores
        :math:`(P)` of :obj:`pairs`, or :obj:`None`.

    Raises:
        ValueError: If the reduction is unknown.
    """
    _check(reduction)
    row, column = (None, None) if pairs is None else pairs
    if weight is not None and reduction == 'softplus' and (row is None or row.numel() == 0):
        weight = weight.to(torch.promote_types(query.dtype, torch.float))
        total = _WeightedSoftplus.apply(query, table, bias, weight, allowed, answers, answer_mass)
        picked = None if row is None else query.new_empty(0)
    else:
        total, picked = _Reduction.apply(query, table, bias, reduction, allowed, row, column,
                                         answers, answer_mass)
        total = _weigh(total, weight)
    if isinstance(mass, Tensor) or mass != 0:
        summed = query @ (table.sum(dim=0) if allowed is None else allowed.to(table.dtype) @ table)
        if bias is not None:
            summed = summed + bias * (table.size(0) if allowed is None else allowed.sum())
        total = total - mass * _weigh(summed, weight)
    if answers is not None and bias is not None:
        count = total.new_zeros(answers.num_groups)
        for _, target, one in _pieces(answers, allowed, total.dtype):
            count.index_add_(0, target, one.squeeze(1))
        total = total - answer_mass * _weigh(bias * count[answers.group], weight)
    return total, picked


def reduce_materialized(score: Tensor, reduction: str, allowed: Optional[Tensor] = None,
                        pairs: Optional[Pairs] = None, mass: Union[float, Tensor] = 0.0,
                        answers: Optional[Answers] = None, answer_mass: float = 1.0,
                        weight: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
    r"""The same as :func:`reduce_scores` of scores :math:`(B, N)` that are no dot products."""
    _check(reduction)
    picked = None
    if pairs is not None:
        position = pairs[0] * score.size(1) + pairs[1]
        picked = select_rows(score.reshape(-1, 1), position).squeeze(1)
    # An addition costs nothing in the backward pass, a masked fill a copy of all scores.
    biased = score if allowed is None else score + additive_mask(allowed, score.dtype)
    total = (biased.logsumexp(dim=1) if reduction == 'logsumexp' else
             torch.nn.functional.softplus(biased).sum(dim=1))
    if isinstance(mass, Tensor) or mass != 0:
        total = total - mass * (score if allowed is None else score * allowed).sum(dim=1)
    if answers is not None:
        true = torch.zeros(answers.num_groups, score.size(1), dtype=torch.bool,
                           device=score.device)
        true[answers.row, answers.entity] = True
        true = true if allowed is None else true & allowed
        total = total - answer_mass * (score * true[answers.group]).sum(dim=1)
    return _weigh(total, weight), picked


class _Reduction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, bias: Optional[Tensor], reduction: str,
                allowed: Optional[Tensor], row: Optional[Tensor], column: Optional[Tensor],
                answers: Optional[Answers], answer_mass: float,
                ) -> Tuple[Tensor, Optional[Tensor]]:
        device, dtype = query.device.type, autocast_dtype(query)
        ctx.dtypes = query.dtype, table.dtype
        with torch.autocast(device, enabled=False):
            query, table = query.to(dtype), table.to(dtype)
            score = (query @ table.t() if bias is None else  # [B, N]
                     torch.addmm(bias.to(dtype), query, table.t()))
            position = None if row is None or column is None else row * score.size(1) + column
            picked = None if position is None else score.view(-1)[position]
            mask = None if allowed is None else additive_mask(allowed, score.dtype)
            rows = score.size(0) if device != 'cpu' else max(1, BLOCK // max(1, score.size(1)))
            total = torch.cat([_reduce_(block if mask is None else block.add_(mask), reduction)
                               for block in score.split(rows)])
            summed = None
            if answers is not None:
                summed = total.new_zeros(answers.num_groups, query.size(1))
                for source, target, weight in _pieces(answers, allowed, total.dtype):
                    summed.index_add_(0, target, table[source].to(total.dtype).mul_(weight))
                total -= answer_mass * (query * summed[answers.group]).sum(dim=1)
        ctx.answers, ctx.answer_mass, ctx.allowed = answers, answer_mass, allowed
        ctx.save_for_backward(query, table, score, position, summed)
        return total, picked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, total_grad: Tensor,
                 picked_grad: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        query, table, score, position, summed = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            # Means over queries and candidates would make small numbers denormal, which slow a
            # CPU down tenfold, so their scale stays outside the buffer.
            scale, pairs = total_grad.unsqueeze(1), None  # [B, 1]
            if position is not None and picked_grad is not None and position.numel() > 0:
                if position.numel() * query.size(1) < score.numel():  # Cheaper than a pass.
                    pairs = position // score.size(1), position % score.size(1)
                else:
                    scale = torch.maximum(total_grad.abs().amax(),
                                          picked_grad.abs().amax().to(total_grad.dtype))
                    scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
                    # In place: the buffer is ours.
                    score *= (total_grad / scale).to(score.dtype).unsqueeze(1)
                    # Flat, since `scatter_add_` in half precision copies the whole buffer.
                    score.view(-1).index_add_(0, position, (picked_grad / scale).to(score.dtype))
            grad_bias = None
            if ctx.needs_input_grad[2]:
                grad_bias = (score.sum(dim=1, dtype=total_grad.dtype, keepdim=True) * scale).sum(0)
            grad_query = (score @ table).to(ctx.dtypes[0]).mul_(scale.to(ctx.dtypes[0]))
            grad_table = (score.t() @ (query * scale.to(query.dtype))).to(ctx.dtypes[1])
            if pairs is not None and picked_grad is not None:
                weight = picked_grad.to(total_grad.dtype).unsqueeze(1)
                for grad, index, other, rows in ((grad_query, pairs[0], table, pairs[1]),
                                                 (grad_table, pairs[1], query, pairs[0])):
                    grad.index_add_(0, index, (other[rows] * weight).to(grad.dtype))
                if grad_bias is not None:
                    grad_bias += weight.sum()
            if summed is not None:
                answers, weight = ctx.answers, -ctx.answer_mass * total_grad.unsqueeze(1)
                grad_query.addcmul_(summed[answers.group].to(grad_query.dtype),
                                    weight.to(grad_query.dtype))
                grad_summed = torch.zeros_like(summed).index_add_(0, answers.group, query * weight)
                for source, target, weight in _pieces(answers, ctx.allowed, summed.dtype):
                    grad_table.index_add_(0, source, grad_summed[target].mul_(weight).to(
                        grad_table.dtype))
        return grad_query, grad_table, grad_bias, None, None, None, None, None, None


class _WeightedSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, bias: Optional[Tensor], weight: Tensor,
                allowed: Optional[Tensor], answers: Optional[Answers],
                answer_mass: float) -> Tensor:
        device, dtype, (num_rows, channels) = query.device.type, autocast_dtype(query), query.shape
        wide = weight.dtype
        # All candidates at once where kernels are dear, else what fits the cache.
        size = table.size(0) if device != 'cpu' else max(MIN_COLUMNS, 2 * BLOCK // max(1, num_rows))
        with torch.autocast(device, enabled=False):
            q, offset = query.to(dtype), table.new_zeros(table.size(0), dtype=dtype)
            if bias is not None:
                offset += bias.to(dtype)
            if allowed is not None:
                offset += additive_mask(allowed, dtype)
            weighted = (query * weight.unsqueeze(1)).to(dtype)
            total, derived = weight.new_zeros(num_rows), weight.new_zeros(num_rows)
            grad_query = weight.new_zeros(num_rows, channels)
            grad_table = torch.empty_like(table)
            for t, o, grad in zip(table.split(size), offset.split(size), grad_table.split(size),
                                  strict=True):
                t = t.to(dtype)
                score = torch.addmm(o, q, t.t())  # [B, size]
                total += torch.nn.functional.softplus(score).sum(dim=1, dtype=wide)
                score.sigmoid_()
                if bias is not None:
                    derived += score.sum(dim=1)
                grad_query += score @ t
                grad.copy_(score.t() @ weighted)
            if answers is not None:
                summed = weight.new_zeros(answers.num_groups, channels)
                grad_summed = torch.zeros_like(summed).index_add_(
                    0, answers.group, query * (-answer_mass * weight).unsqueeze(1))
                for source, target, one in _pieces(answers, allowed, wide):
                    summed.index_add_(0, target, table[source] * one)
                    grad_table.index_add_(0, source, (grad_summed[target] * one).to(table.dtype))
                summed = summed[answers.group]
                total -= answer_mass * (query * summed).sum(dim=1)
                grad_query -= answer_mass * summed
            grad_query = grad_query.mul_(weight.unsqueeze(1)).to(query.dtype)
            grad_bias = None if bias is None else (weight * derived).sum(0, True).to(bias.dtype)
        ctx.save_for_backward(grad_query, grad_table, grad_bias)
        return (weight * total).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        # In place: they are ours.
        return (*(None if x is None else x.mul_(grad) for x in ctx.saved_tensors),
                None, None, None, None)


def _weigh(total: Tensor, weight: Optional[Tensor]) -> Tensor:
    return total if weight is None else (total * weight).sum()


def _pieces(answers: Answers, allowed: Optional[Tensor],
            dtype: torch.dtype) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    # Entities, distinct queries and weights [n, 1] of some answers at a time, so that a hub takes
    # no memory for a vector of each.
    for entity, row in zip(answers.entity.split(PIECE), answers.row.split(PIECE), strict=True):
        weight = (torch.ones_like(entity, dtype=dtype) if allowed is None else
                  allowed[entity].to(dtype))
        yield entity, row, weight.unsqueeze(1)


def autocast_dtype(x: Tensor) -> torch.dtype:
    r"""The type that a product of :obj:`x` has here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _check(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f'Unknown reduction {reduction!r} (expected one of {list(REDUCTIONS)})')


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    r"""Zero where allowed, and else what leaves nothing of a score that it is added to."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)


def _reduce_(score: Tensor, reduction: str) -> Tensor:
    # The sum of each row of scores, which are replaced by its derivative.
    wide = torch.promote_types(score.dtype, torch.float32)
    if reduction == 'logsumexp':
        top = _row_max(score)
        torch.softmax(score, dim=1, out=score)
        # The largest probability is at least 1 / N, so that its logarithm is safe.
        return top.to(wide) - _row_max(score).to(wide).log()
    total = torch.nn.functional.softplus(score).sum(dim=1, dtype=wide)
    score.sigmoid_()
    return total


def _row_max(x: Tensor) -> Tensor:
    # On a CPU the maximum of numbers of 16 bits takes ten times as long as that of integers, which
    # have the same order, and the opposite one among negative numbers.
    if x.device.type != 'cpu' or x.element_size() != 2:
        return x.amax(dim=1)
    bits = x.view(torch.int16)
    most = bits.amax(dim=1)
    return torch.where(most >= 0, most, bits.amin(dim=1)).view(x.dtype)
