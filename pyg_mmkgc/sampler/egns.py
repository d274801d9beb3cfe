r"""Entropy-guided negative sampling (EGNS)."""
import math
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_mmkgc.data.share import batch_rows, batch_sum, rand_rows
from pyg_mmkgc.sampler.base import TripleNegativeSampling, _detach

#: The largest entropy of a yes-or-no question, in nats.
MAX_ENTROPY = math.log(2)


class EGNS(TripleNegativeSampling):
    r"""Entropy-guided negative sampling from the MoCME paper, `"Complementarity-driven
    Representation Learning for Multi-modal Knowledge Graph Completion"
    <https://arxiv.org/abs/2507.20620>`_.

    The public text states that negatives fall into three classes by the entropy of their predicted
    probability, that the more informative ones weigh more, and that the entropy acts inside the
    loss. The formulas, thresholds and defaults here are our reconstruction.

    **Entropy.** A negative of score :math:`\phi` has probability :math:`p = \sigma(\phi)` and
    entropy, in nats, at most :math:`\log 2`,

    .. math::
        H = -p \log p - (1 - p) \log (1 - p).

    **Classes.** Easy (0): :math:`H < t_1`; ambiguous (1): :math:`t_1 \le H < t_2`; hard (2):
    :math:`H \ge t_2`. :meth:`weight` gives each class its weight in the loss.

    **Confidently wrong.** A negative with :math:`p` near one has a low entropy too, but is either
    the worst error or a missing fact. Above :obj:`confident_bound`, :obj:`confident` decides:
    :obj:`"hard"` gives it the entropy :math:`\log 2`, in class and statistics; :obj:`"drop"` treats
    it like a known triple: weight zero, and no statistics; :obj:`"entropy"` changes nothing.

    **Steering.** :meth:`update` keeps for each entity :math:`e` the running entropy

    .. math::
        \bar H_e \leftarrow (1 - \mu) \, \bar H_e + \mu \, \mathrm{mean}_{j : e_j = e} H_j

    over its unmasked negatives in the batch (an entity without any keeps its value, and starts at
    :math:`\log 2`, so that nothing starts as uninteresting). Every :obj:`refresh_every` updates it
    becomes the probability with which negatives are drawn, for either end,

    .. math::
        P(e) = (1 - \epsilon) \, \frac{\exp(\bar H_e / \tau)}{\sum_{e'} \exp(\bar H_{e'} / \tau)}
        + \frac{\epsilon}{N},

    over the :math:`N` candidates, so that each can always be drawn. :meth:`corrupt` draws from
    :math:`P(e) / (1 - P(t))` for :math:`e \ne t`. :obj:`src_weight` and :obj:`dst_weight`, as
    PyG knows them, are both this vector.

    Draws, weights and updates need no host synchronisation. Statistics are rewritten in place, so
    after :meth:`share_memory_` the workers of a loader see them.

    Args:
        num_entities (int): The number of entities.
        num_negatives (int, optional): Negatives per triple. (default: :obj:`64`)
        thresholds (Tuple[float, float], optional): :math:`(t_1, t_2)` in nats; the default stands
            at about :math:`p = 0.05` and :math:`p = 0.2`. (default: :obj:`(0.2, 0.5)`)
        quantiles (Tuple[float, float], optional): If given, :math:`t_1` and :math:`t_2` follow
            these quantiles of the entropies of each batch, as moving average with
            :math:`\mu` (the first update sets them); :obj:`thresholds` stand until then.
            A batch is weighted by what earlier batches gave. (default: :obj:`None`)
        class_weights (Tuple[float, float, float], optional): Weights of easy, ambiguous and
            hard negatives, none smaller than the one before. (default: :obj:`(0.5, 1.0, 2.0)`)
        normalize (bool, optional): Whether weights are divided by their mean over the batch's
            negatives that are neither masked nor dropped, so that the size of the loss does not
            depend on how many are hard. (default: :obj:`True`)
        confident (str, optional): :obj:`"hard"`, :obj:`"drop"` or :obj:`"entropy"`.
            (default: :obj:`"hard"`)
        confident_bound (float, optional): The probability above which a negative is confidently
            wrong. (default: :obj:`0.9`)
        momentum (float, optional): :math:`\mu`. (default: :obj:`0.1`)
        temperature (float, optional): :math:`\tau` in nats; the larger, the closer to uniform
            draws. (default: :obj:`0.2`)
        exploration (float, optional): :math:`\epsilon`; one draws uniformly. (default: :obj:`0.1`)
        refresh_every (int, optional): Updates between two refreshes of the probabilities.
            (default: :obj:`10`)
        **kwargs (optional): Further arguments of
            :class:`~pyg_mmkgc.sampler.TripleNegativeSampling`.

    Raises:
        ValueError: If an option is out of its range.
    """
    _state = ('running_entropy', 'count', 'threshold', 'node_weight', 'cumulative')

    def __init__(self, num_entities: int, num_negatives: int = 64, *,
                 thresholds: Tuple[float, float] = (0.2, 0.5),
                 quantiles: Optional[Tuple[float, float]] = None,
                 class_weights: Tuple[float, float, float] = (0.5, 1.0, 2.0),
                 normalize: bool = True, confident: str = 'hard', confident_bound: float = 0.9,
                 momentum: float = 0.1, temperature: float = 0.2, exploration: float = 0.1,
                 refresh_every: int = 10, **kwargs: Any):
        super().__init__(num_entities, num_negatives, **kwargs)
        if len(thresholds) != 2 or not 0 <= thresholds[0] <= thresholds[1] <= MAX_ENTROPY:
            raise ValueError(f"'thresholds' needs two rising values in [0, log 2] "
                             f'(got {thresholds})')
        if quantiles is not None and (len(quantiles) != 2
                                      or not 0 <= quantiles[0] <= quantiles[1] <= 1):
            raise ValueError(f"'quantiles' needs two rising values in [0, 1] (got {quantiles})")
        if (len(class_weights) != 3 or not 0 <= class_weights[0] <= class_weights[1]
                <= class_weights[2] < math.inf or class_weights[2] == 0):
            raise ValueError(f"'class_weights' needs three weights, not negative and none smaller "
                             f'than the one before (got {class_weights})')
        if confident not in ('hard', 'drop', 'entropy'):
            raise ValueError(f"Unknown 'confident' {confident!r} "
                             f"(expected one of ['hard', 'drop', 'entropy'])")
        if not 0.5 <= confident_bound < 1:
            raise ValueError(f"'confident_bound' needs to be in [0.5, 1) (got {confident_bound})")
        if not 0 < momentum <= 1:
            raise ValueError(f"'momentum' needs to be in (0, 1] (got {momentum})")
        if not temperature > 0:
            raise ValueError(f"'temperature' needs to be positive (got {temperature})")
        if not 0 < exploration <= 1:
            raise ValueError(f"'exploration' needs to be in (0, 1], so that every entity can be "
                             f'drawn (got {exploration})')
        if refresh_every < 1:
            raise ValueError(f"'refresh_every' needs to be positive (got {refresh_every})")
        self.thresholds = tuple(thresholds)
        self.quantiles = None if quantiles is None else tuple(quantiles)
        self.class_weights = tuple(class_weights)
        self.normalize = normalize
        self.confident = confident
        self.confident_bound = confident_bound
        self.momentum = float(momentum)
        self.temperature = temperature
        self.exploration = exploration
        self.refresh_every = refresh_every

        device = None if self.candidates is None else self.candidates.device
        self.running_entropy = torch.empty(num_entities, device=device)
        # Of unmasked negatives so far; single precision would stop counting at 2^24.
        self.count = torch.empty(num_entities, dtype=torch.double, device=device)
        self.threshold = torch.empty(2, dtype=torch.double, device=device)
        self._sums = torch.zeros(num_entities, 2, device=device)  # Zero between updates.
        # Cumulative weights need double precision: in single, rounding would merge neighbours.
        self.node_weight = torch.empty(num_entities, dtype=torch.double, device=device)
        self.cumulative = torch.empty(num_entities + 1, dtype=torch.double, device=device)
        # Rounding may put a draw behind the last entity; one of these is another one than the
        # original.
        self._spare = (0, 1) if self.candidates is None else tuple(self.candidates[:2].tolist())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Forget all statistics; draws are uniform again."""
        self.running_entropy.fill_(MAX_ENTROPY)
        self.count.zero_()
        self.threshold.copy_(torch.tensor(self.thresholds, dtype=torch.double))
        self.num_updates = 0
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        r"""Rewrite the drawing probabilities from the running entropies now."""
        logit = self.running_entropy.double() / self.temperature
        if self.candidates is None:
            probability = torch.softmax(logit, dim=0)
            self.node_weight.copy_(probability * (1 - self.exploration)
                                   + self.exploration / self.num_entities)
        else:
            probability = torch.softmax(logit[self.candidates], dim=0)
            probability = (probability * (1 - self.exploration)
                           + self.exploration / self.num_candidates)
            self.node_weight.zero_().index_copy_(0, self.candidates, probability)
        self.cumulative[0] = 0
        self.cumulative[1:].copy_(self.node_weight.cumsum(0))
        self.src_weight = self.dst_weight = self.node_weight

    def _draw(self, size: Tuple[int, ...], device: torch.device,
              original: Optional[Tensor] = None) -> Tensor:
        if self.cumulative.device != device:
            raise ValueError(f"The statistics of {self.__class__.__name__} live on "
                             f"'{self.cumulative.device}', the triples on '{device}' "
                             f"(call `.to('{device}')` first)")
        u = rand_rows(size, dtype=torch.double, generator=self._rng(device), device=device)
        total = self.cumulative[-1]
        if original is None:
            draw = torch.searchsorted(self.cumulative[1:], u * total, right=True)
            return torch.where(draw < self.num_entities, draw, self._spare[0])
        # Cut the original's piece [lower, upper) out of [0, total) and draw from what is left.
        lower, upper = self.cumulative[original], self.cumulative[original + 1]
        u = u * (total - (upper - lower))
        u = torch.where(u < lower, u, torch.maximum(u + (upper - lower), upper))
        draw = torch.searchsorted(self.cumulative[1:], u, right=True)
        spare = torch.where(original == self._spare[0], self._spare[1], self._spare[0])
        return torch.where(draw < self.num_entities, draw, spare)

    # Entropy #################################################################

    @staticmethod
    def entropy(score: Tensor) -> Tensor:
        r"""The entropy of :math:`\sigma(\text{score})` in nats, computed from the logit.

        With :math:`a = |\phi|` it is :math:`\log(1 + e^{-a}) + a \, \sigma(-a)`: two terms
        that are never negative, so nothing cancels and nothing overflows.
        """
        score = score.abs().clamp(max=1e4)  # The second term of an infinite score is 0, not NaN.
        entropy = F.softplus(-score) + score * torch.sigmoid(-score)
        return entropy.clamp(max=MAX_ENTROPY)

    def classify(self, score: Tensor) -> Tensor:
        r"""The class of each negative: 0 easy, 1 ambiguous, 2 hard (as :obj:`torch.int8`).

        Dropped negatives (:obj:`confident="drop"`) are classed by their entropy, too.
        """
        entropy, _ = self._entropy(score, None)
        first, second = self.threshold.unbind(0)
        return (entropy >= first).to(torch.int8) + (entropy >= second).to(torch.int8)

    def _entropy(self, score: Tensor, mask: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        r"""The entropy that counts, and which negatives count at all."""
        score = _detach(score)
        entropy = self.entropy(score)
        valid = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
        if self.confident != 'entropy':
            bound = math.log(self.confident_bound / (1 - self.confident_bound))
            confident = score > bound  # p > confident_bound
            if self.confident == 'hard':
                entropy = entropy.masked_fill(confident, MAX_ENTROPY)
            else:
                valid = valid & ~confident
        return entropy, valid

    @torch.no_grad()
    def weight(self, score: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        r"""The class weight of each negative, zero where masked or dropped.

        Args:
            score (torch.Tensor): Scores (logits) of the negatives :math:`(B, n)`.
            mask (torch.Tensor, optional): The mask of :meth:`corrupt`.

        Returns:
            torch.Tensor: Weights :math:`(B, n)` without gradient, at least in single precision;
            with :obj:`normalize` their mean over negatives neither masked nor dropped is one.
        """
        entropy, valid = self._entropy(score, mask)
        first, second = self.threshold.unbind(0)
        easy, ambiguous, hard = (entropy.new_full((), w) for w in self.class_weights)
        weight = torch.where(entropy >= first, torch.where(entropy >= second, hard, ambiguous),
                             easy)
        weight = weight * valid
        if self.normalize:
            # All weights may be zero: class weight 0, or nothing left of the batch.
            total = batch_sum(weight.sum()).clamp(min=torch.finfo(weight.dtype).tiny)
            weight = weight * (batch_sum(valid.sum()) / total)
        return weight

    # Statistics ##############################################################

    @torch.no_grad()
    def update(self, neg_index: Tensor, score: Tensor, mask: Optional[Tensor] = None) -> None:
        r"""Take the entropies of a batch's negatives into the running ones.

        Scores that are NaN are left out, so that one bad step cannot spoil the statistics.
        Processes that share a batch (:mod:`pyg_mmkgc.data.share`) all take in all of it, so that
        their statistics stay the same.

        Args:
            neg_index (torch.Tensor): The negatives :math:`(B, n)`.
            score (torch.Tensor): Their scores (logits) :math:`(B, n)`.
            mask (torch.Tensor, optional): The mask of :meth:`corrupt`.
        """
        if neg_index.numel() == 0:
            return
        neg_index, score = batch_rows(neg_index), batch_rows(_detach(score))
        entropy, valid = self._entropy(score, None if mask is None else batch_rows(mask))
        valid = valid & ~entropy.isnan()
        entropy = entropy.masked_fill(~valid, 0).to(self.running_entropy.dtype)
        # One sum gives entropy and number: their ratio is the mean without what is masked. Rows of
        # the batch alone are looked at, whatever the number of entities.
        index = neg_index.reshape(-1)
        src = torch.stack([entropy, valid.to(entropy.dtype)], dim=-1).view(-1, 2)
        total, count = self._sums.index_add_(0, index, src)[index].unbind(dim=-1)  # [B * n] each
        self._sums[index] = 0
        mean, old = total / count.clamp(min=1), self.running_entropy[index]
        # An entity that stands here several times is given one and the same value each time.
        self.running_entropy[index] = old.lerp(mean, self.momentum * (count > 0))
        self.count.index_add_(0, index, src[:, 1].double())
        if self.quantiles is not None:
            self._update_threshold(entropy, valid, self.quantiles)

        self.num_updates += 1
        if self.num_updates % self.refresh_every == 0:
            self.refresh()

    def _update_threshold(self, entropy: Tensor, valid: Tensor,
                          quantiles: Sequence[float]) -> None:
        # Masked values sort to the end, so that the quantile needs no selection.
        entropy = entropy.masked_fill(~valid, math.inf).view(-1).sort().values
        num_valid = valid.sum()
        q = torch.stack([torch.full_like(entropy[0], value) for value in quantiles])
        position = q * (num_valid - 1).clamp(min=0)
        lower = position.floor()
        value = torch.lerp(entropy[lower.long()], entropy[position.ceil().long()],
                           position - lower)
        momentum = self.momentum if self.num_updates > 0 else 1.0
        value = torch.where(num_valid > 0, value.double(), self.threshold)
        self.threshold.lerp_(value, momentum).clamp_(max=MAX_ENTROPY)

    # State ###################################################################

    def to(self, device: Union[torch.device, str]) -> 'EGNS':
        super().to(device)
        self._sums = self._sums.to(device)
        self.src_weight = self.dst_weight = self.node_weight
        return self

    def state_dict(self) -> Dict[str, Tensor]:
        return {**super().state_dict(), 'num_updates': torch.tensor(self.num_updates)}

    def load_state_dict(self, state: Dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.num_updates = int(state['num_updates'])

    def _device(self) -> torch.device:
        return self.cumulative.device

    def _extra_repr(self) -> str:
        classes = (f'quantiles={self.quantiles}' if self.quantiles is not None else
                   f'thresholds={self.thresholds}')
        return f', {classes}, class_weights={self.class_weights}, confident={self.confident!r}'
