r"""Models: from entity ids to scores."""
from pyg_mmkgc.nn.models.additive_complex import AdditiveComplEx
from pyg_mmkgc.nn.models.base import KGModel
from pyg_mmkgc.nn.models.complex import ComplEx
from pyg_mmkgc.nn.models.mocme import MoCME
from pyg_mmkgc.nn.models.momok import MoMoK
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel
from pyg_mmkgc.nn.models.nearest_neighbour import NearestNeighbour

__all__ = classes = [
    'AdditiveComplEx',
    'ComplEx',
    'KGModel',
    'MoCME',
    'MoMoK',
    'MultiModalModel',
    'NearestNeighbour',
]
