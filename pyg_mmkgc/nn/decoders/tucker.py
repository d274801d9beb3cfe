from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from pyg_mmkgc.nn.decoders.base import Decoder, Query
from pyg_mmkgc.nn.dropout import dropout
from pyg_mmkgc.nn.rows import select_rows

#: Elements of the largest intermediate tensor of :meth:`TuckERDecoder.query` (256 MB in float32).
MAX_NUMEL = 2**26
#: Fewest rows of a tile; smaller ones leave the matrix units idle.
MIN_TILE = 16


class TuckERDecoder(Decoder):
    r"""The score function of `"TuckER: Tensor Factorization for Knowledge Graph Completion"
    <https://arxiv.org/abs/1901.09590>`_:

    .. math::
        s(h, r, t) = \sum_{k, i, j} W_{k i j} \, r_k \, h_i \, t_j

    The matrix :math:`\mathbf{M}_r = \sum_k r_k \mathbf{W}_k` depends on the relation alone.
    :meth:`query` never builds one matrix per row of the batch, and never waits for the host:

    * With at most as many relations as rows (:math:`U \le B`, where :math:`U = 2R`, or the number
      of distinct relations if they are named), all :math:`\mathbf{M}_r` are one product. Rows are
      sorted by relation into tiles of one relation each; since the number of tiles is at most
      :math:`U + B / T` for tiles of :math:`T` rows, shapes do not depend on the data. About
      :math:`U d_r C^2 + 2 B C^2` multiplications (per row: :math:`B d_r C^2`), in
      :math:`O(U C^2)` memory.
    * Otherwise, or if those matrices exceed 256 MB, :math:`\sum_k r_k (\mathbf{h} \mathbf{W}_k)`
      in chunks of :math:`k`, which are computed again in the backward pass:
      :math:`B d_r C^2` multiplications in bounded memory.

    Both agree within rounding. Batch normalisation, which the authors use, is left out: it would
    let a score depend on the batch.

    Args:
        num_relations (int): The number of original relations :math:`R`.
        channels (int): Size of the vectors of entities :math:`C`.
        relation_channels (int, optional): Size of the vectors of relations :math:`d_r`
            (default: :obj:`channels`).
        input_dropout (float, optional): Dropout of the head (default: :obj:`0.0`).
        hidden_dropout (float, optional): Dropout of the query (default: :obj:`0.0`).
        bias (float, optional): What a learned number starts from that is added to each score, such
            as the base rate of a binary cross-entropy, which nothing else holds where batch
            normalisation is left out (default: :obj:`None`, no such number).

    Raises:
        ValueError: If a size is not positive or a dropout is not in :math:`[0, 1)`.
    """
    def __init__(self, num_relations: int, channels: int, relation_channels: Optional[int] = None,
                 input_dropout: float = 0.0, hidden_dropout: float = 0.0,
                 bias: Optional[float] = None):
        super().__init__(num_relations, channels, relation_channels)
        for name, p in (('input_dropout', input_dropout), ('hidden_dropout', hidden_dropout)):
            if not 0 <= p < 1:
                raise ValueError(f"{name!r} needs to be in [0, 1) in 'TuckERDecoder' (got {p})")
        self.input_dropout = input_dropout
        self.hidden_dropout = hidden_dropout
        self.core = Parameter(torch.empty(self.relation_channels, channels, channels))
        self.initial_bias = bias
        if bias is not None:
            self.bias = Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # A query has the variance of its head.
        torch.nn.init.normal_(self.rel_emb.weight, std=self.relation_channels**-0.5)
        torch.nn.init.normal_(self.core, std=self.channels**-0.5)
        if self.bias is not None and self.initial_bias is not None:
            torch.nn.init.constant_(self.bias, self.initial_bias)

    def distinct(self, rel_type: Tensor) -> Optional[Tensor]:
        # No matrix is built for any other relation.
        return rel_type.unique()

    def query(self, head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
        head = dropout(head, self.input_dropout, self.training)
        num_rows = 2 * self.num_relations if distinct is None else distinct.numel()
        if num_rows <= head.size(0) and num_rows * self.channels**2 <= MAX_NUMEL:
            out = (self._query_by_relation(head, rel_type) if distinct is None else
                   self._query_by_relation(head, torch.searchsorted(distinct, rel_type), distinct))
        else:
            out = self._query_by_channel(head, self.relation(rel_type))
        return dropout(out, self.hidden_dropout, self.training)

    def query_by_channel(self, head: Tensor, rel_type: Tensor) -> Tensor:
        r"""What :meth:`query` returns in evaluation mode, in one product whose shapes branch on
        nothing, in :math:`O(B d_r C)` memory."""
        return self._outer(head, self.relation(rel_type), self.core)

    def frozen_query(self) -> Query:
        # As many queries as relations pay for all matrices, one product instead of many thin ones.
        matrix, num_queries, num_rows = None, 0, 2 * self.num_relations

        def query(head: Tensor, rel_type: Tensor, distinct: Optional[Tensor] = None) -> Tensor:
            nonlocal matrix, num_queries
            num_queries += rel_type.numel()
            if (self.training or torch.is_grad_enabled() or distinct is None
                    or num_queries < num_rows or num_rows * self.channels**2 > MAX_NUMEL):
                return self.query(head, rel_type, distinct)
            if matrix is None:
                matrix = self._matrix(self.rel_emb.weight)
            return self._query_by_matrix(head, torch.searchsorted(distinct, rel_type),
                                         matrix[distinct], named=True)

        return query

    def _matrix(self, relation: Tensor) -> Tensor:
        return (relation @ self.core.flatten(1)).view(-1, *self.core.shape[1:])

    def _query_by_relation(self, head: Tensor, rel_type: Tensor,
                           distinct: Optional[Tensor] = None) -> Tensor:
        # With `distinct`, `rel_type` holds positions in it.
        relation = self.rel_emb.weight if distinct is None else self.relation(distinct)
        return self._query_by_matrix(head, rel_type, self._matrix(relation), distinct is not None)

    def _query_by_matrix(self, head: Tensor, rel_type: Tensor, matrix: Tensor,
                         named: bool) -> Tensor:
        num_rows, device = matrix.size(0), head.device
        if named and device.type == 'cpu':
            # The host is here anyway and knows all sizes, and copies of matrices are dear:
            perm = rel_type.argsort()
            out = _GroupedMM.apply(head[perm].to(matrix.dtype), matrix,
                                   rel_type.bincount(minlength=num_rows).tolist())
            return out[perm.argsort()]

        size = max(MIN_TILE, head.size(0) // num_rows)
        num_tiles = num_rows + head.size(0) // size  # An upper bound.
        sorted_type, perm = rel_type.sort()
        bounds = torch.searchsorted(sorted_type, torch.arange(num_rows + 1, device=device))
        last = (bounds.diff() // size + 1).cumsum(0)  # One past the last tile of each, [2R].
        first = F.pad(last, (1, -1))
        tile_type = torch.searchsorted(last, torch.arange(num_tiles, device=device), right=True)
        tile_type = tile_type.clamp(max=num_rows - 1)  # Tiles that no relation needs.

        rank = torch.arange(head.size(0), device=device) - bounds[sorted_type]
        slot = first[sorted_type] * size + rank  # Of each row in sorted order, [B].
        tiles = head.new_zeros(num_tiles * size, self.channels).index_copy(0, slot, head[perm])
        tiles = tiles.view(num_tiles, size, -1)
        out = tiles @ select_rows(matrix, tile_type)  # [num_tiles, size, C]
        slot = torch.empty_like(slot).scatter_(0, perm, slot)
        return out.flatten(0, 1)[slot]

    def _query_by_channel(self, head: Tensor, relation: Tensor) -> Tensor:
        size = max(1, MAX_NUMEL // max(1, head.numel()))
        return sum(
            checkpoint(self._outer, head, rel, core, use_reentrant=False, preserve_rng_state=False)
            for rel, core in zip(relation.split(size, dim=1), self.core.split(size),
                                 strict=True))

    @staticmethod
    def _outer(head: Tensor, relation: Tensor, core: Tensor) -> Tensor:
        outer = relation.unsqueeze(-1) * head.unsqueeze(1)  # [B, size, C]
        return outer.flatten(1) @ core.flatten(0, 1)  # [B, C]

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(num_relations={self.num_relations}, '
                f'channels={self.channels}, relation_channels={self.relation_channels})')


class _GroupedMM(torch.autograd.Function):
    r"""The product of each group of consecutive rows with a matrix of its own."""
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, sizes: List[int]) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, matrix)
        out = torch.empty_like(x)
        for rows, m, o in zip(x.split(sizes), matrix, out.split(sizes), strict=True):
            torch.mm(rows, m, out=o)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, None]:
        x, matrix = ctx.saved_tensors
        grad_x, grad_matrix = torch.empty_like(x), torch.empty_like(matrix)
        for g, rows, m, g_x, g_m in zip(grad.split(ctx.sizes), x.split(ctx.sizes), matrix,
                                        grad_x.split(ctx.sizes), grad_matrix, strict=True):
            torch.mm(g, m.t(), out=g_x)
            torch.mm(rows.t(), g, out=g_m)
        return grad_x, grad_matrix, None
