from typing import List, Mapping, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.nn.inits import zeros

from pyg_mmkgc.nn.decoders.base import Decoder, Parts


class JointDecision(torch.nn.Module):
    r"""Several decoders, one for each view of an entity, that decide together (after the joint
    decision of MoMoK, `"Multiple Heads are Better than One: Mixture of Modality Knowledge Experts
    for Entity Representation Learning" <https://arxiv.org/abs/2405.16869>`_):

    .. math::
        s(h, r, t) = \sum_v \lambda_{r,v} \, a_v(h) \, a_v(t) \, s_v(h_v, r, t_v), \qquad
        \lambda_{r,v} = \exp(w_v + w_{r,v}),

    where :math:`a_v \in \{0, 1\}` says whether an entity has the view. MoMoK adds its heads up
    (:math:`\lambda = 1`, where we start).

    It has the interface of a :class:`Decoder` over vectors of :math:`V C + V` channels: all views
    beside each other, then :math:`a_v`.

    Args:
        decoders (Dict[str, Decoder]): A decoder for each view, all of :math:`C` channels.

    Raises:
        ValueError: If there is no decoder, or sizes differ.
    """
    def __init__(self, decoders: Mapping[str, Decoder]):
        super().__init__()
        sizes = {(decoder.num_relations, decoder.channels) for decoder in decoders.values()}
        if len(sizes) != 1:
            raise ValueError(f"'decoders' need one and the same number of relations and channels "
                             f'(got {sorted(sizes)})')
        self.decoders = torch.nn.ModuleDict(decoders)
        (self.num_relations, self.channels), = sizes
        self.weight = torch.nn.Parameter(torch.empty(len(decoders)))
        self.relation_weight = Embedding(2 * self.num_relations, len(decoders))
        self.reset_parameters()

    def reset_parameters(self):
        r"""Resets all learnable parameters of the module."""
        for decoder in self.decoders.values():
            decoder.reset_parameters()
        zeros(self.weight)
        zeros(self.relation_weight.weight)

    def gates(self) -> List[torch.nn.Parameter]:
        r"""The parameters :math:`w` that weigh the decoders."""
        return [self.weight, self.relation_weight.weight]

    def _split(self, x: Tensor) -> List[Tuple[Tensor, Tensor]]:
        r"""The views, each with :math:`a_v` (or :math:`\lambda a_v`) as its last channel."""
        *views, gate = x.split([self.channels] * len(self.decoders) + [len(self.decoders)], dim=-1)
        return list(zip(views, gate.unbind(dim=-1), strict=True))

    def gate(self, rel_type: Optional[Tensor] = None) -> Tensor:
        r""":math:`\lambda_{r,v}`, :math:`(B, V)`, or :math:`\exp(w_v)`, :math:`(V)`, without
        relations."""
        weight = self.weight
        return (weight if rel_type is None else weight + self.relation_weight(rel_type)).exp()

    def query(self, head: Tensor, rel_type: Tensor) -> Tensor:
        r"""What a tail is compared with, :math:`(B, VC + V)`; see :meth:`Decoder.query`."""
        queries = [
            decoder.query(x, rel_type)
            for decoder, (x, _) in zip(self.decoders.values(), self._split(head), strict=True)
        ]
        return torch.cat([*queries, self.gate(rel_type) * head[..., -len(self.decoders):]], dim=-1)

    def score(self, query: Tensor, tail: Tensor) -> Tensor:
        r"""Compares queries with tails, broadcasting all dimensions but the last."""
        return sum(decoder.score(q, t) * gate * has
                   for decoder, (q, gate), (t, has) in zip(
                       self.decoders.values(), self._split(query), self._split(tail), strict=True))

    def score_all(self, query: Tensor, candidates: Tensor) -> Tensor:
        r"""Compares each query with each candidate, :math:`(B, N)`."""
        return self.combine(query, candidates, self.parts(query, candidates))

    def combine(self, query: Tensor, candidates: Tensor, parts: Parts,
                index: Optional[Tensor] = None) -> Tensor:
        r"""The joint decision from the scores of each decoder; see :meth:`Decoder.combine`."""
        out = 0
        for (score, *_), (_, gate), (_, has) in zip(
                parts.values(), self._split(query), self._split(candidates), strict=True):
            if index is not None:
                score, has = score.gather(1, index), has[index]
            out = out + score * (gate.unsqueeze(-1) * has)
        return out

    def parts(self, query: Tensor, candidates: Tensor) -> Parts:
        r"""The scores of each decoder alone, so that none leans on another; see
        :meth:`Decoder.parts`."""
        return {name: (decoder.score_all(q, t), gate > 0, has > 0)
                for (name, decoder), (q, gate), (t, has) in zip(
                    self.decoders.items(), self._split(query), self._split(candidates),
                    strict=True)}

    def forward(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The score of each triple, :math:`(B)`."""
        return self.score(self.query(head, rel_type), tail)

    def regularization(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The sum of the decoders' norms; see :meth:`Decoder.regularization`."""
        return sum(decoder.regularization(h, rel_type, t)
                   for decoder, (h, _), (t, _) in zip(
                       self.decoders.values(), self._split(head), self._split(tail), strict=True))

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({list(self.decoders)}, channels={self.channels})'
