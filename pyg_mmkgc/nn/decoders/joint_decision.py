from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.nn.inits import zeros

from pyg_mmkgc.nn.decoders.base import Decoder, MetricDecoder, Part, Query, Scores
from pyg_mmkgc.nn.module_dict import ModuleDict
from pyg_mmkgc.nn.reduction import (
    BLOCK,
    Answers,
    Pairs,
    additive_mask,
    autocast_dtype,
    reduce_materialized,
)


class JointDecision(torch.nn.Module):
    r"""Several decoders, one for each view of an entity, that decide together (after the joint
    decision of MoMoK, `"Multiple Heads are Better than One: Mixture of Modality Knowledge Experts
    for Entity Representation Learning" <https://arxiv.org/abs/2405.16869>`_):

    .. math::
        s(h, r, t) = \frac{\sum_v \lambda_{r,v} \, a_v(h)}
        {\sum_v \lambda_{r,v} \, a_v(h) \, a_v(t)}
        \sum_v \lambda_{r,v} \, a_v(h) \, a_v(t) \, s_v(h_v, r, t_v)
        + \sum_v b_{r,v} \, a_v(h) \, a_v(t),

    with :math:`\lambda_{r,v} = \exp(w_v + w_{r,v})` and :math:`b_{r,v} = b_v + b'_{r,v}`, where
    :math:`a_v \in \{0, 1\}` says whether an entity has the view. The quotient lets the views that a
    candidate has speak for those that it lacks (it is 1 for one that lacks none that the head has):
    a score of zero in their place may be better than the scores of most. :math:`b` is what it says
    for a candidate that it has the view at all. At first :math:`\lambda = 1` and :math:`b = 0`.

    With :obj:`average`, as in MoMoK, nothing is learned, and what is averaged is what each decoder
    takes for the probability of the triple:

    .. math::
        s(h, r, t) = \frac{\sum_v a_v(h) \, a_v(t) \, \sigma(s_v(h_v, r, t_v))}
        {\sum_v a_v(h) \, a_v(t)}, \qquad \text{or 0 if there is no common view.}

    It has the interface of a :class:`Decoder` over vectors of :math:`V C + V` channels: all views
    beside each other, then :math:`a_v`. Queries have :math:`\lambda a_v` there, and :math:`a_v b`
    behind it.

    Args:
        decoders (Dict[str, Decoder]): A decoder for each view, all of :math:`C` channels.
        average (bool, optional): If set to :obj:`True`, probabilities are averaged.
            (default: :obj:`False`)
        norm_weight (Dict[str, float], optional): For some decoders, what their norm counts in
            :meth:`regularization`. (default: 1 for each)

    Raises:
        ValueError: If there is no decoder, sizes differ, or :obj:`norm_weight` names another.
    """
    def __init__(self, decoders: Mapping[str, Decoder], average: bool = False,
                 norm_weight: Optional[Mapping[str, float]] = None):
        super().__init__()
        sizes = {(decoder.num_relations, decoder.channels) for decoder in decoders.values()}
        if len(sizes) != 1:
            raise ValueError(f"'decoders' need one and the same number of relations and channels "
                             f'(got {sorted(sizes)})')
        norm_weight = norm_weight or {}
        unknown = sorted(set(norm_weight) - set(decoders))
        if unknown:
            raise ValueError(f"'norm_weight' names the unknown decoder {unknown[0]!r} (expected "
                             f'some of {list(decoders)})')
        self.norm_weight = {name: norm_weight.get(name, 1.0) for name in decoders}
        self.decoders = ModuleDict(decoders)
        (self.num_relations, self.channels), = sizes
        self.average = average
        # Then the decision is one dot product of all views together.
        self._is_product = not average and not any(
            isinstance(decoder, MetricDecoder) or decoder.bias is not None
            for decoder in decoders.values())
        if average:
            self.register_buffer('weight', torch.zeros(len(decoders)), persistent=False)
        else:
            self.weight = torch.nn.Parameter(torch.empty(len(decoders)))
            self.relation_weight = Embedding(2 * self.num_relations, len(decoders))
            self.offset = torch.nn.Parameter(torch.empty(len(decoders)))
            self.relation_offset = Embedding(2 * self.num_relations, len(decoders))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for decoder in self.decoders.values():
            decoder.reset_parameters()
        if not self.average:
            zeros(self.weight)
            zeros(self.relation_weight.weight)
            zeros(self.offset)
            zeros(self.relation_offset.weight)

    def gates(self) -> List[torch.nn.Parameter]:
        r"""The parameters :math:`w` and :math:`b` that weigh the decoders, if there are any."""
        if self.average:
            return []
        return [self.weight, *self.relation_weight.parameters(), self.offset,
                *self.relation_offset.parameters()]

    def _split(self, x: Tensor) -> List[Tuple[Tensor, Tensor]]:
        r"""The views, each with :math:`a_v` (or :math:`\lambda a_v`) as its last channel."""
        num_views = len(self.decoders)
        rest = x.size(-1) - num_views * (self.channels + 1)  # Offsets of a query.
        *views, gate, _ = x.split([self.channels] * num_views + [num_views, rest], dim=-1)
        return list(zip(views, gate.unbind(dim=-1), strict=True))

    def gate(self, rel_type: Optional[Tensor] = None) -> Tensor:
        r""":math:`\lambda_{r,v}`, :math:`(B, V)`, or :math:`\exp(w_v)`, :math:`(V)`, without
        relations; all ones, :math:`(V)`, with :obj:`average`."""
        weight = self.weight
        if rel_type is not None and not self.average:
            weight = weight + self.relation_weight(rel_type)
        return weight.exp()

    def distinct(self, rel_type: Tensor) -> Optional[Tensor]:
        r"""What any of the decoders has a use for; see :meth:`Decoder.distinct`."""
        found = (decoder.distinct(rel_type) for decoder in self.decoders.values())
        return next((distinct for distinct in found if distinct is not None), None)

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        r"""What a tail is compared with, :math:`(B, VC + 2V)`; see :meth:`Decoder.query`."""
        return self.join([decoder.query for decoder in self.decoders.values()], head, rel_type,
                         distinct)

    def frozen_query(self) -> Query:
        r"""See :meth:`Decoder.frozen_query`."""
        queries = [decoder.frozen_query() for decoder in self.decoders.values()]

        def query(head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
            return self.join(queries, head, rel_type, distinct)

        return query

    def scorer(self, candidates: Tensor) -> Scores:
        r"""See :meth:`Decoder.scorer`."""
        query, table, has = self.frozen_query(), candidates, self._has(candidates)
        complete = bool((has > 0).all())  # Then the quotient is one.
        if self._is_product:
            table = self._weigh(candidates)
        if not any(isinstance(decoder, MetricDecoder) for decoder in self.decoders.values()):
            table = table.to(autocast_dtype(table))

        def score(head: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            q = query(head, rel_type, self.distinct(rel_type))
            if self._is_product:
                out = self._weigh(q) @ table[start:stop].t()
                if complete:
                    return out + self._last(q).sum(dim=-1, keepdim=True).to(out.dtype)
                return self._complete_(out, q, has[start:stop])
            return self.score_all(q, table[start:stop])

        return score

    def join(self, queries: Sequence[Query], head: Tensor, rel_type: Tensor,
             distinct: Optional[Tensor] = None) -> Tensor:
        r"""What :meth:`query` returns, from what makes the queries of each decoder."""
        out = [query(x, rel_type, distinct)
               for query, (x, _) in zip(queries, self._split(head), strict=True)]
        has = self._has(head)
        out.append(self.gate(rel_type) * has)
        if not self.average:
            out.append((self.offset + self.relation_offset(rel_type)) * has)
        return torch.cat(out, dim=-1)

    def score(self, query: Tensor, tail: Tensor) -> Tensor:
        r"""Compares queries with tails, broadcasting all dimensions but the last."""
        return self._decide(self._scores(query, tail), query, self._has(tail))

    def _scores(self, query: Tensor, tail: Tensor) -> List[Tensor]:
        return [decoder.score(q, t) for decoder, (q, _), (t, _) in zip(
            self.decoders.values(), self._split(query), self._split(tail), strict=True)]

    def score_all(self, query: Tensor, candidates: Tensor) -> Tensor:
        r"""Compares each query with each candidate, :math:`(B, N)`."""
        if self._is_product:
            return self._complete_(self._weigh(query) @ self._weigh(candidates).t(), query,
                                   self._has(candidates))
        rows = candidates.size(0) if query.device.type != 'cpu' else BLOCK // max(1, query.size(0))
        out = query.new_zeros(query.size(0), candidates.size(0))
        for start in range(0, candidates.size(0), max(1, rows)):
            block = slice(start, start + max(1, rows))
            self._add_scores(query, candidates[block], out[:, block])
        return out if self.average else self._complete_(out, query, self._has(candidates))

    def decide(self, score_all: Callable[[Decoder, Tensor, Tensor], Tensor], query: Tensor,
               candidates: Tensor) -> Tensor:
        r"""What :meth:`score_all` returns, in one piece, from what makes the scores of a
        decoder, :math:`(B, N)`."""
        scores = [score_all(decoder, q, t) for decoder, (q, _), (t, _) in zip(
            self.decoders.values(), self._split(query), self._split(candidates), strict=True)]
        return self._decide(scores, query.unsqueeze(1), self._has(candidates))

    def _add_scores(self, query: Tensor, candidates: Tensor, out: Tensor) -> None:
        # In one piece: column by column, they would be read from all over the candidates.
        gates, has = self._gates(query), self._has(candidates).to(out.dtype).t().contiguous()
        for i, part in enumerate(self.parts(query, candidates).values()):
            score = part.decoder.score_all(part.query, part.candidates).to(out.dtype)
            if self.average:  # In place, by which the probability of what is not there is zero.
                score = score.add_(additive_mask(has[i] > 0, score.dtype)).sigmoid_()
                out.addcmul_(score, gates[:, i:i + 1])
            else:
                out.addcmul_(score, gates[:, i:i + 1] * has[i])
        if self.average:
            out.div_((gates @ has).clamp_(min=1))

    def reduce(self, query: Tensor, candidates: Tensor, reduction: str,
               allowed: Optional[Tensor] = None, pairs: Optional[Pairs] = None,
               mass: Union[float, Tensor] = 0.0, answers: Optional[Answers] = None,
               answer_mass: float = 1.0,
               weight: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        r"""What a loss over all candidates needs of the joint decision; see
        :meth:`Decoder.reduce`."""
        return reduce_materialized(self.score_all(query, candidates), reduction, allowed, pairs,
                                   mass, answers, answer_mass, weight)

    def combine(self, query: Tensor, candidates: Tensor, scores: Dict[str, Tensor],
                index: Tensor) -> Tensor:
        r"""The joint decision about some candidates; see :meth:`Decoder.combine`."""
        return self._decide(scores.values(), query.unsqueeze(1), self._has(candidates)[index])

    def _last(self, x: Tensor) -> Tensor:
        # The offsets of a query, and which views there are of anything else.
        return x[..., -len(self.decoders):]

    def _has(self, x: Tensor) -> Tensor:
        # Nothing is learned through it: a gradient would be a table of zeros.
        return self._last(x.detach())

    def _gates(self, query: Tensor) -> Tensor:
        start = len(self.decoders) * self.channels
        return query[..., start:start + len(self.decoders)]

    def _weigh(self, x: Tensor) -> Tensor:
        # So that the dot product of two of these is the weighted sum of all scores.
        return torch.cat([view * gate.unsqueeze(-1) for view, gate in self._split(x)], dim=-1)

    def _complete_(self, out: Tensor, query: Tensor, has: Tensor) -> Tensor:
        # From the weighted sums [B, N] to decisions, in place where nothing is learned from it.
        gates, offset, has = self._gates(query), self._last(query), has.to(query.dtype).t()
        common = gates @ has
        common = common.masked_fill_(common == 0, 1.0)
        scale = (gates.sum(dim=-1, keepdim=True) / common).to(out.dtype)
        out = out * scale if torch.is_grad_enabled() else out.mul_(scale)
        return out + (offset @ has).to(out.dtype)

    def _decide(self, scores: Iterable[Tensor], query: Tensor, has: Tensor) -> Tensor:
        # The decision from the score of each view, for as many candidates as queries.
        return self._summands(scores, query, has).sum(dim=-1)

    def _summands(self, scores: Iterable[Tensor], query: Tensor, has: Tensor) -> Tensor:
        # What each view adds to that, in a last dimension.
        gates = self._gates(query)
        weight = gates * has
        total = weight.sum(dim=-1, keepdim=True)
        score = torch.stack([s.sigmoid() if self.average else s for s in scores], dim=-1)
        if self.average:
            return score * weight / total.clamp(min=1)
        scale = gates.sum(dim=-1, keepdim=True) / total.masked_fill(total == 0, 1.0)
        return score * (weight * scale) + self._last(query) * has

    def contributions(self, query: Tensor, tail: Tensor) -> Dict[str, Tensor]:
        r"""What each decoder adds to the score of each query with its tail, :math:`(B)`; they sum
        to :meth:`score`.

        Args:
            query (torch.Tensor): Queries, from :meth:`query`, one for each tail.
            tail (torch.Tensor): Tails :math:`(B, VC + V)`.
        """
        out = self._summands(self._scores(query, tail), query, self._has(tail))
        return dict(zip(self.decoders, out.unbind(dim=-1), strict=True))

    def parts(self, query: Tensor, candidates: Tensor) -> Dict[str, Part]:
        r"""Each decoder alone, so that none leans on another; see :meth:`Decoder.parts`."""
        return {name: Part(decoder, q, t, gate > 0, has > 0)
                for (name, decoder), (q, gate), (t, has) in zip(
                    self.decoders.items(), self._split(query), self._split(candidates),
                    strict=True)}

    def forward(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The score of each triple, :math:`(B)`."""
        return self.score(self.query(head, rel_type), tail)

    def regularization(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The weighted sum of the decoders' norms; see :meth:`Decoder.regularization`."""
        first, *others = (weight * decoder.regularization(h, rel_type, t)
                          for weight, decoder, (h, _), (t, _) in zip(
                              self.norm_weight.values(), self.decoders.values(),
                              self._split(head), self._split(tail), strict=True))
        return sum(others, start=first)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({list(self.decoders)}, channels={self.channels})'
