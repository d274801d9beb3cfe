import math
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from pyg_mmkgc.nn.information.base import (
    MutualInformation,
    ViewMLP,
    by_chunk,
    frozen,
    masked_mean,
    trained,
)


class InfoNCE(MutualInformation):
    r"""The contrastive estimate of `"Representation Learning with Contrastive Predictive Coding"
    <https://arxiv.org/abs/1807.03748>`_, per entity and for all pairs of views:

    .. math::
        \hat I(v_i; v_j)(e) = f_{ij}(e, e)
        - \log \frac{1}{n_j + 1} \Big( \exp f_{ij}(e, e)
        + \sum_{e' \in \mathcal{B}_j} \exp f_{ij}(e, e') \Big), \qquad
        f_{ij}(e, e') = \frac{g_i(v_i(e))^\top h_j(v_j(e'))}{\sqrt{H}}

    with one perceptron :math:`g_i` and one :math:`h_j` per view, and the :math:`n_j` members
    :math:`\mathcal{B}_j` of the bank that have view :math:`j`. The estimate is at most
    :math:`\log(n_j + 1)`, and :math:`\log((n_j + 1) / 2)` if the bank holds the entity itself,
    so it says little where the truth comes near that. Its mean is a lower bound of the mutual
    information if the bank is independent of the entity.

    Critics are separable: scores of all pairs are one product. Costs :math:`O(N n V^2 H)`; in
    chunks of entities if that many scores do not fit into 256 MB.

    Args:
        num_views (int): The number of views :math:`V`.
        channels (int): Size of each view :math:`C`.
        hidden_channels (int, optional): Size :math:`H` of the hidden layers and of the outputs
            of :math:`g` and :math:`h` (default: :obj:`32`).

    Raises:
        ValueError: If a size is not positive.
    """
    alternating = False

    def __init__(self, num_views: int, channels: int, hidden_channels: int = 32):
        super().__init__(num_views, channels, hidden_channels)
        self.source = ViewMLP(num_views, channels, hidden_channels, hidden_channels)
        self.target = ViewMLP(num_views, channels, hidden_channels, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        self.source.reset_parameters()
        self.target.reset_parameters()

    def estimate(self, views: Tensor, reference: Tensor, reference_mask: Tensor,
                 apply: Callable[..., Any] = frozen,
                 generator: Optional[torch.Generator] = None) -> Tensor:
        source = apply(self.source, views) / math.sqrt(self.hidden_channels)  # [N, V, H]
        target = apply(self.target, views)  # [N, V, H]
        bank = apply(self.target, reference).transpose(0, 1).flatten(0, 1)  # [V * n, H]
        # Finite, since the gradient of `logsumexp` over nothing but `-inf` is NaN.
        lowest = torch.finfo(bank.dtype).min / 2
        bias = torch.zeros_like(reference_mask, dtype=bank.dtype)
        bias = bias.masked_fill(~reference_mask, lowest).t().flatten()  # [V * n]

        def contrast(source: Tensor, target: Tensor) -> Tensor:
            own = source @ target.transpose(1, 2)  # [N, V, V]
            score = torch.addmm(bias, source.flatten(0, 1), bank.t())  # [N * V, V * n]
            score = score.view(*own.shape, reference.size(0))
            return own - own.logaddexp(score.logsumexp(dim=-1))

        count = reference_mask.sum(dim=0).to(views.dtype)  # [V]
        row_numel = self.num_views * bank.size(0)
        return by_chunk(contrast, row_numel, source, target) + count.log1p()

    def learning_loss(self, views: Tensor, reference: Tensor, mask: Optional[Tensor] = None,
                      reference_mask: Optional[Tensor] = None) -> Tensor:
        r"""Minus the mean of the estimate over entities and pairs that have one.

        See :meth:`MutualInformation.learning_loss`. A bank that is the batch itself is fine:
        it costs the constant :math:`\log 2` at the upper end.
        """
        views, mask = self._prepare('views', views.detach(), mask)
        reference, reference_mask = self._prepare('reference', reference.detach(), reference_mask)
        out = self.estimate(views, reference, reference_mask, trained)
        return -masked_mean(out, self._pairs(mask) & reference_mask.any(dim=0))
