r"""Estimators of the mutual information between views of the same entity."""
from pyg_mmkgc.nn.information.base import MutualInformation
from pyg_mmkgc.nn.information.club import CLUB
from pyg_mmkgc.nn.information.info_nce import InfoNCE

__all__ = classes = [
    'CLUB',
    'InfoNCE',
    'MutualInformation',
]
