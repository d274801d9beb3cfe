from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import Embedding
from torch_geometric.nn.inits import zeros

from pyg_mmkgc.nn.information import InfoNCE, MutualInformation
from pyg_mmkgc.nn.module_dict import ModuleDict
from pyg_mmkgc.nn.rows import select_rows


class EntityViews(NamedTuple):
    r"""What :class:`CMKF` knows of a set of entities before it is asked under a relation.

    With :math:`J = \sum_m K_m` views over all modalities and :math:`n` reference entities:

    Args:
        views (torch.Tensor): :math:`v_{m,k}`, modality by modality, :math:`(N, J, F)`.
        modality_views (torch.Tensor): :math:`\bar h_m`, :math:`(N, M, F)`.
        view_redundancy (torch.Tensor): :math:`R_{m,k}` in nats, :math:`(N, J)`.
        modality_redundancy (torch.Tensor): :math:`R_m` in nats, :math:`(N, M)`.
        mask (torch.Tensor): Which entity has which modality, :math:`(N, M)`.
        kept (torch.Tensor): Which of them the joint view is made of, :math:`(N, M)`; others are
            dropped in this training step.
        reference (Tuple): Views :math:`(n, J, F)`, modality views :math:`(n, M, F)` and mask
            :math:`(n, M)` of the entities that information was contrasted with.
        sample (torch.Tensor, optional): The entities that information is learned from in this
            step, :math:`(S)`; None in evaluation.
    """
    views: Tensor
    modality_views: Tensor
    view_redundancy: Tensor
    modality_redundancy: Tensor
    mask: Tensor
    kept: Tensor
    reference: Tuple[Tensor, ...]
    sample: Optional[Tensor] = None


class CMKF(torch.nn.Module):
    r"""Complementarity-guided modality knowledge fusion, our reconstruction of the module of that
    name in MoCME (`"Complementarity-driven Representation Learning for Multi-modal
    Knowledge Graph Completion"
    <https://arxiv.org/abs/2507.20620>`_, whose public text states the idea and not the formulas).

    A view is worth the more, the less of it the other views say already. With the estimated
    pointwise information :math:`\hat I` and relation-free gates:

    .. math::
        R_{m,k}(e) &= \tfrac{1}{K-1} \textstyle\sum_{j \ne k} \hat I(v_{m,k}; v_{m,j})(e), \qquad
        c_{m,k} = \mathrm{softmax}_k(-R_{m,k} / \tau) \\
        \bar h_m(e) &= \textstyle\sum_k c_{m,k} v_{m,k}(e) \\
        R_m(e) &= \mathrm{mean}_{n \ne m} \, \hat I(\bar h_m; \bar h_n)(e)
        \quad \text{over available } n \\
        w_{m,k}(e \mid r) &\propto g_{m,k}(e, r) \, c_{m,k}(e), \qquad
        \beta_m(e \mid r) = \mathrm{softmax}_m(-e^{\omega} R_m / \tau' + \theta_m
        + \delta_{r,m}) \\
        h(e \mid r) &= \textstyle\sum_m \beta_m(e \mid r) \sum_k w_{m,k}(e \mid r) \, v_{m,k}(e)

    An empty mean is 0, so that one expert or one modality is no special case. A modality that an
    entity lacks has weight exactly zero; an entity without any is one learned vector.

    How much redundancy counts (:math:`\omega`, at first 0) is learned like the other weights.
    Redundancy is measured, not trained through: :math:`R` carries no gradient into the views (it
    could be lowered by making views useless), only :meth:`redundancy` does, where asked for.
    In training :math:`\hat I` contrasts against a random part of the entities at hand. The last
    of these is kept as a *reference bank* (as batch normalisation keeps its statistics) and saved
    with the module; in evaluation it is the only contrast, so that no weight depends on a batch.

    Args:
        num_experts (Dict[str, int]): The number of experts of each modality.
        channels (int): Size of each view.
        num_relations (int, optional): The number of original relations :math:`R`.
            (default: :obj:`1`)
        estimator (Callable, optional): Makes a :class:`~pyg_mmkgc.nn.information.MutualInformation`
            from a number of views and their size. (default: :class:`InfoNCE`)
        temperature (float, optional): :math:`\tau` within a modality. (default: :obj:`1.0`)
        modality_temperature (float, optional): :math:`\tau'` between modalities.
            (default: :obj:`1.0`)
        intra (bool, optional): If set to :obj:`False`, :math:`R_{m,k} = 0`.
            (default: :obj:`True`)
        inter (bool, optional): If set to :obj:`False`, :math:`R_m = 0`. (default: :obj:`True`)
        uniform (bool, optional): If set to :obj:`True`, all weights are equal: the plain mean over
            available modalities, to compare with. (default: :obj:`False`)
        relation_weight (bool, optional): If set to :obj:`False`, :math:`\delta_{r,m} = 0`.
            (default: :obj:`True`)
        num_references (int, optional): The size :math:`n` of the reference bank.
            (default: :obj:`256`)
        max_samples (int, optional): The largest number of entities that :meth:`learning_loss` and
            :meth:`redundancy` look at in one step. (default: :obj:`1024`)

    Raises:
        ValueError: If there is no modality or a temperature is not positive.
    """
    bank_views: Tensor
    bank_modality_views: Tensor
    bank_mask: Tensor

    def __init__(self, num_experts: Dict[str, int], channels: int, num_relations: int = 1,
                 estimator: Callable[[int, int], MutualInformation] = InfoNCE,
                 temperature: float = 1.0, modality_temperature: float = 1.0, intra: bool = True,
                 inter: bool = True, uniform: bool = False, relation_weight: bool = True,
                 num_references: int = 256, max_samples: int = 1024):
        super().__init__()
        if not num_experts:
            raise ValueError("'num_experts' names no modality (expected at least one)")
        for name, value in [('temperature', temperature),
                            ('modality_temperature', modality_temperature)]:
            if value <= 0:
                raise ValueError(f'{name!r} needs to be positive (got {value})')
        # Sorted, so that the order of a dictionary never changes a result:
        self.num_experts = {m: num_experts[m] for m in sorted(num_experts)}
        self.channels = channels
        self.num_relations = num_relations
        self.uniform = uniform
        self.temperature = temperature
        self.modality_temperature = modality_temperature
        self.num_references = num_references
        self.max_samples = max_samples

        self.intra = ModuleDict({
            m: estimator(k, channels) for m, k in self.num_experts.items()
            if intra and k > 1 and not uniform
        })
        self.inter = (estimator(len(self.num_experts), channels)
                      if inter and len(self.num_experts) > 1 and not uniform else None)

        num_views, num_modalities = sum(self.num_experts.values()), len(self.num_experts)
        # theta_m, and what each relation and inverse relation adds to it:
        self.modality_weight = torch.nn.Parameter(torch.empty(num_modalities))
        self.redundancy_scale = torch.nn.Parameter(torch.empty(()))
        self.relation_weight = (Embedding(2 * num_relations, num_modalities)
                                if relation_weight else None)
        self.missing = torch.nn.Parameter(torch.empty(channels))
        self.register_buffer('bank_views', torch.empty(num_references, num_views, channels))
        self.register_buffer('bank_modality_views',
                             torch.empty(num_references, num_modalities, channels))
        self.register_buffer('bank_mask',
                             torch.empty(num_references, num_modalities, dtype=torch.bool))
        self.reset_parameters()

    @property
    def modalities(self) -> List[str]:
        r"""The modalities in the order in which weights are given."""
        return list(self.num_experts)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module and empties the reference bank."""
        for estimator in self.estimators():
            estimator.reset_parameters()
        zeros(self.modality_weight)
        zeros(self.redundancy_scale)
        if self.relation_weight is not None:
            zeros(self.relation_weight.weight)
        zeros(self.missing)
        for buffer in (self.bank_views, self.bank_modality_views, self.bank_mask):
            buffer.zero_()  # Nobody is there to contrast with: all redundancies are zero.

    def gates(self) -> List[torch.nn.Parameter]:
        r"""What weighs modalities: :math:`\theta`, :math:`\omega` and :math:`\delta`."""
        relation = [] if self.relation_weight is None else self.relation_weight.parameters()
        return [self.modality_weight, self.redundancy_scale, *relation]

    def estimators(self) -> List[MutualInformation]:
        r"""All information estimators of the module."""
        return [*self.intra.values(), *([] if self.inter is None else [self.inter])]

    def forward(self, views: Mapping[str, Tensor], mask: Mapping[str, Tensor],
                pool: Optional[Tensor] = None,
                kept: Optional[Mapping[str, Tensor]] = None) -> EntityViews:
        r"""Everything about a set of entities that no relation changes.

        Args:
            views (Mapping[str, torch.Tensor]): For each modality, views :math:`(N, K_m, F)`.
            mask (Mapping[str, torch.Tensor]): For each modality, whether an entity has it,
                :math:`(N)`.
            pool (torch.Tensor, optional): The entities that training may learn of, as row
                numbers; nothing is contrasted with others. (default: all)
            kept (Mapping[str, torch.Tensor], optional): For each modality, the entities whose
                joint view it is part of, :math:`(N)`. (default: all that have it)
        """
        stacked = torch.cat([views[m] for m in self.num_experts], dim=1)  # [N, J, C]
        available = torch.stack([mask[m] for m in self.num_experts], dim=1)  # [N, M]
        in_joint = available if kept is None else torch.stack(
            [kept[m] for m in self.num_experts], dim=1)
        rows = sample = None
        if self.training:
            if pool is None:
                pool = torch.arange(stacked.size(0), device=stacked.device)
            rows, sample = pool[torch.randint(
                pool.numel(), (self.num_references + self.max_samples, ), device=pool.device)
            ].split([self.num_references, self.max_samples])

        with torch.no_grad():
            bank_views = self.bank_views if rows is None else stacked[rows]
            bank_mask = self.bank_mask if rows is None else available[rows]
            redundancy = torch.cat([
                self._mean(self.intra[m](*inputs), inputs[2]) if m in self.intra else
                inputs[0].new_zeros(inputs[0].shape[:2])
                for m, inputs in self._views(stacked, bank_views, available, bank_mask).items()
            ], dim=1)  # [N, J]
        # Relation-free, so that it is computed once for each entity:
        weight = torch.cat([(-r / self.temperature).softmax(dim=-1)
                            for r in self._split(redundancy)], dim=1)
        modality_views = stacked if len(self.num_experts) == stacked.size(1) else torch.stack([
            _mix(w, v) for w, v in zip(self._split(weight), self._split(stacked), strict=True)
        ], dim=1)  # [N, M, C]
        with torch.no_grad():
            bank_modality_views = self.bank_modality_views if rows is None else \
                modality_views[rows]
            if self.inter is None:
                modality_redundancy = stacked.new_zeros(available.shape)
            else:
                pairs = self.inter(modality_views, bank_modality_views, available, bank_mask)
                modality_redundancy = self._mean(pairs, available)
            if rows is not None:
                self.bank_views.copy_(bank_views)
                self.bank_modality_views.copy_(bank_modality_views)
                self.bank_mask.copy_(bank_mask)
        return EntityViews(stacked, modality_views, redundancy, modality_redundancy, available,
                           in_joint, (bank_views, bank_modality_views, bank_mask), sample)

    def weights(self, state: EntityViews, gate_logits: Mapping[str, Tensor],
                rel_type: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        r"""Weights of the views and of the modalities under a relation.

        Args:
            state (EntityViews): The entities, one row for each question.
            gate_logits (Mapping[str, torch.Tensor]): For each modality, logits :math:`(B, K_m)`.
            rel_type (torch.Tensor, optional): Relations :math:`(B)`; :obj:`None` is the
                relation-free weight. (default: :obj:`None`)

        Returns:
            (torch.Tensor, torch.Tensor): :math:`w_{m,k}` of shape :math:`(B, J)`, which sum to one
            within each modality, and :math:`\beta_m` of shape :math:`(B, M)`, which sum to one, or
            to zero for an entity without any modality.
        """
        theta = torch.zeros_like(self.modality_weight)
        if self.uniform:
            gate_logits = {m: torch.zeros_like(x) for m, x in gate_logits.items()}
        else:
            theta = self.modality_weight
            if rel_type is not None and self.relation_weight is not None:
                theta = theta + self.relation_weight(rel_type)
        scale = self.redundancy_scale.exp() / self.modality_temperature
        logits = theta - scale * state.modality_redundancy
        logits = logits.masked_fill(~state.kept, torch.finfo(logits.dtype).min)
        # The product makes the weight of a missing modality exactly zero, also if all are missing:
        beta = logits.softmax(dim=-1) * state.kept  # [B, M]
        weight = torch.cat([
            (gate_logits[m] - r / self.temperature).softmax(dim=-1)
            for m, r in zip(self.num_experts, self._split(state.view_redundancy), strict=True)
        ], dim=1)  # [B, J]
        return weight, beta

    def fuse(self, state: EntityViews, weight: Tensor, beta: Tensor) -> Tensor:
        r"""The joint view :math:`h`, :math:`(B, F)`, from what :meth:`weights` returns."""
        weight = torch.cat([w * beta[:, i:i + 1] for i, w in enumerate(self._split(weight))], dim=1)
        joint = torch.einsum('bj,bjc->bc', weight, state.views)
        # Under autocast the joint view stays as narrow as its parts.
        return torch.where(state.kept.any(dim=-1, keepdim=True), joint,
                           self.missing.to(joint.dtype))

    def single(self, state: EntityViews, weight: Tensor,
               modalities: Optional[Sequence[str]] = None) -> Dict[str, Tensor]:
        r"""The view of each modality alone, :math:`h_m = \sum_k w_{m,k} v_{m,k}`, :math:`(B, F)`;
        zero where an entity lacks the modality.

        Args:
            state (EntityViews): The entities.
            weight (torch.Tensor): What :meth:`weights` returned for them.
            modalities (Sequence[str], optional): Which modalities. (default: all)
        """
        return {
            m: _mix(w, v) * state.mask[:, i:i + 1]
            for i, (m, w, v) in enumerate(zip(self.num_experts, self._split(weight),
                                              self._split(state.views), strict=True))
            if modalities is None or m in modalities
        }

    def learning_loss(self, state: EntityViews) -> Tensor:
        r"""The loss that trains the information estimators, and nothing else."""
        return sum((estimator.learning_loss(*inputs) for estimator, inputs in self._inputs(state)),
                   start=state.views.new_zeros(()))

    def redundancy(self, state: EntityViews) -> Tensor:
        r"""Mean estimated information between views, with gradients into the views.

        Added to a loss it pushes experts apart (MoMoK's expert disentanglement)."""
        terms = [estimator(*inputs).mean() for estimator, inputs in self._inputs(state)]
        return torch.stack(terms).mean() if terms else state.views.new_zeros(())

    def _inputs(self, state: EntityViews) -> Iterator[Tuple[MutualInformation, Tuple[Tensor, ...]]]:
        views, modality_views, mask = (
            x if state.sample is None else select_rows(x, state.sample)
            for x in (state.views, state.modality_views, state.mask))
        bank_views, bank_modality_views, bank_mask = state.reference
        inputs = self._views(views, bank_views, mask, bank_mask)
        for m, estimator in self.intra.items():
            yield estimator, inputs[m]
        if self.inter is not None:
            yield self.inter, (modality_views, bank_modality_views, mask, bank_mask)

    def _views(self, views: Tensor, bank: Tensor, mask: Tensor,
               bank_mask: Tensor) -> Dict[str, Tuple[Tensor, ...]]:
        r"""The inputs of each modality's estimator: views, bank, and which of their rows exist."""
        return {
            m: (v, b, mask[:, i:i + 1].expand(v.shape[:2]),
                bank_mask[:, i:i + 1].expand(b.shape[:2]))
            for i, (m, v, b) in enumerate(
                zip(self.num_experts, self._split(views), self._split(bank), strict=True))
        }

    def _split(self, stacked: Tensor) -> Sequence[Tensor]:
        return stacked.split(list(self.num_experts.values()), dim=1)

    @staticmethod
    def _mean(information: Tensor, mask: Tensor) -> Tensor:
        # The diagonal is zero, so that a row sum is a sum over the *other* views:
        others = mask.sum(dim=-1, keepdim=True) - mask.long()
        return information.sum(dim=-1) / others.clamp(min=1)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.num_experts}, channels={self.channels}, '
                f'num_relations={self.num_relations})')


def _mix(weight: Tensor, views: Tensor) -> Tensor:
    # One view has all the weight, and costs no pass over it.
    return views.squeeze(1) if views.size(1) == 1 else torch.einsum('nk,nkc->nc', weight, views)
