r"""Uniform negatives, weighted by how plausible the model finds them."""
from typing import Any, Optional

import torch
from torch import Tensor

from pyg_mmkgc.sampler.base import TripleNegativeSampling, _detach


class SelfAdversarial(TripleNegativeSampling):
    r"""Self-adversarial negative sampling from `"RotatE: Knowledge Graph Embedding by Relational
    Rotation in Complex Space" <https://arxiv.org/abs/1902.10197>`_.

    Negatives are drawn uniformly; the :math:`n` unmasked negatives of a triple share the weight
    :math:`n` by

    .. math::
        w_j = n \cdot \mathrm{softmax}_j(\phi_j / \tau)

    without gradient. The paper's factor :math:`\alpha` is :math:`1/\tau`, and its weights sum to
    one where these have mean one, so that a loss keeps its scale between samplers.

    Args:
        num_entities (int): The number of entities.
        num_negatives (int, optional): Negatives per triple. (default: :obj:`64`)
        temperature (float, optional): :math:`\tau`; the larger, the closer to uniform weights.
            (default: :obj:`1.0`)
        **kwargs (optional): Further arguments of
            :class:`~pyg_mmkgc.sampler.TripleNegativeSampling`.

    Raises:
        ValueError: If the temperature is not positive.
    """
    def __init__(self, num_entities: int, num_negatives: int = 64, *, temperature: float = 1.0,
                 **kwargs: Any):
        super().__init__(num_entities, num_negatives, **kwargs)
        if not temperature > 0:
            raise ValueError(f"'temperature' needs to be positive (got {temperature})")
        self.temperature = temperature

    def weight(self, score: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        score = _detach(score) / self.temperature
        if mask is None:
            return score.size(-1) * torch.softmax(score, dim=-1)
        # The lowest finite value keeps a row without any negative left free of NaN.
        score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
        return mask.sum(dim=-1, keepdim=True) * torch.softmax(score, dim=-1) * mask

    def _extra_repr(self) -> str:
        return f', temperature={self.temperature}'
