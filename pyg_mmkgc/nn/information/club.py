import math
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import Module
from torch_geometric.nn.inits import reset

from pyg_mmkgc.nn.information.base import (
    MutualInformation,
    ViewMLP,
    by_chunk,
    frozen,
    masked_mean,
    trained,
)


class CLUB(MutualInformation):
    r"""The contrastive log-ratio upper bound of `"CLUB: A Contrastive Log-ratio Upper Bound of
    Mutual Information" <https://arxiv.org/abs/2006.12013>`_, per entity and for all pairs of
    views:

    .. math::
        \hat I(v_i; v_j)(e) = \log q_{ij}(v_j(e) \,|\, v_i(e))
        - \frac{1}{n_j} \sum_{e' \in \mathcal{B}_j} \log q_{ij}(v_j(e') \,|\, v_i(e)), \qquad
        q_{ij}(y \,|\, x) = \mathcal{N}(y;\, \mu_{ij}(x), \mathrm{diag}\, \sigma_{ij}^2(x))

    with the :math:`n_j` members :math:`\mathcal{B}_j` of the bank that have view :math:`j`.
    Its mean is an upper bound of the mutual information if :math:`q` is the true conditional;
    it can be negative.

    A Gaussian sees the bank through its first two moments alone, so the mean over the bank is
    exact at :math:`O(1)` per entity: with their mean :math:`m_j` and variance :math:`s_j^2`,

    .. math::
        \hat I(v_i; v_j)(e) = \frac{1}{2} \sum_c \frac{1}{\sigma_c^2}
        \big( s_c^2 - (y_c - m_c)(y_c + m_c - 2 \mu_c) \big), \qquad y = v_j(e)

    In total :math:`O(N V^2 C H)`, in chunks of entities if :math:`N V^2 C` numbers do not fit
    into 256 MB.

    The likelihood is trained in turn with the model, by an optimiser of its own, as in `"MoMoK"
    <https://arxiv.org/abs/2405.16869>`_. That paper's released code leaves the log-variance out
    of the likelihood, with which nothing keeps the variance from growing; here it is part of it.

    Args:
        num_views (int): The number of views :math:`V`.
        channels (int): Size of each view :math:`C`.
        hidden_channels (int, optional): Size of the hidden layers (default: :obj:`32`).
        sampled (bool, optional): If set, contrast in training with one random member of the
            bank per entity and view, as MoMoK does, instead of all; same mean, more variance.
            Evaluation always takes all. (default: :obj:`False`)
        conditional (torch.nn.Module, optional): Maps views :math:`(N, V, C)` to means and
            log-variances of view :math:`j` given view :math:`i`, :math:`(N, V, V, C)` each
            (default: a :class:`GaussianConditional`).

    Raises:
        ValueError: If a size is not positive.
    """
    alternating = True

    def __init__(self, num_views: int, channels: int, hidden_channels: int = 32,
                 sampled: bool = False, conditional: Optional[Module] = None):
        super().__init__(num_views, channels, hidden_channels)
        self.sampled = sampled
        if conditional is None:
            conditional = GaussianConditional(num_views, channels, hidden_channels)
        self.conditional = conditional
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        reset(self.conditional)

    def estimate(self, views: Tensor, reference: Tensor, reference_mask: Tensor,
                 apply: Callable[..., Any] = frozen,
                 generator: Optional[torch.Generator] = None) -> Tensor:
        if self.sampled and self.training:
            mean = draw(reference, reference_mask, views.size(0), generator)  # [N, V, C]
            var = mean.new_zeros(mean.shape[1:])  # One sample has no variance.
        else:
            count = reference_mask.sum(dim=0).clamp(min=1).unsqueeze(-1)  # [V, 1]
            mean = reference.sum(dim=0) / count
            diff = torch.where(reference_mask.unsqueeze(-1), reference - mean, 0.0)
            var = diff.square().sum(dim=0) / count  # [V, C]
            mean = mean.expand_as(views)

        def log_ratio(views: Tensor, mean: Tensor) -> Tensor:
            mu, log_var = apply(self.conditional, views)  # [N, V, V, C]
            # What is said of view j alone is the same for each view i.
            views, mean = views.unsqueeze(1), mean.unsqueeze(1)  # [N, 1, V, C]
            out = var - (views - mean) * (views + mean - 2 * mu)
            return 0.5 * (out * torch.exp(-log_var)).sum(dim=-1)

        return by_chunk(log_ratio, self._row_numel, views, mean)

    def learning_loss(self, views: Tensor, reference: Optional[Tensor] = None,
                      mask: Optional[Tensor] = None,
                      reference_mask: Optional[Tensor] = None) -> Tensor:
        r"""Minus the mean log-likelihood (in nats, all constants included) over entities and
        pairs that exist.

        See :meth:`MutualInformation.learning_loss`. A likelihood needs no bank:
        :obj:`reference` and :obj:`reference_mask` are there for the common interface.
        """
        views, mask = self._prepare('views', views.detach(), mask)

        def log_likelihood(views: Tensor) -> Tensor:
            mu, log_var = trained(self.conditional, views)  # [N, V, V, C]
            out = (views.unsqueeze(1) - mu).square() * torch.exp(-log_var) + log_var
            return -0.5 * (out + math.log(2 * math.pi)).sum(dim=-1)

        out = by_chunk(log_likelihood, self._row_numel, views)  # [N, V, V]
        return -masked_mean(out, self._pairs(mask))

    @property
    def _row_numel(self) -> int:
        return self.num_views**2 * self.channels


class GaussianConditional(Module):
    r"""Means and log-variances of each view given each other one, by one perceptron per given
    view. Log-variances are kept within :obj:`bound` by a scaled :math:`\tanh`.

    Shapes:
        - **input:** :math:`(N, V, C)`
        - **output:** two of :math:`(N, V, V, C)`; ``[:, i, j]`` is view :math:`j` given
          view :math:`i`
    """
    def __init__(self, num_views: int, channels: int, hidden_channels: int, bound: float = 8.0):
        super().__init__()
        self.bound = bound
        self.mlp = ViewMLP(num_views, channels, hidden_channels, 2 * num_views * channels)

    def reset_parameters(self) -> None:
        self.mlp.reset_parameters()

    def forward(self, views: Tensor) -> Tuple[Tensor, Tensor]:
        num_views, channels = views.shape[1:]
        out = self.mlp(views).unflatten(-1, (2, num_views, channels))  # [N, V, 2, V, C]
        mean, log_var = out.unbind(dim=2)
        return mean, self.bound * torch.tanh(log_var / self.bound)


def draw(reference: Tensor, mask: Tensor, num_samples: int,
         generator: Optional[torch.Generator] = None) -> Tensor:
    r"""For each view, draw members that have it, uniformly with replacement.

    Shapes:
        - **reference:** :math:`(n, V, C)`
        - **mask:** :math:`(n, V)`
        - **output:** :math:`(\textrm{num\_samples}, V, C)`
    """
    cumulative = mask.t().long().cumsum(dim=1)  # [V, n]
    position = torch.rand(cumulative.size(0), num_samples, generator=generator,
                          device=mask.device)
    position = (position * cumulative[:, -1:]).long() + 1  # One-based, among those that exist.
    index = torch.searchsorted(cumulative, position).clamp(max=mask.size(0) - 1)  # [V, num_samples]
    view = torch.arange(mask.size(1), device=mask.device)
    return reference[index.t(), view]
