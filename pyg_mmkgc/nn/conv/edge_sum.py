from typing import Any, Iterator, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


def edge_sum(table: Tensor, weight: Tensor, src: Tensor, dst: Tensor, dim_size: int,
             scale: Optional[Tensor] = None, edge_type: Optional[Tensor] = None,
             chunk_size: int = 2048) -> Tensor:
    r"""Sums :math:`J` vectors of each edge's source, weighted by scalars of the edge, at its
    target,

    .. math::
        y_i = \sum_{e = (j \to i)} z_{r_e} \odot \sum_{k=1}^{J} w_{e,k} \, x_{j,k} ,

    which without :math:`z` are :math:`J` sparse-dense products. Neither the forward nor the
    backward pass makes a tensor of :math:`E` vectors: both go through the edges in chunks and add
    into one output or gradient. The second derivative is not defined.

    Args:
        table (torch.Tensor): Vectors :math:`x`, :math:`(N, J, F)`.
        weight (torch.Tensor): Weights :math:`w`, :math:`(E, J)`.
        src (torch.Tensor): The row of :obj:`table` of each edge, :math:`(E)`.
        dst (torch.Tensor): The row of the output of each edge, :math:`(E)`.
        dim_size (int): The number of rows of the output.
        scale (torch.Tensor, optional): Vectors :math:`z`, :math:`(R, F)`. (default: :obj:`None`)
        edge_type (torch.Tensor, optional): The row of :obj:`scale` of each edge, :math:`(E)`.
            (default: :obj:`None`)
        chunk_size (int, optional): The number of edges in a chunk. (default: :obj:`2048`)

    Raises:
        ValueError: If there is only one of :obj:`scale` and :obj:`edge_type`.
    """
    if (scale is None) != (edge_type is None):
        raise ValueError("'scale' and 'edge_type' need each other")
    return _EdgeSum.apply(table.contiguous(), weight, src, dst, dim_size, scale, edge_type,
                          chunk_size)


class _EdgeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor, src: Tensor, dst: Tensor,
                dim_size: int, scale: Optional[Tensor], edge_type: Optional[Tensor],
                chunk_size: int) -> Tensor:
        ctx.save_for_backward(table, weight, src, dst, scale, edge_type)
        ctx.chunk_size = chunk_size
        num_views = table.size(1)
        view = torch.arange(num_views, device=table.device)
        out = table.new_zeros(dim_size, table.size(2))
        for edges in _chunks(weight.size(0), chunk_size):
            # Gathers and sums in one kernel, so that not even a chunk's views are laid out:
            message = embedding_bag(src[edges].unsqueeze(1) * num_views + view,
                                    table.flatten(0, 1), per_sample_weights=weight[edges],
                                    mode='sum')  # [chunk, C]
            if scale is not None and edge_type is not None:
                message.mul_(scale.index_select(0, edge_type[edges]))
            out.index_add_(0, dst[edges], message)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        table, weight, src, dst, scale, edge_type = ctx.saved_tensors
        grad_table, grad_weight, _, _, _, grad_scale, _, _ = [
            torch.zeros_like(x) if needed else None
            for x, needed in zip((table, weight, None, None, None, scale, None, None),
                                 ctx.needs_input_grad, strict=True)
        ]
        buffer = table.new_empty(min(ctx.chunk_size, weight.size(0)), *table.shape[1:])
        for edges in _chunks(weight.size(0), ctx.chunk_size):
            w, g = weight[edges], grad.index_select(0, dst[edges])  # [chunk, J], [chunk, C]
            views = torch.index_select(table, 0, src[edges], out=buffer[:w.size(0)])
            if scale is not None:
                rel_type = edge_type[edges]
                if grad_scale is not None:
                    joint = torch.empty_like(g)  # `out` also keeps autocast from lowering it.
                    torch.bmm(w.unsqueeze(1), views, out=joint.unsqueeze(1))
                    grad_scale.index_add_(0, rel_type, joint.mul_(g))
                g.mul_(scale.index_select(0, rel_type))
            if grad_weight is not None:
                torch.bmm(views, g.unsqueeze(2), out=grad_weight[edges].unsqueeze(2))
            if grad_table is not None:
                torch.mul(w.unsqueeze(2), g.unsqueeze(1), out=views)
                # Rows of J * C values: fewer and longer ones than C values for each view.
                grad_table.flatten(1).index_add_(0, src[edges], views.flatten(1))
        return grad_table, grad_weight, None, None, None, grad_scale, None, None


def _chunks(num_edges: int, chunk_size: int) -> Iterator[slice]:
    return (slice(i, i + chunk_size) for i in range(0, num_edges, chunk_size))
