from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Parameter

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.nn.conv import EncodedEntities, MoCMEConv
from pyg_mmkgc.nn.decoders import DECODERS, JointDecision
from pyg_mmkgc.nn.information import CLUB, InfoNCE
from pyg_mmkgc.nn.models.base import Prepared
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel

ESTIMATORS = {'club': CLUB, 'info_nce': InfoNCE}
#: The head over the fused view.
JOINT = 'joint'
#: The probability of a modality to be gone where entities are looked at with a part of theirs.
PART = 0.5


class MoCME(MultiModalModel):
    r"""The mixture of complementary modality experts from the `"Complementarity-driven
    Representation Learning for Multi-modal Knowledge Graph Completion"
    <https://arxiv.org/abs/2507.20620>`_ paper, as far as its public text goes; formulas are our
    reconstruction.

    An entity is seen by several experts in each of its modalities
    (:class:`~pyg_mmkgc.nn.ModalityExperts`); complementarity at two levels
    (:class:`~pyg_mmkgc.nn.CMKF`) weighs them into one joint view: of a head under the relation of
    the query, of a candidate relation-free, so that one table serves every query. Beside the
    joint view, each modality in :obj:`heads` is scored on its own, and all decide together
    (:class:`~pyg_mmkgc.nn.JointDecision`, after MoMoK). Each head has a loss of its own: in one
    loss over their sum the head that memorises best would starve the others. EGNS comes in as
    :obj:`neg_sampling`.

    What weighs modalities (:meth:`gates`: :math:`\theta`, :math:`\delta` of CMKF and
    :math:`\lambda` of the joint decision) is best learned on held-out triples
    (:meth:`gate_loss`; :obj:`gate_split` of :class:`~pyg_mmkgc.training.TrainConfig`).

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        in_channels (Dict[str, int]): Size of the raw feature of each modality; may be empty.
        hidden_channels (int, optional): Size of each view. (default: :obj:`200`)
        num_experts (int or Dict[str, int], optional): The number of experts, for all modalities or
            for some of them by name (one for the rest). (default: :obj:`3`)
        decoder (str, optional): ``'complex'``, ``'distmult'``, ``'rotate'``, ``'transe'`` or
            ``'tucker'``. (default: :obj:`"complex"`)
        heads (Sequence[str], optional): The modalities with a head of their own; an empty list
            leaves the joint head alone. (default: all)
        project_structure (bool, optional): If set to :obj:`False`, structure has one expert, and
            its view is the row of the table itself: its head is a plain model of the decoder, at
            the price of one. (default: :obj:`True`)
        train_structure (str, optional): What the table of structure learns from: ``'all'``, or the
            loss of its own ``'head'``, so that the joint view looks at it but leaves it what it is
            in a model of structure alone; needs that head, :obj:`project_structure` to be
            :obj:`False`, and no :obj:`consistency`. (default: :obj:`"all"`)
        norm_weight (Dict[str, float], optional): For some heads (``'joint'`` or a modality), what
            their norm counts in the regularisation: a table wants more of it than features.
            (default: 1 for each)
        estimator (str, optional): ``'info_nce'``, or ``'club'``, which is trained in alternation.
            (default: :obj:`"info_nce"`)
        intra (bool, optional): Complementarity within modalities. (default: :obj:`True`)
        inter (bool, optional): Complementarity between modalities. (default: :obj:`True`)
        temperature (float, optional): :math:`\tau`. (default: :obj:`1.0`)
        modality_temperature (float, optional): :math:`\tau'`. (default: :obj:`1.0`)
        uniform (bool, optional): If set to :obj:`True`, the joint view is the plain mean: no
            gates, no complementarity. (default: :obj:`False`)
        redundancy_weight (float, optional): The weight of the estimated information between views
            as a loss. (default: :obj:`0.0`)
        num_references (int, optional): The size of the reference bank. (default: :obj:`64`)
        max_samples (int, optional): See :class:`CMKF`. (default: :obj:`256`)
        dropout (float or Dict[str, float], optional): Dropout on raw features, for all modalities
            but structure, or by name. (default: :obj:`0.2`)
        modality_dropout (float or Dict[str, float], optional): See :class:`MultiModalModel`; the
            joint view goes without what is dropped, the heads of modalities keep theirs.
            (default: :obj:`0.2`, and :obj:`0.5` for structure)
        noise (float, optional): Noise of the experts' gates in training. (default: :obj:`0.0`)
        consistency (float, optional): The weight of :meth:`consistency_loss`, by which structure
            takes the place of modalities that are gone. (default: :obj:`0.0`)
        gate_dropout (float, optional): The share of the steps of the gates (:meth:`gate_loss`)
            in which each entity has lost each modality but structure with a probability of one
            half, so that they weigh what is left, too. (default: :obj:`0.0`)
        **kwargs (optional): Further arguments of :class:`MultiModalModel` and :class:`KGModel`.

    Raises:
        ValueError: If a name is unknown or an argument out of range.
    """
    decoder: JointDecision

    def __init__(self, num_entities: int, num_relations: int, in_channels: Mapping[str, int],
                 hidden_channels: int = 200, num_experts: Union[int, Dict[str, int]] = 3,
                 decoder: str = 'complex', heads: Optional[Sequence[str]] = None,
                 norm_weight: Optional[Dict[str, float]] = None,
                 estimator: str = 'info_nce', intra: bool = True, inter: bool = True,
                 temperature: float = 1.0, modality_temperature: float = 1.0,
                 uniform: bool = False, redundancy_weight: float = 0.0, num_references: int = 64,
                 max_samples: int = 256, dropout: Union[float, Dict[str, float]] = 0.2,
                 modality_dropout: Optional[Union[float, Dict[str, float]]] = None,
                 noise: float = 0.0, project_structure: bool = True,
                 train_structure: str = 'all', consistency: float = 0.0, gate_dropout: float = 0.0,
                 structure_channels: Optional[int] = None, **kwargs: Any):
        for name, value, choices in [('decoder', decoder, DECODERS),
                                     ('estimator', estimator, ESTIMATORS),
                                     ('train_structure', train_structure, ('all', 'head'))]:
            if value not in choices:
                raise ValueError(f'Unknown {name!r} {value!r} (expected one of {list(choices)})')
        if JOINT in in_channels:
            raise ValueError(f"'in_channels' must not name {JOINT!r}, which is the joint view")
        modalities = sorted([*in_channels, *([] if structure_channels == 0 else [STRUCTURE])])
        if consistency < 0 or (consistency > 0 and STRUCTURE not in modalities):
            raise ValueError(f"'consistency' needs to be at least 0, and 0 without structure (got "
                             f'{consistency})')
        if not 0 <= gate_dropout <= 1:
            raise ValueError(f"'gate_dropout' needs to be in [0, 1] (got {gate_dropout})")
        heads = modalities if heads is None else sorted(heads)
        for m in heads:
            if m not in modalities:
                raise ValueError(f"'heads' names the unknown modality {m!r} (expected some of "
                                 f'{modalities})')
        if train_structure == 'head' and (project_structure or STRUCTURE not in heads
                                          or consistency > 0):
            raise ValueError(f"'train_structure' may be 'head' if {STRUCTURE!r} is in 'heads', "
                             f"'project_structure' is False and 'consistency' is 0 (got {heads}, "
                             f'{project_structure}, {consistency})')
        if modality_dropout is None:
            modality_dropout = {m: 0.5 if m == STRUCTURE else 0.2 for m in modalities}
        super().__init__(
            num_entities, num_relations, hidden_channels,
            JointDecision({name: DECODERS[decoder](num_relations, hidden_channels)
                           for name in [JOINT, *heads]}, norm_weight=norm_weight),
            in_channels, structure_channels, modality_dropout, **kwargs)
        self.head_modalities = heads
        self.train_structure = train_structure
        self.redundancy_weight = redundancy_weight
        self.consistency = consistency
        self.gate_dropout = gate_dropout
        self._drawn: Optional[Tensor] = None  # Entities of the alternating loss; None is all.
        if not isinstance(dropout, Mapping):
            dropout = {m: dropout for m in self.in_channels}
        self.conv = MoCMEConv(
            self.channels, hidden_channels, num_relations,
            self.per_modality('num_experts', num_experts, 1),
            project={m: m != STRUCTURE or project_structure for m in self.channels},
            composition=None, dropout=self.per_modality('dropout', dropout, 0.0), noise=noise,
            fusion_kwargs={
                'estimator': ESTIMATORS[estimator], 'intra': intra, 'inter': inter,
                'temperature': temperature, 'modality_temperature': modality_temperature,
                'uniform': uniform, 'num_references': num_references, 'max_samples': max_samples,
            })
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.conv.reset_parameters()
        if (STRUCTURE in self.channels and self.structure_channels == self.hidden_channels
                and self.conv.experts[STRUCTURE].project):
            # A learned table needs no projection: its experts start from the identity.
            weight = self.conv.experts[STRUCTURE].weight.data
            weight.view(self.structure_channels, -1, self.hidden_channels).add_(
                torch.eye(self.hidden_channels, device=weight.device).unsqueeze(1))

    def encode(self, index: Optional[Tensor] = None) -> EncodedEntities:
        x_dict, mask_dict = self.inputs(index)
        # Training looks at no entity that it has no triple of, not even at its features. The joint
        # view has to stand without a modality; a head is about its modality and nothing else.
        return self._encode(x_dict, mask_dict, self.seen_index if index is None else None,
                            self.drop(mask_dict))

    def _encode(self, x_dict: Dict[str, Tensor], mask_dict: Dict[str, Tensor],
                *args: Any) -> EncodedEntities:
        if self.train_structure == 'all':
            return self.conv.encode(x_dict, mask_dict, *args)
        x = x_dict[STRUCTURE]
        encoded = self.conv.encode({**x_dict, STRUCTURE: x.detach()}, mask_dict, *args)
        apart = torch.where(mask_dict[STRUCTURE].unsqueeze(-1), x, x.new_zeros(()))
        return encoded._replace(apart={STRUCTURE: apart})

    def head_vectors(self, encoded: EncodedEntities, row: Tensor, rel_type: Tensor) -> Tensor:
        return self._vectors(encoded.select(row), rel_type)

    def candidate_vectors(self, encoded: EncodedEntities) -> Tensor:
        return self._vectors(encoded)

    def candidate_views(self, encoded: EncodedEntities) -> Dict[str, Tensor]:
        joint, views = self.conv.views(encoded)
        return {JOINT: joint, **views, **(encoded.apart or {})}

    def _vectors(self, encoded: EncodedEntities, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The joint view and the view of each head, and which of them there are."""
        apart = encoded.apart or {}
        joint, views = self.conv.views(encoded, rel_type,
                                       [m for m in self.head_modalities if m not in apart])
        views = {**views, **{m: x.to(joint.dtype) for m, x in apart.items()}}
        mask = dict(zip(self.modalities, encoded.views.mask.unbind(1), strict=True))
        has = [joint.new_ones(joint.size(0)), *(mask[m].to(joint.dtype)
                                                for m in self.head_modalities)]
        return torch.cat([joint, *(views[m] for m in self.head_modalities),
                          torch.stack(has, dim=1)], dim=1)

    def auxiliary_losses(self, encoded: EncodedEntities,
                         head_row: Tensor) -> Dict[str, Tensor]:
        fusion, parts = self.conv.fusion, {}
        if fusion.estimators() and not self.alternating_parameters():
            parts['information'] = fusion.learning_loss(encoded.views)
        if self.redundancy_weight > 0:
            parts['redundancy'] = self.redundancy_weight * fusion.redundancy(encoded.views)
        if self.consistency > 0:
            parts['consistency'] = self.consistency * self.consistency_loss(encoded)
        return parts

    def consistency_loss(self, encoded: EncodedEntities) -> Tensor:
        r"""How far the joint views (as candidates) of entities that lack modalities are from those
        of the same entities with all that they have,

        .. math::
            \frac{\sum_e \lVert \tilde h(e) - h(e) \rVert^2}{\sum_e \lVert h(e) \rVert^2} ,

        over the entities that have structure. :math:`\tilde h` goes without each other modality
        with a probability of one half, and :math:`h` is a constant: what is left learns to say
        what is gone, not the whole to say less. Most of it is learned by the row of structure,
        which so remembers what the modalities of its entity say.

        Args:
            encoded (EncodedEntities): The entities, from :meth:`encode`.
        """
        mask = encoded.views.mask
        with torch.no_grad():
            whole = self._joint_of(encoded, mask)
            whole = whole.to(torch.promote_types(whole.dtype, torch.float))
        rest = (self._joint_of(encoded, self._dropped_of(mask, self._part)) - whole).square()
        known = mask[:, self.modalities.index(STRUCTURE)].to(whole.dtype)
        scale = (known @ whole.square()).sum()
        return (known @ rest).sum() / scale.clamp(min=torch.finfo(scale.dtype).tiny)

    def _joint_of(self, encoded: EncodedEntities, kept: Tensor) -> Tensor:
        return self.conv.joint(encoded._replace(views=encoded.views._replace(kept=kept)))

    @property
    def _part(self) -> Dict[str, float]:
        return {m: 0.0 if m == STRUCTURE else PART for m in self.modalities}

    def encode_for_gates(self, index: Optional[Tensor] = None) -> EncodedEntities:
        if self.gate_dropout == 0 or torch.rand(()) >= self.gate_dropout:
            return self.encode(index)
        x_dict, mask_dict = self.inputs(index)
        return self._encode(x_dict, self._dropped(mask_dict, self._part))

    def gates(self) -> List[Parameter]:
        return [*self.conv.fusion.gates(), *self.decoder.gates()]

    def alternating_parameters(self) -> List[Parameter]:
        return [p for estimator in self.conv.fusion.estimators() if estimator.alternating
                for p in estimator.parameters()]

    def prepare(self, head_index: Tensor, rel_type: Tensor, tail_index: Tensor) -> Prepared:
        out = super().prepare(head_index, rel_type, tail_index)
        if self.objective == 'sampled' and self.alternating_parameters():
            # The alternating loss looks at no more entities than it learns from:
            fusion, pool = self.conv.fusion, self.seen_index
            size = (fusion.num_references + fusion.max_samples, )
            self._drawn = pool[torch.randint(pool.numel(), size, device=pool.device)]
            self._fetched.append((self._drawn, self._fetch(self._drawn)))
        return out

    def alternating_loss(self) -> Tensor:
        with torch.no_grad():
            encoded = self.encode(self._drawn)
        return self.conv.fusion.learning_loss(encoded.views)

    @torch.no_grad()
    def modality_weights(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The share of each modality in the decision: with :math:`\lambda_{r,v}` from the joint
        decision, and :math:`\lambda_v` without a relation,

        .. math::
            \frac{\lambda_{r,\mathrm{joint}} \, \beta_m(e \mid r) + \lambda_{r,m} \, a_m(e)}
            {\lambda_{r,\mathrm{joint}} + \sum_n \lambda_{r,n} \, a_n(e)} .

        Args:
            index (torch.Tensor): Entity ids :math:`(B)`.
            rel_type (torch.Tensor, optional): Relations :math:`(B)`. (default: :obj:`None`)

        Returns:
            torch.Tensor: Weights :math:`(B, M)` in the order of :attr:`modalities`, zero for a
            modality that an entity lacks.
        """
        encoded = self.encode(index)
        _, beta = self.conv.weights(encoded, rel_type)
        gate = self.decoder.gate(rel_type)
        gate = gate.expand(index.numel(), -1)  # [B, 1 + heads]
        out = gate[:, :1] * beta
        for i, m in enumerate(self.head_modalities, start=1):
            j = self.modalities.index(m)
            out[:, j] += gate[:, i] * encoded.views.mask[:, j]
        return out / out.sum(dim=1, keepdim=True).clamp(min=torch.finfo(out.dtype).tiny)

    @torch.no_grad()
    def expert_weights(self, index: Tensor,
                       rel_type: Optional[Tensor] = None) -> Dict[str, Tensor]:
        weight, _ = self.conv.weights(self.encode(index), rel_type)
        return self._by_modality(weight)

    @torch.no_grad()
    def redundancy(self, index: Tensor) -> Tuple[Dict[str, Tensor], Tensor]:
        views = self.encode(index).views
        return self._by_modality(views.view_redundancy), views.modality_redundancy

    @torch.no_grad()
    def joint_view(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        return self.conv.joint(self.encode(index), rel_type)

    def _by_modality(self, x: Tensor) -> Dict[str, Tensor]:
        num_experts = self.conv.fusion.num_experts
        return dict(zip(num_experts, x.split(list(num_experts.values()), dim=1), strict=True))
