r"""Rows of a tensor, with a gradient that is the same each time."""
from torch import Tensor
from torch.nn.functional import embedding


def select_rows(x: Tensor, index: Tensor) -> Tensor:
    r"""The rows `x[index]`, as an embedding looks them up.

    The gradient of an index is added up on a CPU by threads that do not wait for each other: a row
    that is asked for more than once gets its sum in another order each time, and so in other last
    digits. That of an embedding is always the same.

    Args:
        x (torch.Tensor): The tensor :math:`(N, *)`, of two dimensions or more.
        index (torch.Tensor): Row numbers of any shape.
    """
    return embedding(index, x.flatten(1)).view(*index.shape, *x.shape[1:])
