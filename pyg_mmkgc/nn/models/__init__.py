r"""Models: from entity ids to scores."""
from pyg_mmkgc.nn.models.additive_complex import AdditiveComplEx
from pyg_mmkgc.nn.models.base import KGModel
from pyg_mmkgc.nn.models.complex import ComplEx
from pyg_mmkgc.nn.models.distmult import DistMult
from pyg_mmkgc.nn.models.late_fusion import LateFusion
from pyg_mmkgc.nn.models.mocme import MoCME
from pyg_mmkgc.nn.models.momok import MoMoK
from pyg_mmkgc.nn.models.multi_modal import MultiModalModel
from pyg_mmkgc.nn.models.nearest_neighbour import NearestNeighbour
from pyg_mmkgc.nn.models.rotate import RotatE
from pyg_mmkgc.nn.models.structure_model import StructureModel
from pyg_mmkgc.nn.models.transe import TransE
from pyg_mmkgc.nn.models.tucker import TuckER

__all__ = classes = [
    'AdditiveComplEx',
    'ComplEx',
    'DistMult',
    'KGModel',
    'LateFusion',
    'MoCME',
    'MoMoK',
    'MultiModalModel',
    'NearestNeighbour',
    'RotatE',
    'StructureModel',
    'TransE',
    'TuckER',
]
