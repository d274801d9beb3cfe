from typing import Dict, Mapping, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.nn.conv import EncodedEntities, MoCMEConv
from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    DistMultDecoder,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
)
from pyg_mmkgc.nn.information import CLUB, InfoNCE
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel

DECODERS = {
    'complex': ComplExDecoder,
    'distmult': DistMultDecoder,
    'rotate': RotatEDecoder,
    'transe': TransEDecoder,
    'tucker': TuckERDecoder,
}
ESTIMATORS = {'club': CLUB, 'info_nce': InfoNCE}


class MoCME(MultiModalModel):
    def __init__(self, num_entities: int, num_relations: int, in_channels: Mapping[str, int],
                 hidden_channels: int = 200, num_experts: Union[int, Dict[str, int]] = 3,
                 decoder: str = 'complex', estimator: str = 'info_nce',
                 dropout: Union[float, Dict[str, float]] = 0.2,
                 modality_dropout=0.2, noise=0.0, intra=True, inter=True, temperature=1.0, modality_temperature=1.0,
                 redundancy_weight: float = 0.0, init_scale: float = 1e-3, **kwargs):
        super().__init__(num_entities, num_relations, hidden_channels,
                         DECODERS[decoder](num_relations, hidden_channels), in_channels,
                         modality_dropout=modality_dropout, init_scale=init_scale, **kwargs)
        self.redundancy_weight = redundancy_weight
        self.conv = MoCMEConv(
            self.channels, hidden_channels, num_relations,
            self.per_modality('num_experts', num_experts, 1), dropout=self.per_modality('dropout', dropout, 0.0), noise=noise,
            fusion_kwargs=dict(estimator=ESTIMATORS[estimator], intra=intra, inter=inter,
                               temperature=temperature, modality_temperature=modality_temperature))
        self.reset_parameters()

    def reset_parameters(self):
        super().reset_parameters()
        self.conv.reset_parameters()

    def encode(self, index: Optional[Tensor] = None) -> EncodedEntities:
        return self.conv.encode(*self.inputs(index))

    def heads(self, encoded: EncodedEntities, row: Tensor, rel_type: Tensor) -> Tensor:
        return self.conv.joint(encoded.select(row), rel_type)

    def candidates(self, encoded: EncodedEntities) -> Tensor:
        return self.conv.joint(encoded)

    def auxiliary_losses(self, encoded: EncodedEntities) -> Dict[str, Tensor]:
        parts = {'information': self.conv.fusion.learning_loss(encoded.views)}
        if self.redundancy_weight > 0:
            parts['redundancy'] = self.redundancy_weight * self.conv.fusion.redundancy(
                encoded.views)
        return parts

    def alternating_parameters(self):
        return [p for estimator in self.conv.fusion.estimators() if estimator.alternating
                for p in estimator.parameters()]

    def alternating_loss(self) -> Tensor:
        with torch.no_grad():
            encoded = self.encode()
        return self.conv.fusion.learning_loss(encoded.views)
