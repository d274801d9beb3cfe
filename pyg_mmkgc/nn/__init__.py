r"""Layers, fusion, information estimators, decoders and models."""
from pyg_mmkgc.nn.conv import EncodedEntities, MoCMEConv
from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    Decoder,
    DistMultDecoder,
    JointDecision,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
)
from pyg_mmkgc.nn.experts import ModalityExperts
from pyg_mmkgc.nn.fusion import CMKF, AdaptiveFusion, EntityViews
from pyg_mmkgc.nn.information import CLUB, InfoNCE, MutualInformation
from pyg_mmkgc.nn.models import (
    AdditiveComplEx,
    ComplEx,
    DistMult,
    KGModel,
    LateFusion,
    MoCME,
    MoMoK,
    MultiModalModel,
    NearestNeighbour,
    RotatE,
    StructureModel,
    TransE,
    TuckER,
)
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding

__all__ = classes = [
    'CLUB',
    'CMKF',
    'AdaptiveFusion',
    'AdditiveComplEx',
    'ComplEx',
    'ComplExDecoder',
    'Decoder',
    'DistMult',
    'DistMultDecoder',
    'EncodedEntities',
    'EntityViews',
    'InfoNCE',
    'JointDecision',
    'KGModel',
    'LateFusion',
    'MoCME',
    'MoCMEConv',
    'MoMoK',
    'ModalityExperts',
    'MultiModalModel',
    'MutualInformation',
    'NearestNeighbour',
    'RotatE',
    'RotatEDecoder',
    'ShardedEmbedding',
    'StructureModel',
    'TransE',
    'TransEDecoder',
    'TuckER',
    'TuckERDecoder',
]
