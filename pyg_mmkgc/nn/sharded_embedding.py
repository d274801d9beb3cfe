from typing import Any, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Embedding

from pyg_mmkgc.data.share import bounds, gather_rows, sum_rows


class ShardedEmbedding(Embedding):
    r"""A table whose rows are spread over processes, for tables larger than the memory of one
    device.

    Of :math:`N` rows, process :math:`k` of :math:`P` has those from :math:`\lfloor kN/P \rfloor` to
    :math:`\lfloor (k+1)N/P \rfloor`, which are its :attr:`weight`. A look-up asks the owners for
    rows (:func:`torch.distributed.all_to_all_single`: their numbers one way, the rows the other),
    and the backward pass sends the gradients to the owners, where those of a row that several
    processes have asked for are added up. The gradient of :attr:`weight` is sparse, of distinct
    rows, as :class:`~pyg_mmkgc.training.optim.RowOptimizer` wants it.

    All processes have to look up at the same time, each as many rows as it likes.

    Args:
        table (torch.nn.Embedding): The whole table, the same in all processes.
        group (torch.distributed.ProcessGroup, optional): The processes.
            (default: :obj:`None`, all)

    Shapes:
        - **input:** row numbers :math:`(n)`
        - **output:** rows :math:`(n, C)`

    Raises:
        ValueError: If there are fewer rows than processes.
    """
    starts: Tensor

    def __init__(self, table: Embedding, group: Optional[Any] = None):
        parts = bounds(0, table.num_embeddings, dist.get_world_size(group))
        self.start, stop = parts[dist.get_rank(group)]
        if len(parts) > table.num_embeddings:
            raise ValueError(f'a table of {table.num_embeddings} rows cannot be spread over '
                             f'{len(parts)} processes')
        super().__init__(stop - self.start, table.embedding_dim,
                         _weight=table.weight.detach()[self.start:stop].clone())
        self.num_embeddings = table.num_embeddings
        self.group = group
        self.counts = [stop - start for start, stop in parts]
        self.register_buffer('starts', torch.tensor([start for start, _ in parts]),
                             persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return _LookUp.apply(self.weight, index, self)

    def whole(self) -> Tensor:
        r"""All rows :math:`(N, C)`, without gradient."""
        return gather_rows(self.weight.detach(), self.counts, self.group)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, table: ShardedEmbedding) -> Tensor:
        owner = torch.bucketize(index, table.starts, right=True) - 1
        order = owner.argsort(stable=True)
        asked = owner.bincount(minlength=len(table.counts))
        given = torch.empty_like(asked)
        dist.all_to_all_single(given, asked, group=table.group)
        sent, received = asked.tolist(), given.tolist()
        wanted = _exchange(index[order], sent, received, table.group) - table.start
        ctx.splits, ctx.table = (sent, received), table
        ctx.save_for_backward(order, wanted)
        out = weight.new_empty(index.numel(), weight.size(1))
        out[order] = _exchange(weight.detach()[wanted], received, sent, table.group)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        order, wanted = ctx.saved_tensors
        (sent, received), table = ctx.splits, ctx.table
        grad = _exchange(grad[order], sent, received, table.group)
        return sum_rows(wanted, grad.float(), table.weight.shape, table.weight.dtype), None, None


def _exchange(x: Tensor, sent: Any, received: Any, group: Optional[Any]) -> Tensor:
    # As bytes, since not every library below knows every type.
    x = x.contiguous()
    out = x.new_empty(sum(received), *x.shape[1:])
    if x.dim() == 1:
        dist.all_to_all_single(out, x, received, sent, group=group)
    else:
        dist.all_to_all_single(out.view(torch.uint8), x.view(torch.uint8), received, sent,
                               group=group)
    return out
