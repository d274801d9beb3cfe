r"""Dropout of features, whose random numbers are not the dearest part of it, and of modalities."""
import torch
from torch import Tensor

#: A mask is drawn in numbers of 16 bits, four of which are one draw.
BITS, DRAWS = 16, 4


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    r"""Dropout as :func:`torch.nn.functional.dropout` has it, which on a CPU draws a number of its
    own for each element and takes three times as long. There, :math:`p` is rounded to a multiple
    of :math:`2^{-16}`.

    Args:
        x (torch.Tensor): The input.
        p (float): The probability of an element to become zero.
        training (bool): Without it, :obj:`x` is returned.
    """
    if not training or p == 0 or x.device.type != 'cpu':
        return torch.nn.functional.dropout(x, p, training)
    bits = torch.empty(-(-x.numel() // DRAWS), dtype=torch.long).random_(-2**63, None)
    kept = bits.view(torch.int16)[:x.numel()].view(x.shape) >= round((p - 0.5) * 2**BITS)
    # A factor of the type of `x` is faster in both directions than a mask.
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


def drop_modalities(mask: Tensor, p: Tensor) -> Tensor:
    r"""Which modalities entities are left with if each is dropped with its probability, of all
    entities and modalities independently; the last one of an entity is never dropped, and one that
    would lose all keeps all.

    Args:
        mask (torch.Tensor): Which entity has which modality, boolean :math:`(N, M)`.
        p (torch.Tensor): The probabilities :math:`(M)`.
    """
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= p)
    return torch.where(kept.any(dim=1, keepdim=True), kept, mask)
