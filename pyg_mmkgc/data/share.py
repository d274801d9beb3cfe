r"""A batch that several processes share, so that they do together what one would do alone.

Each takes some rows of the batch. What is counted over the batch is added up
(:func:`batch_sum`, :func:`batch_mean`), what is drawn for it is drawn by all alike
(:func:`rand_rows`), and what has to be seen as a whole is gathered (:func:`batch_rows`). Outside of
:func:`sharing`, and so wherever there is one process, these are the plain operations.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Share:
    r"""The rows of a batch that a process takes.

    A process whose share is empty, as in a last batch of few rows, computes on the first row all
    the same, since the others wait for it; that counts nothing.

    Args:
        num_rows (int): The rows of the batch.
        rank (int, optional): The number of the process. (default: :obj:`0`)
        size (int, optional): The number of processes. (default: :obj:`1`)
        group (torch.distributed.ProcessGroup, optional): The processes.
            (default: :obj:`None`, all)
    """
    num_rows: int
    rank: int = 0
    size: int = 1
    group: Optional[Any] = None

    @property
    def counts(self) -> Sequence[int]:
        r"""How many rows each process takes."""
        return [stop - start for start, stop in bounds(0, self.num_rows, self.size)]

    @property
    def weight(self) -> float:
        r"""The part of the batch that this is."""
        return self.counts[self.rank] / self.num_rows

    @property
    def rows(self) -> slice:
        r"""Where the rows are in the batch."""
        start, stop = bounds(0, self.num_rows, self.size)[self.rank]
        return slice(start, stop) if start < stop else slice(0, 1)


_SHARE: ContextVar[Optional[Share]] = ContextVar('share', default=None)


def bounds(start: int, stop: int, num_parts: int) -> Sequence[Tuple[int, int]]:
    r"""Start and stop of each part of a range that is cut into parts of (nearly) equal size.

    Args:
        start (int): The start of the range.
        stop (int): Its stop.
        num_parts (int): The number of parts.
    """
    ends = [start + i * (stop - start) // num_parts for i in range(num_parts + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


@contextmanager
def sharing(share: Optional[Share]) -> Iterator[None]:
    r"""Makes what runs inside part of a batch that is shared.

    Args:
        share (Share, optional): The rows of this process. None is a batch of its own.
    """
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def batch_sum(x: Tensor) -> Tensor:
    r"""The sum of what each process has, without gradient.

    Args:
        x (torch.Tensor): A sum over the rows of this process.
    """
    share = _SHARE.get()
    if share is None:
        return x
    x = x.detach() * (share.weight > 0)
    dist.all_reduce(x, group=share.group)
    return x


def batch_mean(total: Tensor, count: Tensor) -> Tensor:
    r"""A mean over what counts of a batch, scaled such that the sum of what all processes have,
    each times :attr:`Share.weight`, is the mean over all of the batch.

    Args:
        total (torch.Tensor): The sum over the rows of this process.
        count (torch.Tensor): How many of them count.
    """
    share = _SHARE.get()
    count = batch_sum(count).clamp(min=1)
    if share is None:
        return total / count
    return total / count * (1 / share.weight if share.weight > 0 else 0.0)


def rand_rows(size: Tuple[int, ...], **kwargs: Any) -> Tensor:
    r"""Numbers as :func:`torch.rand` draws them for the whole batch, of which this are the rows of
    this process.

    Args:
        size (Tuple[int, ...]): The shape, rows first.
        **kwargs (optional): Arguments of :func:`torch.rand`.
    """
    share = _SHARE.get()
    if share is None:
        return torch.rand(size, **kwargs)
    return torch.rand((share.num_rows, *size[1:]), **kwargs)[share.rows]


def batch_rows(x: Tensor) -> Tensor:
    r"""The rows of all processes in the order of the batch, without gradient.

    Args:
        x (torch.Tensor): The rows of this process.
    """
    share = _SHARE.get()
    if share is None:
        return x
    counts = share.counts
    return gather_rows(x.detach()[:counts[share.rank]], counts, share.group)


def gather_rows(x: Tensor, counts: Sequence[int], group: Optional[Any] = None) -> Tensor:
    r"""The rows of all processes, one behind the other.

    Args:
        x (torch.Tensor): The rows of this process.
        counts (Sequence[int]): How many rows each process has.
        group (torch.distributed.ProcessGroup, optional): The processes.
            (default: :obj:`None`, all)
    """
    part = x.new_zeros(max(counts), *x.shape[1:])  # Of one size, as collectives want them.
    part[:x.size(0)] = x
    wire = part.to(torch.uint8) if x.dtype == torch.bool else part
    parts = [torch.empty_like(wire) for _ in counts]
    dist.all_gather(parts, wire, group=group)
    return torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)]).to(x.dtype)


def sum_rows(index: Tensor, values: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    r"""The sparse gradient, of distinct rows, of rows that may be named more than once.

    Args:
        index (torch.Tensor): The rows :math:`(n)`.
        values (torch.Tensor): Their gradients :math:`(n, C)`.
        shape (Sequence[int]): The shape of the table.
        dtype (torch.dtype): Its type.
    """
    index, place = index.unique(return_inverse=True)
    total = values.new_zeros(index.numel(), values.size(1)).index_add_(0, place, values)
    return torch.sparse_coo_tensor(index.unsqueeze(0), total.to(dtype), tuple(shape),
                                   is_coalesced=True, check_invariants=False)
