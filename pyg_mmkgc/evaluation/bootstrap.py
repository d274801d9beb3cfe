r"""How far a difference between two models may be an accident of the test triples."""
from typing import NamedTuple

import torch
from torch import Tensor

#: Values gathered at once.
BLOCK = 2**24


class Interval(NamedTuple):
    r"""A mean with the interval that it may lie in.

    Args:
        mean (float): The mean.
        low (float): The lower end.
        high (float): The upper end.
    """
    mean: float
    low: float
    high: float


def paired_bootstrap(first: Tensor, second: Tensor, *, num_samples: int = 10_000,
                     level: float = 0.95, seed: int = 0) -> Interval:
    r"""The mean of a paired difference, with its percentile bootstrap interval.

    With :math:`d_i = a_i - b_i` for the :math:`T` test triples, each sample draws :math:`T` of them
    with replacement; the ends are the quantiles :math:`\frac{1 \mp \mathrm{level}}2` of the means

    .. math::
        \bar d^{(s)} = \frac1T \sum_{i=1}^{T} d_{j_{s,i}}, \qquad
        j_{s,i} \sim \mathrm{Uniform}\{1, \dots, T\} .

    Both models are drawn on the same triples, so that what makes a triple hard for either of them
    cancels; for large :math:`T` the interval is that of the normal distribution with standard error
    :math:`\sigma_d / \sqrt T`. It says how the difference depends on which triples are tested, not
    on seeds: average over these first.

    Args:
        first (torch.Tensor): A value of the first model for each triple, such as the mean
            reciprocal rank over sides and seeds, :math:`(T)`.
        second (torch.Tensor): The same of the second model, :math:`(T)`.
        num_samples (int, optional): The number of samples. (default: :obj:`10000`)
        level (float, optional): The share of the samples inside. (default: :obj:`0.95`)
        seed (int, optional): The seed. (default: :obj:`0`)

    Raises:
        ValueError: If the values are no vectors of one size, or an option is out of range.
    """
    if first.dim() != 1 or first.shape != second.shape or first.numel() == 0:
        raise ValueError(f"'first' and 'second' need to be vectors of one size, not empty (got "
                         f'{list(first.shape)} and {list(second.shape)})')
    if num_samples < 1:
        raise ValueError(f"'num_samples' needs to be at least 1 (got {num_samples})")
    if not 0 < level < 1:
        raise ValueError(f"'level' needs to be between 0 and 1 (got {level})")
    difference = first.double().cpu() - second.double().cpu()
    size = difference.numel()
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, BLOCK // size)
    means = torch.cat([
        difference[torch.randint(size, (min(rows, num_samples - start), size),
                                 generator=generator)].mean(dim=1)
        for start in range(0, num_samples, rows)
    ])
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2]).double())
    return Interval(float(difference.mean()), float(low), float(high))
