from typing import Any, Dict, List, Mapping, Optional, Union

import torch
from torch import Tensor
from torch.nn import Parameter

from pyg_mmkgc.data import STRUCTURE
from pyg_mmkgc.nn.decoders import DECODERS, JointDecision
from pyg_mmkgc.nn.models.projected import ProjectedModel


class LateFusion(ProjectedModel):
    r"""A model of its own for each modality, whose scores are added: the ensemble that any fusion
    of views has to beat,

    .. math::
        s(h, r, t) = \sum_m \lambda_{r,m} \, a_m(h) \, a_m(t) \, s_m(W_m x_m(h), r, W_m x_m(t)),

    where structure is a learned table without :math:`W`. Each modality has a decoder and a loss of
    its own; the weights :math:`\lambda` (:class:`JointDecision`) are best fitted on held-out
    triples (:obj:`gate_split` of :class:`~pyg_mmkgc.training.TrainConfig`).

    Args:
        num_entities (int): The number of entities.
        num_relations (int): The number of original relations :math:`R`.
        in_channels (Dict[str, int]): Size of the raw feature of each modality.
        hidden_channels (int, optional): Size of the vectors that are compared.
            (default: :obj:`400`)
        decoder (str, optional): ``'complex'``, ``'distmult'``, ``'rotate'``, ``'transe'`` or
            ``'tucker'``. (default: :obj:`"complex"`)
        dropout (float, optional): Dropout on raw features. (default: :obj:`0.2`)
        norm_weight (Dict[str, float], optional): For some modalities, what their norm counts in
            the regularisation. (default: 1 for each)
        structure_channels (int, optional): 0 for no table. (default: :obj:`hidden_channels`)
        **kwargs (optional): Further arguments of :class:`MultiModalModel` and :class:`KGModel`.

    Raises:
        ValueError: If a name is unknown or an argument out of range.
    """
    decoder: JointDecision

    def __init__(self, num_entities: int, num_relations: int, in_channels: Mapping[str, int],
                 hidden_channels: int = 400, decoder: str = 'complex', dropout: float = 0.2,
                 norm_weight: Optional[Dict[str, float]] = None,
                 structure_channels: Optional[int] = None,
                 modality_dropout: Union[float, Dict[str, float]] = 0.0, **kwargs: Any):
        if decoder not in DECODERS:
            raise ValueError(f"Unknown 'decoder' {decoder!r} (expected one of {list(DECODERS)})")
        if structure_channels not in (None, 0, hidden_channels):
            raise ValueError(f"'structure_channels' needs to be 0 or 'hidden_channels' "
                             f'({hidden_channels}), since a table is not projected (got '
                             f'{structure_channels})')
        modalities = sorted([*in_channels, *([] if structure_channels == 0 else [STRUCTURE])])
        super().__init__(
            num_entities, num_relations, hidden_channels,
            JointDecision({m: DECODERS[decoder](num_relations, hidden_channels)
                           for m in modalities}, norm_weight=norm_weight),
            in_channels, dropout, structure_channels=structure_channels,
            modality_dropout=modality_dropout, **kwargs)

    def encode(self, index: Optional[Tensor] = None) -> Tensor:
        views, mask_dict = self.views(index)
        has = torch.stack([mask_dict[m] for m in self.modalities], dim=1)
        return torch.cat([*views, has.to(views[0].dtype)], dim=1)

    def candidate_views(self, encoded: Tensor) -> Dict[str, Tensor]:
        # There is no joint view: scores are added, not vectors.
        return dict(zip(self.modalities, encoded.split(self.hidden_channels, dim=1), strict=False))

    def gates(self) -> List[Parameter]:
        return self.decoder.gates()

    @torch.no_grad()
    def modality_weights(self, index: Tensor, rel_type: Optional[Tensor] = None) -> Tensor:
        r"""The share of each modality in the decision, :math:`\lambda_{r,m} a_m(e)` over its sum,
        or :math:`\lambda_m a_m(e)` without a relation.

        Args:
            index (torch.Tensor): Entity ids :math:`(B)`.
            rel_type (torch.Tensor, optional): Relations :math:`(B)`. (default: :obj:`None`)

        Returns:
            torch.Tensor: Weights :math:`(B, M)` in the order of :attr:`modalities`, zero for a
            modality that an entity lacks.
        """
        _, mask_dict = self.inputs(index)
        has = torch.stack([mask_dict[m] for m in self.modalities], dim=1)
        out = self.decoder.gate(rel_type) * has
        return out / out.sum(dim=1, keepdim=True).clamp(min=torch.finfo(out.dtype).tiny)
