from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import Embedding
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import glorot
from torch_geometric.utils import scatter

from pyg_mmkgc.nn.conv.edge_sum import edge_sum
from pyg_mmkgc.nn.experts import ModalityExperts
from pyg_mmkgc.nn.fusion import CMKF, EntityViews
from pyg_mmkgc.nn.module_dict import ModuleDict
from pyg_mmkgc.nn.reduction import autocast_dtype
from pyg_mmkgc.nn.rows import select_rows

COMPOSITIONS = ('mult', 'add')


class EncodedEntities(NamedTuple):
    r"""Entities as :meth:`MoCMEConv.encode` sees them: their views, and the relation-free part of
    each modality's gate logits; and, where a model has them, views that the joint one does not
    train."""
    views: EntityViews
    gate_logits: Dict[str, Tensor]
    apart: Optional[Dict[str, Tensor]] = None

    def select(self, index: Tensor) -> 'EncodedEntities':
        r"""The rows of the given entities."""
        *parts, reference, _ = self.views
        rows = [*(select_rows(x, index) for x in parts), reference, None]
        logits, apart = ({m: select_rows(x, index) for m, x in (part or {}).items()}
                         for part in (self.gate_logits, self.apart))
        return EncodedEntities(EntityViews._make(rows), logits, apart)


class MoCMEConv(MessagePassing):
    r"""The fusion of MoCME (`"Complementarity-driven Representation Learning for Multi-modal
    Knowledge Graph Completion"
    <https://arxiv.org/abs/2507.20620>`_) as a message passing layer over a multi-modal knowledge
    graph. In our reconstruction each neighbour :math:`j` is fused under the relation of its edge,

    .. math::
        h_i = h(i) + \frac{1}{|\mathcal{N}(i)|} \sum_{(j, r) \in \mathcal{N}(i)}
        h(j \mid r) \circ z_r ,

    where :math:`h(j \mid r)` comes from :class:`~pyg_mmkgc.nn.experts.ModalityExperts` and
    :class:`~pyg_mmkgc.nn.fusion.CMKF`, :math:`h(i)` is the relation-free joint view, and
    :math:`\circ` is a product or a sum with a learned vector of the relation. Without edges the
    layer is the paper's entity-wise fusion.

    Gates are scalars of an edge and an expert, :math:`a_{e,k}` for :math:`J` views over all
    modalities, so that no vector of an edge is needed per view:

    .. math::
        \sum_{e = (j \to i)} z_{r_e} \odot \sum_{k=1}^{J} a_{e,k} \, v_k(j)
        \qquad \textrm{or} \qquad
        \sum_{k=1}^{J} A_k V_k + S Z ,

    for a product with the relation, and for a sum with it, which is :math:`J + 1` sparse-dense
    products. Both are made chunk by chunk of edges, forward and backward, and gates are made
    again in the backward pass: beside the nodes' own views memory is
    :math:`\mathcal{O}(E \cdot J + \textrm{chunk} \cdot J \cdot F)`. The order of edges changes
    no result but by rounding, nor the time: sorted by relation they were measured to be no faster
    than shuffled. :obj:`chunk_size=None` is plain message passing over all edges,
    :math:`\mathcal{O}(E \cdot J \cdot F)`, which PyG's explanations also go through.

    Args:
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        out_channels (int): Size of each view and of the output.
        num_relations (int): The number of original relations :math:`R`; edge types up to
            :math:`2R` (inverse relations) are understood.
        num_experts (int or Dict[str, int], optional): The number of experts, for all modalities or
            for each. (default: :obj:`3`)
        composition (str, optional): :obj:`"mult"`, :obj:`"add"`, or :obj:`None` for a layer that
            takes no edges. (default: :obj:`"mult"`)
        dropout (float or Dict[str, float], optional): Dropout on raw features, for all modalities
            or for each. (default: :obj:`0.0`)
        noise (float, optional): Noise of the gates in training. (default: :obj:`0.0`)
        relation_bias (bool, optional): See :class:`ModalityExperts`. (default: :obj:`True`)
        project (bool or Dict[str, bool], optional): See :class:`ModalityExperts`, for all
            modalities or for each. (default: :obj:`True`)
        chunk_size (int, optional): The number of edges whose views are worked on at a time, or
            :obj:`None` for one message per edge. (default: :obj:`2048`)
        fusion_kwargs (dict, optional): Further arguments of :class:`CMKF`.
            (default: :obj:`None`)

    Shapes:
        - **input:** for each modality features :math:`(N, F_m)` and mask :math:`(N)`,
          edge indices :math:`(2, E)`, edge types :math:`(E)`
        - **output:** joint views :math:`(N, F_{out})`

    Raises:
        ValueError: If :obj:`composition` is unknown, :obj:`chunk_size` is below one, a modality is
            unknown or absent, or there are edges without relations.
    """
    def __init__(self, in_channels: Dict[str, int], out_channels: int, num_relations: int,
                 num_experts: Union[int, Dict[str, int]] = 3,
                 composition: Optional[str] = 'mult',
                 dropout: Union[float, Dict[str, float]] = 0.0, noise: float = 0.0,
                 relation_bias: bool = True, chunk_size: Optional[int] = 2048,
                 fusion_kwargs: Optional[Dict[str, Any]] = None,
                 project: Union[bool, Dict[str, bool]] = True):
        super().__init__(aggr='sum', node_dim=0)  # Divided by the degree afterwards.
        if composition is not None and composition not in COMPOSITIONS:
            raise ValueError(f"Unknown 'composition' {composition!r} (expected one of "
                             f'{list(COMPOSITIONS)})')
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"'chunk_size' needs to be at least 1 (got {chunk_size})")
        self.in_channels = {m: in_channels[m] for m in sorted(in_channels)}
        self.out_channels = out_channels
        self.num_relations = num_relations
        self.composition = composition
        self.chunk_size = chunk_size

        num_experts = self._per_modality('num_experts', num_experts)
        dropout = self._per_modality('dropout', dropout)
        project = self._per_modality('project', project)
        self.experts = ModuleDict({
            m: ModalityExperts(channels, out_channels, num_experts[m], num_relations, dropout[m],
                               noise, relation_bias, project=project[m])
            for m, channels in self.in_channels.items()
        })
        self.fusion = CMKF(num_experts, out_channels, num_relations, **(fusion_kwargs or {}))
        if composition is not None:
            self.relation = Embedding(2 * num_relations, out_channels)
        self.reset_parameters()

    def _per_modality(self, name: str, value: Any) -> Dict[str, Any]:
        if not isinstance(value, Mapping):
            return {m: value for m in self.in_channels}
        if set(value) != set(self.in_channels):
            raise ValueError(f'{name!r} names {sorted(value)} (expected the modalities '
                             f'{list(self.in_channels)})')
        return dict(value)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module and empties the reference bank."""
        super().reset_parameters()
        for experts in self.experts.values():
            experts.reset_parameters()
        self.fusion.reset_parameters()
        if self.composition is not None:
            glorot(self.relation.weight)

    def encode(self, x_dict: Mapping[str, Tensor],
               mask_dict: Optional[Mapping[str, Tensor]] = None,
               pool: Optional[Tensor] = None,
               kept: Optional[Mapping[str, Tensor]] = None) -> EncodedEntities:
        r"""Everything about the entities that no relation and no edge changes.

        Args:
            x_dict (Mapping[str, torch.Tensor]): For each modality, raw features :math:`(N, F_m)`.
            mask_dict (Mapping[str, torch.Tensor], optional): For each modality, whether an entity
                has it, :math:`(N)`; a modality without a mask is there for all entities.
                (default: :obj:`None`)
            pool (torch.Tensor, optional): See :meth:`CMKF.forward`. (default: :obj:`None`)
            kept (Mapping[str, torch.Tensor], optional): See :meth:`CMKF.forward`.
                (default: :obj:`None`)
        """
        if set(x_dict) != set(self.in_channels):
            raise ValueError(f"'x_dict' holds the modalities {sorted(x_dict)} (expected "
                             f'{list(self.in_channels)})')
        views, logits, masks = {}, {}, {}
        for m, experts in self.experts.items():
            x = x_dict[m]
            mask = (mask_dict or {}).get(m)
            if mask is None:
                mask = torch.ones(x.size(0), dtype=torch.bool, device=x.device)
            # Once, where autocast would do it for each product with all entities:
            x = x.to(autocast_dtype(x))
            # What stands in a missing row must not matter, not even a NaN:
            x = torch.where(mask.unsqueeze(-1), x, x.new_zeros(()))
            views[m], logits[m] = experts(x)
            masks[m] = mask
        return EncodedEntities(self.fusion(views, masks, pool, kept), logits)

    def weights(self, encoded: EncodedEntities,
                rel_type: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        r"""Weights of views and modalities, see :meth:`CMKF.weights`."""
        logits = {m: experts.gate_logits(encoded.gate_logits[m], rel_type)
                  for m, experts in self.experts.items()}
        return self.fusion.weights(encoded.views, logits, rel_type)

    def joint(self, encoded: EncodedEntities, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The joint view :math:`h(e \mid r)` of each encoded entity, or :math:`h(e)` without
        relations, :math:`(B, F_{out})`."""
        return self.fusion.fuse(encoded.views, *self.weights(encoded, rel_type))

    def views(self, encoded: EncodedEntities, rel_type: Optional[Tensor] = None,
              modalities: Optional[Sequence[str]] = None) -> Tuple[Tensor, Dict[str, Tensor]]:
        r"""The joint view of :meth:`joint`, and :math:`h_m(e \mid r)` of each modality alone (zero
        where an entity lacks it), or of some :obj:`modalities`, each :math:`(B, F_{out})`."""
        weight, beta = self.weights(encoded, rel_type)
        return (self.fusion.fuse(encoded.views, weight, beta),
                self.fusion.single(encoded.views, weight, modalities))

    def forward(self, x_dict: Mapping[str, Tensor], edge_index: Optional[Tensor] = None,
                edge_type: Optional[Tensor] = None,
                mask_dict: Optional[Mapping[str, Tensor]] = None,
                edge_weight: Optional[Tensor] = None) -> Tensor:
        r"""Runs the layer.

        Args:
            x_dict (Mapping[str, torch.Tensor]): For each modality, raw features :math:`(N, F_m)`.
            edge_index (torch.Tensor, optional): Edges :math:`(2, E)`. (default: :obj:`None`)
            edge_type (torch.Tensor, optional): Their relations :math:`(E)`.
                (default: :obj:`None`)
            mask_dict (Mapping[str, torch.Tensor], optional): For each modality, whether an entity
                has it, :math:`(N)`. (default: :obj:`None`)
            edge_weight (torch.Tensor, optional): See :meth:`neighbours`. (default: :obj:`None`)
        """
        encoded = self.encode(x_dict, mask_dict)
        out = self.joint(encoded)
        if edge_index is None or edge_index.size(1) == 0:
            return out
        return out + self.neighbours(encoded, edge_index, edge_type, edge_weight)

    def neighbours(self, encoded: EncodedEntities, edge_index: Tensor,
                   edge_type: Optional[Tensor], edge_weight: Optional[Tensor] = None) -> Tensor:
        r"""The weighted mean of the messages at each entity, :math:`(N, F_{out})`.

        Args:
            encoded (EncodedEntities): The entities, from :meth:`encode`.
            edge_index (torch.Tensor): Edges :math:`(2, E)`.
            edge_type (torch.Tensor): Their relations :math:`(E)`.
            edge_weight (torch.Tensor, optional): Their weights :math:`(E)`, 0 to leave one out
                without changing any shape. (default: :obj:`None`)
        """
        if self.composition is None:
            raise ValueError("'composition' is None, so this layer takes no edges")
        if edge_type is None or edge_type.numel() != edge_index.size(1):
            found = None if edge_type is None else list(edge_type.shape)
            raise ValueError(f"'edge_type' needs the relation of each of {edge_index.size(1)} "
                             f'edges (got shape {found})')
        if edge_weight is None:
            edge_weight = encoded.views.views.new_ones(edge_index.size(1))
        num_entities = encoded.views.mask.size(0)
        if self.chunk_size is None or self.explain:
            out = self.propagate(
                edge_index, size=(num_entities, num_entities), views=encoded.views.views,
                view_redundancy=encoded.views.view_redundancy,
                modality_redundancy=encoded.views.modality_redundancy, mask=encoded.views.kept,
                gate_logits=torch.cat(list(encoded.gate_logits.values()), dim=1),
                edge_type=edge_type, edge_weight=edge_weight)
        else:
            out = self._fused(encoded, edge_index, edge_type, edge_weight, self.chunk_size)
        degree = scatter(edge_weight, edge_index[1], dim=0, dim_size=num_entities, reduce='sum')
        return out / degree.clamp(min=torch.finfo(degree.dtype).tiny).unsqueeze(-1)

    def message(self, views_j: Tensor, view_redundancy_j: Tensor, modality_redundancy_j: Tensor,
                mask_j: Tensor, gate_logits_j: Tensor, edge_type: Tensor,
                edge_weight: Tensor) -> Tensor:
        logits = gate_logits_j.split(list(self.fusion.num_experts.values()), dim=1)
        neighbour = EncodedEntities(
            EntityViews(views_j, views_j[:, :0], view_redundancy_j, modality_redundancy_j, mask_j,
                        mask_j, ()), dict(zip(self.experts, logits, strict=True)))
        joint = self.joint(neighbour, edge_type)  # [E, C]
        relation = self.relation(edge_type)
        joint = joint * relation if self.composition == 'mult' else joint + relation
        return joint * edge_weight.unsqueeze(-1)

    def _fused(self, encoded: EncodedEntities, edge_index: Tensor, edge_type: Tensor,
               edge_weight: Tensor, chunk_size: int) -> Tensor:
        r"""The sum of all messages without any message."""
        (src, dst), views = edge_index, encoded.views.views
        num_entities, relation = views.size(0), self.relation.weight
        weight = self._edge_weights(encoded, src, edge_type, chunk_size)
        # Gates may be in higher precision than views; sums over many edges should be, too.
        views, relation = views.to(weight.dtype), relation.to(weight.dtype)
        edge_weight = edge_weight.to(weight.dtype)
        weight = weight * edge_weight.unsqueeze(-1)
        # An entity without any modality sends its one vector with a weight of one:
        missing = (~encoded.views.kept.any(dim=1)).index_select(0, src) * edge_weight

        def total(table: Tensor, weight: Tensor, index: Tensor, scale: Optional[Tensor] = None,
                  rel_type: Optional[Tensor] = None) -> Tensor:
            return edge_sum(table, weight, index, dst, num_entities, scale, rel_type, chunk_size)

        def relations(weight: Tensor) -> Tensor:
            return total(relation.unsqueeze(1), weight.unsqueeze(1), edge_type)

        if self.composition == 'mult':
            return (total(views, weight, src, relation, edge_type)
                    + relations(missing) * self.fusion.missing)
        missing = scatter(missing, dst, dim=0, dim_size=num_entities, reduce='sum')
        return (total(views, weight, src) + relations(edge_weight)
                + missing.unsqueeze(-1) * self.fusion.missing)

    def _edge_weights(self, encoded: EncodedEntities, src: Tensor, edge_type: Tensor,
                      chunk_size: int) -> Tensor:
        r"""The weight of each view of each edge's source, :math:`(E, J)`."""
        state = encoded.views
        scalars = state._replace(views=state.views[:, :0],
                                 modality_views=state.modality_views[:, :0])
        sizes = list(self.fusion.num_experts.values())

        def run(logits: Tensor, index: Tensor, rel_type: Tensor) -> Tensor:
            gate_logits = dict(zip(self.experts, logits.split(sizes, dim=1), strict=True))
            edges = EncodedEntities(scalars, {}).select(index)._replace(gate_logits=gate_logits)
            weight, beta = self.weights(edges, rel_type)
            return torch.cat([w * beta[:, i:i + 1]
                              for i, w in enumerate(weight.split(sizes, dim=1))], dim=1)

        # All logits at once, as the gradient of a selection is as large as what it selects from.
        logits = torch.cat(list(encoded.gate_logits.values()), dim=1).index_select(0, src)
        # A chunk of vectors has as many numbers as this chunk of scalars:
        size = chunk_size * self.out_channels
        chunks = list(zip(*(part.split(size) for part in (logits, src, edge_type)), strict=True))
        # What makes weights is made again in the backward pass instead of kept.
        return torch.cat([
            checkpoint(run, *chunk, use_reentrant=False)
            if torch.is_grad_enabled() and len(chunks) > 1 else run(*chunk) for chunk in chunks
        ])

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.in_channels}, {self.out_channels}, '
                f'num_relations={self.num_relations})')
