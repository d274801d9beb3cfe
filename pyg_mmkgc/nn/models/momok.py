import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding, Parameter
from torch.utils.checkpoint import checkpoint

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.nn.decoders import JointDecision, TuckERDecoder
from pyg_mmkgc.nn.experts import ModalityExperts
from pyg_mmkgc.nn.fusion.adaptive_fusion import AdaptiveFusion
from pyg_mmkgc.nn.information import CLUB
from pyg_mmkgc.nn.models.mocme import JOINT
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel
from pyg_mmkgc.nn.module_dict import ModuleDict
from pyg_mmkgc.nn.rows import select_rows

#: Candidates whose views are made at once on a CPU: where nothing is trained, so that they stay in
#: the cache; in training, where the backward pass makes them again, so that memory holds few.
BLOCK_ROWS, TRAINED_ROWS = 512, 2048


class Entities(NamedTuple):
    r"""Entities as the experts of :class:`MoMoK` find them.

    Args:
        x (Dict[str, torch.Tensor]): For each modality, raw features :math:`(N, F_m)`.
        mask (Dict[str, torch.Tensor]): For each modality, whether an entity has it, :math:`(N)`.
    """
    x: Dict[str, Tensor]
    mask: Dict[str, Tensor]

    def select(self, index: Tensor) -> 'Entities':
        r"""The rows of the given entities."""
        return Entities({m: select_rows(x, index) for m, x in self.x.items()},
                        {m: mask[index] for m, mask in self.mask.items()})

    def split(self, size: int) -> List['Entities']:
        r"""As many entities as given at a time."""
        x, mask = ([dict(zip(part, rows, strict=True)) for rows in
                    zip(*(value.split(size) for value in part.values()), strict=True)]
                   for part in self)
        return [Entities(*block) for block in zip(x, mask, strict=True)]


class MoMoK(MultiModalModel):
    r"""The mixture of modality knowledge experts from the `"Multiple Heads are Better than One:
    Mixture of Modality Knowledge Experts for Entity Representation Learning"
    <https://arxiv.org/abs/2405.16869>`_ paper. Its three parts, by the names that it gives them:

    **Relation-guided modality knowledge experts (ReMoKE).** :math:`K` experts look at each
    modality, and a gate with noise :math:`\epsilon` in training mixes them; the relation guides
    it by a temperature (:class:`~pyg_mmkgc.nn.ModalityExperts`):

    .. math::
        v_{m,k}(e) &= W_{m,k} (x_m(e) - b_{m,k}) \\
        g_{m,k}(e, r) &= \mathrm{softmax}_k \left( \frac{x_m(e)^{\top} u_{m,k} + \epsilon_{m,k}}
        {\sigma(\rho_{r,m})} \right), \qquad
        \epsilon_{m,k} \sim \mathcal{N}(0, (\mathrm{softplus}(x_m(e)^{\top} n_{m,k}) + \eta)^2) \\
        h_m(e \mid r) &= \textstyle\sum_k g_{m,k}(e, r) \, v_{m,k}(e)

    **Multi-modal joint decision (MuJoD).** :class:`~pyg_mmkgc.nn.AdaptiveFusion` makes a joint view
    of all modalities. It and each modality have a TuckER head of their own, and the prediction is
    the mean of their probabilities (:class:`~pyg_mmkgc.nn.JointDecision`): with
    :math:`\mathcal{V}` the views that both entities have,

    .. math::
        s_v(h, r, t) = \mathcal{W}_v \times_1 r_v \times_2 h_v(h \mid r) \times_3 h_v(t), \qquad
        p(h, r, t) = \frac{1}{|\mathcal{V}|} \sum_{v \in \mathcal{V}} \sigma(s_v(h, r, t)) .

    The head of a query is seen under its relation; a candidate has no relation, and no temperature
    (:math:`\sigma(\rho) = 1`), so that one table serves every query.

    **Expert information disentanglement (ExID).** The experts of a modality are kept apart by the
    information that they share, as :class:`~pyg_mmkgc.nn.CLUB` estimates it from a sample
    :math:`\mathcal{S}` of the entities asked about; its likelihood is trained in alternation:

    .. math::
        \mathcal{L} = \sum_{v} \mathrm{BCE}_v + \frac{\mu}{M} \sum_m
        \mathop{\mathrm{mean}}_{e \in \mathcal{S}, \, i \ne j}
        \hat I(v_{m,i}; v_{m,j})(e), \qquad
        \mathrm{BCE}_v = \mathop{\mathrm{mean}}_{(h, r)} \mathop{\mathrm{mean}}_{t'} \,
        \mathrm{BCE}(\sigma(s_v(h, r, t')), y_{t'}), \qquad
        y_{t'} = (1 - \varepsilon) [t' \text{ answers } (h, r)] + \frac{\kappa}{N} .

    We had the paper's abstract and summaries at hand, not its numbered equations. The gate, the
    branches and the ReLU of the fusion, the mean of probabilities and the constants are those of
    the released code, from which this class differs in:

    * A modality that an entity lacks is masked in fusion, heads, loss and decision; there are no
      masks there.
    * All views have :obj:`hidden_channels`; there, those of a modality are as wide as its features,
      and the features are trained (:obj:`tune_features=True` trains them here).
    * Each modality has temperatures of its own, and the joint head has vectors of its own for
      relations; there, temperatures are shared and the vectors are fused from the others.
    * No batch normalisation, through which a score would depend on its batch: with the binary
      cross-entropy each head has a learned number that is added to its scores instead. TuckER
      drops channels of head and query, not entries of a matrix that many rows share.
    * :math:`\kappa = \varepsilon`, the textbook's labels; there :math:`\kappa = 1` with
      :math:`\varepsilon = 0.1` (:obj:`smoothing_mass`).
    * CLUB's likelihood includes the log-variance and contrasts with all of the sample at once; all
      pairs of experts are taken. There, the log-variance is left out, one random pair is drawn
      from an unseeded generator, and all of the batch is taken.
    * A query :math:`(h, r)` occurs in an epoch as often as it has answers
      (:class:`~pyg_mmkgc.sampler.TripleLoader`), there once.
    * An epoch is chosen on the validation split, not metric by metric on the test split.

    A training step builds the matrices of TuckER once for each distinct relation of the batch, the
    views of all entities once, and no label matrix.

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        in_channels (Dict[str, int]): Size of the raw feature of each modality; may be empty.
        hidden_channels (int, optional): Size of each view. (default: :obj:`256`)
        relation_channels (int, optional): Size of the vectors of relations
            (default: :obj:`hidden_channels`).
        num_experts (int or Dict[str, int], optional): The number of experts :math:`K`, for all
            modalities or for some of them by name (one for the rest). (default: :obj:`3`)
        num_branches (int, optional): See :class:`AdaptiveFusion`. (default: :obj:`2`)
        noise (float, optional): :math:`\eta`, the least standard deviation of the noise; with
            :obj:`learned_noise=False` all of it. (default: :obj:`0.01`)
        learned_noise (bool, optional): If set to :obj:`False`, the noise does not depend on the
            entity. (default: :obj:`True`)
        disentanglement_weight (float, optional): :math:`\mu`; with 0 there is no estimator.
            (default: :obj:`1e-4`)
        num_samples (int, optional): The size of :math:`\mathcal{S}`. (default: :obj:`256`)
        dropout (float, optional): Dropout on raw features but structure. (default: :obj:`0.0`)
        fusion_dropout (float, optional): See :class:`AdaptiveFusion`. (default: :obj:`0.2`)
        input_dropout (float, optional): Dropout of TuckER's heads. (default: :obj:`0.3`)
        query_dropout (float, optional): Dropout of TuckER's queries. (default: :obj:`0.5`)
        tune_features (bool, optional): If set to :obj:`True`, a learned vector that is zero at
            first is added to each raw feature, which trains the feature itself.
            (default: :obj:`False`)
        objective (str, optional): ``'bce'``, or ``'softmax'``, see :class:`KGModel`.
            (default: :obj:`"bce"`)
        label_smoothing (float, optional): :math:`\varepsilon`; :math:`\kappa` is
            :obj:`smoothing_mass` of :class:`KGModel`. (default: :obj:`0.1`)
        structure_channels (int, optional): See :class:`MultiModalModel`.
        **kwargs (optional): Further arguments of :class:`MultiModalModel` and :class:`KGModel`
            other than :obj:`neg_sampling`.

    Raises:
        ValueError: If a name is unknown, an argument out of range, or negatives are sampled.
    """
    def __init__(self, num_entities: int, num_relations: int, in_channels: Mapping[str, int],
                 hidden_channels: int = 256, relation_channels: Optional[int] = None,
                 num_experts: Union[int, Dict[str, int]] = 3, num_branches: int = 2,
                 noise: float = 0.01, learned_noise: bool = True,
                 disentanglement_weight: float = 1e-4, num_samples: int = 256,
                 dropout: float = 0.0, fusion_dropout: float = 0.2, input_dropout: float = 0.3,
                 query_dropout: float = 0.5, tune_features: bool = False, objective: str = 'bce',
                 label_smoothing: float = 0.1, structure_channels: Optional[int] = None,
                 **kwargs: Any):
        if JOINT in in_channels:
            raise ValueError(f"'in_channels' must not name {JOINT!r}, which is the joint view")
        if objective == 'sampled' or kwargs.get('neg_sampling') is not None:
            raise ValueError("'MoMoK' trains each head over all entities (expected "
                             "'neg_sampling' to be None and 'objective' 'bce' or 'softmax')")
        if num_samples < 1:
            raise ValueError(f"'num_samples' needs to be at least 1 (got {num_samples})")
        modalities = sorted([*in_channels, *([] if structure_channels == 0 else [STRUCTURE])])
        # One candidate in so many is true, to begin with; a softmax would not notice.
        bias = -math.log(num_entities) if objective == 'bce' else None
        super().__init__(
            num_entities, num_relations, hidden_channels,
            JointDecision({
                name: TuckERDecoder(num_relations, hidden_channels, relation_channels,
                                    input_dropout, query_dropout, bias)
                for name in [JOINT, *modalities]
            }, average=True),
            in_channels, structure_channels, objective=objective, label_smoothing=label_smoothing,
            **kwargs)
        self.disentanglement_weight = disentanglement_weight
        self.num_samples = num_samples
        num_experts = self.per_modality('num_experts', num_experts, 1)
        self.experts = ModuleDict({
            m: ModalityExperts(self.channels[m], hidden_channels, num_experts[m], num_relations,
                               dropout=0.0 if m == STRUCTURE else dropout, noise=noise,
                               relation_bias=False, learned_noise=learned_noise)
            for m in self.modalities
        })
        self.fusion = AdaptiveFusion(self.modalities, hidden_channels, num_branches,
                                     fusion_dropout)
        self.shift = ModuleDict({
            m: Embedding(num_entities, channels)
            for m, channels in self.in_channels.items() if tune_features
        })
        self.estimators = ModuleDict({
            m: CLUB(k, hidden_channels, max(1, hidden_channels // 2))
            for m, k in num_experts.items() if k > 1 and disentanglement_weight > 0
        })
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for experts in self.experts.values():
            experts.reset_parameters()
        self.fusion.reset_parameters()
        for estimator in self.estimators.values():
            estimator.reset_parameters()
        for table in self.shift.values():
            torch.nn.init.zeros_(table.weight)

    def inputs(self, index: Optional[Tensor] = None) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
        x_dict, mask_dict = super().inputs(index)
        for m, table in self.shift.items():
            x_dict[m] = x_dict[m] + (table.weight if index is None else table(index))
        return x_dict, mask_dict

    def entity_tables(self) -> List[Embedding]:
        return [*super().entity_tables(), *self.shift.values()]

    # Vectors ####################################################################################

    def encode(self, index: Optional[Tensor] = None) -> Entities:
        x_dict, mask_dict = self.inputs(index)
        return Entities(x_dict, self.drop(mask_dict))

    def head_vectors(self, encoded: Entities, row: Tensor, rel_type: Tensor) -> Tensor:
        return self._vectors(encoded.select(row), rel_type)

    def candidate_vectors(self, encoded: Entities) -> Tensor:
        x, trained = encoded.x[self.modalities[0]], torch.is_grad_enabled()
        size = TRAINED_ROWS if trained else BLOCK_ROWS
        if x.device.type != 'cpu' or x.size(0) <= size:
            return self._vectors(encoded)
        blocks = encoded.split(size)
        if not trained:
            return torch.cat([self._vectors(block) for block in blocks])
        return torch.cat([checkpoint(self._vectors, block, use_reentrant=False)
                          for block in blocks])

    def candidate_views(self, encoded: Entities) -> Dict[str, Tensor]:
        views = self.views(encoded)
        return {JOINT: self.fusion(views, encoded.mask)[0], **views}

    def experts_of(self, encoded: Entities) -> Dict[str, Tuple[Tensor, Tensor]]:
        r"""For each modality, views :math:`v_{m,k}` and the relation-free part of the gate; see
        :meth:`ModalityExperts.forward`."""
        # What stands in a missing row must not matter, not even a NaN:
        return {m: experts(torch.where(encoded.mask[m].unsqueeze(-1), encoded.x[m], 0.0))
                for m, experts in self.experts.items()}

    def views(self, encoded: Entities, rel_type: Optional[Tensor] = None) -> Dict[str, Tensor]:
        r"""The view of each modality, :math:`h_m(e \mid r)`, or :math:`h_m(e)` without relations,
        each :math:`(B, F)`; zero where an entity lacks it."""
        out = {}
        for m, (views, logits) in self.experts_of(encoded).items():
            gate = self.experts[m].gate_logits(logits, rel_type).softmax(dim=-1)
            gate = gate * encoded.mask[m].unsqueeze(-1)
            out[m] = torch.einsum('bk,bkc->bc', gate, views)
        return out

    def _vectors(self, encoded: Entities, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The joint view and the view of each modality, and which of them there are."""
        views = self.views(encoded, rel_type)
        joint, _ = self.fusion(views, encoded.mask)
        has = torch.stack([encoded.mask[m] for m in self.modalities], dim=1)
        has = torch.cat([has.any(dim=1, keepdim=True), has], dim=1)
        return torch.cat([joint, *views.values(), has.to(joint.dtype)], dim=1)

    # Training ###################################################################################

    def auxiliary_losses(self, encoded: Entities, head_row: Tensor) -> Dict[str, Tensor]:
        if not self.estimators:
            return {}
        sample = torch.randperm(head_row.numel(), device=head_row.device)[:self.num_samples]
        return {'disentanglement': self.disentanglement_weight * self.information(
            encoded.select(head_row[sample]))}

    def information(self, encoded: Entities) -> Tensor:
        r"""The mean estimated information (in nats) between two experts of a modality, over
        entities that have it, pairs and modalities, with gradients into the views."""
        terms = []
        for views, mask, estimator in self._estimates(encoded):
            num_pairs = mask.sum() * (estimator.num_views - 1)
            terms.append(estimator(views, views, mask, mask).sum() / num_pairs.clamp(min=1))
        return torch.stack(terms).mean()

    def alternating_parameters(self) -> List[Parameter]:
        return list(self.estimators.parameters())

    def alternating_loss(self) -> Tensor:
        if not self.estimators:
            return super().alternating_loss()
        pool = self.seen_index
        index = pool[torch.randint(pool.numel(), (self.num_samples, ), device=pool.device)]
        with torch.no_grad():
            found = self._estimates(self.encode(index))
        return torch.stack([estimator.learning_loss(views, views, mask, mask)
                            for views, mask, estimator in found]).mean()

    def _estimates(self, encoded: Entities) -> List[Tuple[Tensor, Tensor, CLUB]]:
        views = self.experts_of(encoded)
        return [(views[m][0], encoded.mask[m].unsqueeze(1).expand(-1, estimator.num_views),
                 estimator) for m, estimator in self.estimators.items()]

    # Analysis ###################################################################################

    @torch.no_grad()
    def modality_weights(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The share of each modality in the decision, with its mean weight :math:`\bar\alpha_m`
        in the fusion, of all heads that an entity has:

        .. math::
            \frac{\bar\alpha_m(e \mid r) + a_m(e)}{1 + \sum_n a_n(e)} .

        Args:
            index (torch.Tensor): Entity ids :math:`(B)`.
            rel_type (torch.Tensor, optional): Relations :math:`(B)`. (default: :obj:`None`)

        Returns:
            torch.Tensor: Weights :math:`(B, M)` in the order of :attr:`modalities`, zero for a
            modality that an entity lacks.
        """
        encoded = self.encode(index)
        _, weight = self.fusion(self.views(encoded, rel_type), encoded.mask)
        out = weight + torch.stack([encoded.mask[m] for m in self.modalities], dim=1)
        return out / out.sum(dim=1, keepdim=True).clamp(min=1)

    @torch.no_grad()
    def expert_weights(self, index: Tensor,
                       rel_type: Optional[Tensor] = None) -> Dict[str, Tensor]:
        return {m: self.experts[m].gate_logits(logits, rel_type).softmax(dim=-1)
                for m, (_, logits) in self.experts_of(self.encode(index)).items()}

    @torch.no_grad()
    def joint_view(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        encoded = self.encode(index)
        return self.fusion(self.views(encoded, rel_type), encoded.mask)[0]
