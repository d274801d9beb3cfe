from typing import TYPE_CHECKING, Callable, Dict, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding

from pyg_mmkgc.nn.reduction import (
    Answers,
    Pairs,
    autocast_dtype,
    reduce_materialized,
    reduce_scores,
)

if TYPE_CHECKING:
    from pyg_mmkgc.nn.decoders.joint_decision import JointDecision

Query = Callable[[Tensor, Tensor, Optional[Tensor]], Tensor]
Scores = Callable[[Tensor, Tensor, int, int], Tensor]


class Part(NamedTuple):
    r"""What is trained with a loss of its own.

    Args:
        decoder (Decoder): The score function.
        query (torch.Tensor): Its queries :math:`(B, C)`.
        candidates (torch.Tensor): Its candidates :math:`(N, C)`.
        has_query (torch.Tensor): The queries that it can answer, boolean :math:`(B)`.
        has_candidate (torch.Tensor): The candidates that it knows, boolean :math:`(N)`.
    """
    decoder: 'Union[Decoder, JointDecision]'
    query: Tensor
    candidates: Tensor
    has_query: Tensor
    has_candidate: Tensor


class Decoder(torch.nn.Module):
    r"""The base class of all decoders: a score function over vectors of entities.

    A decoder turns head and relation into a query, and compares the query with a tail:

    .. math::
        s(h, r, t) = \langle \mathbf{q}(\mathbf{h}, r), \mathbf{t} \rangle
        \quad (+ \; b, \text{ where a decoder has a bias}),

    where higher is better. Where the vectors come from is not its business; relation
    parameters are. Relation :math:`r + R` is the inverse of relation :math:`r` and has a row of
    its own, so that heads are asked for as :math:`(t, r + R, ?)`.

    A subclass implements :meth:`query`; one that compares by something else than a dot product is
    a :class:`MetricDecoder` and overrides :meth:`score` and :meth:`score_all`, which have to agree.

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors of entities :math:`C`.
        relation_channels (int, optional): Size of a row of the relation table
            (default: :obj:`channels`).

    Raises:
        ValueError: If a size is not positive.
    """
    bias: Optional[Tensor]

    def __init__(self, num_relations: int, channels: int,
                 relation_channels: Optional[int] = None):
        super().__init__()
        relation_channels = channels if relation_channels is None else relation_channels
        for name, size in (('num_relations', num_relations), ('channels', channels),
                           ('relation_channels', relation_channels)):
            if size < 1:
                raise ValueError(f"{name!r} needs to be positive in '{self.__class__.__name__}' "
                                 f"(got {size})")
        self.num_relations = num_relations
        self.channels = channels
        self.relation_channels = relation_channels
        self.rel_emb = Embedding(2 * num_relations, relation_channels)
        self.register_parameter('bias', None)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        self.rel_emb.reset_parameters()

    def relation(self, rel_type: Tensor) -> Tensor:
        r"""The vectors of the given relations ``[B]``, ``[B, relation_channels]``."""
        return self.rel_emb(rel_type)

    def distinct(self, rel_type: Tensor) -> Optional[Tensor]:
        r"""The sorted distinct values of :obj:`rel_type` if :meth:`query` has a use for them.
        Finding them waits for the host, so it is done outside a training step."""
        return None

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        r"""What a tail is compared with.

        Args:
            head (torch.Tensor): Heads :math:`(B, C)`.
            rel_type (torch.Tensor): Their relations :math:`(B)`, ids below :math:`2R`.
            distinct (torch.Tensor, optional): What :meth:`distinct` returned for them.
                (default: :obj:`None`, not known)

        Returns:
            torch.Tensor: Queries :math:`(B, C)`.
        """
        raise NotImplementedError

    def frozen_query(self) -> Query:
        r"""A function like :meth:`query` for batch after batch while no weight changes, which
        may keep what belongs to relations."""
        return self.query

    def scorer(self, candidates: Tensor) -> Scores:
        r"""A function ``(head, rel_type, start, stop)`` that scores a range of candidates while no
        weight changes, with everything that does not depend on the query computed once.

        Args:
            candidates (torch.Tensor): All candidates :math:`(N, C)`.
        """
        # Else autocast would cast them for each batch.
        table, query = candidates.to(autocast_dtype(candidates)), self.frozen_query()

        def score(head: Tensor, rel_type: Tensor, start: int, stop: int) -> Tensor:
            return self.score_all(query(head, rel_type, self.distinct(rel_type)),
                                  table[start:stop])

        return score

    def score(self, query: Tensor, tail: Tensor) -> Tensor:
        r"""Compares queries with tails, broadcasting all dimensions but the last.

        Shapes:
            - **query**, **tail:** :math:`(*, C)`
            - **output:** :math:`(*)`
        """
        out = (query * tail).sum(dim=-1)
        return out if self.bias is None else out + self.bias

    def score_all(self, query: Tensor, candidates: Tensor) -> Tensor:
        r"""Compares each query with each candidate, without a :math:`(B, N, C)` tensor.

        Shapes:
            - **query:** :math:`(B, C)`
            - **candidates:** :math:`(N, C)`
            - **output:** :math:`(B, N)`
        """
        if self.bias is None:
            return query @ candidates.t()
        return torch.addmm(self.bias, query, candidates.t())

    def reduce(self, query: Tensor, candidates: Tensor, reduction: str,
               allowed: Optional[Tensor] = None, pairs: Optional[Pairs] = None,
               mass: Union[float, Tensor] = 0.0, answers: Optional[Answers] = None,
               answer_mass: float = 1.0,
               weight: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        r"""What a loss over all candidates needs of :meth:`score_all`, see
        :func:`~pyg_mmkgc.nn.reduction.reduce_scores`, whose arguments these are."""
        return reduce_scores(query, candidates, reduction, allowed, pairs, mass, answers,
                             answer_mass, self.bias, weight)

    def parts(self, query: Tensor, candidates: Tensor) -> Dict[str, Part]:
        r"""What is trained with a loss of its own, by name: here just this decoder."""
        return {'score': Part(self, query, candidates,
                              query.new_ones(query.size(0), dtype=torch.bool),
                              candidates.new_ones(candidates.size(0), dtype=torch.bool))}

    def combine(self, query: Tensor, candidates: Tensor, scores: Dict[str, Tensor],
                index: Tensor) -> Tensor:
        r"""The scores of some candidates, :math:`(B, n)`, from those of each part.

        Args:
            query (torch.Tensor): Queries :math:`(B, C)`.
            candidates (torch.Tensor): Candidates :math:`(N, C)`.
            scores (Dict[str, torch.Tensor]): The scores :math:`(B, n)` of each of :meth:`parts`.
            index (torch.Tensor): Which candidates these are, :math:`(B, n)`.
        """
        return scores['score']

    def forward(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The score of each triple.

        Shapes:
            - **head**, **tail:** :math:`(B, C)`
            - **rel_type:** :math:`(B)`, ids below :math:`2R`
            - **output:** :math:`(B)`
        """
        return self.score(self.query(head, rel_type), tail)

    def regularization(self, head: Tensor, rel_type: Tensor, tail: Tensor) -> Tensor:
        r"""The nuclear 3-norm (N3) of `"Canonical Tensor Decomposition for Knowledge Base
        Completion" <https://arxiv.org/abs/1806.07297>`_, mean over the batch:

        .. math::
            \frac{1}{B} \sum_{(h, r, t)} \sum_i |h_i|^3 + |r_i|^3 + |t_i|^3

        Same norm in every decoder, so that one weight has one meaning; moduli are complex
        where the decoder is. Shapes are those of :meth:`forward`; the output is a scalar.
        """
        # Cubes of narrow numbers would lose what is small.
        first, *others = (
            self.cubes(x.to(torch.promote_types(x.dtype, torch.float))).sum(dim=-1).mean()
            for x in (head, self.relation(rel_type), tail))
        return sum(others, start=first)

    @staticmethod
    def cubes(x: Tensor) -> Tensor:
        r"""The cubed moduli of the coordinates of :obj:`x`."""
        return x.abs()**3

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(num_relations={self.num_relations}, '
                f'channels={self.channels})')


class MetricDecoder(Decoder):
    r"""A decoder that compares by something else than a dot product."""
    def scorer(self, candidates: Tensor) -> Scores:
        query = self.frozen_query()
        return lambda head, rel_type, start, stop: self.score_all(
            query(head, rel_type, self.distinct(rel_type)), candidates[start:stop])

    def reduce(self, query: Tensor, candidates: Tensor, reduction: str,
               allowed: Optional[Tensor] = None, pairs: Optional[Pairs] = None,
               mass: Union[float, Tensor] = 0.0, answers: Optional[Answers] = None,
               answer_mass: float = 1.0,
               weight: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        return reduce_materialized(self.score_all(query, candidates), reduction, allowed, pairs,
                                   mass, answers, answer_mass, weight)


class ComplexSpaceDecoder(Decoder):
    r"""A decoder over complex vectors, stored as real halves followed by imaginary halves.

    Raises:
        ValueError: If :obj:`channels` is odd.
    """
    def __init__(self, num_relations: int, channels: int,
                 relation_channels: Optional[int] = None):
        if channels % 2 != 0:
            raise ValueError(f"'channels' needs to be even in '{self.__class__.__name__}', real "
                             f"and imaginary halves (got {channels})")
        super().__init__(num_relations, channels, relation_channels)

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        # The complex product, coordinate by coordinate.
        head_re, head_im = head.chunk(2, dim=-1)
        rel_re, rel_im = self.relation(rel_type).chunk(2, dim=-1)  # [B, C / 2] each.
        return torch.cat([head_re * rel_re - head_im * rel_im,
                          head_re * rel_im + head_im * rel_re], dim=-1)

    @staticmethod
    def cubes(x: Tensor) -> Tensor:
        re, im = x.chunk(2, dim=-1)
        # Not `sqrt`, whose gradient at zero is infinite.
        return (re**2 + im**2)**1.5
