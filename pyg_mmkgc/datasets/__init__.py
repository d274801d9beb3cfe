r"""The benchmarks, the embedded default, and one's own data."""
from pyg_mmkgc.datasets.atlas import Atlas
from pyg_mmkgc.datasets.base import GraphDataset, MMKGDataset, RawFile
from pyg_mmkgc.datasets.db15k import DB15K
from pyg_mmkgc.datasets.folder import MMKGFolder
from pyg_mmkgc.datasets.registry import DATASETS, get_dataset, normalize_name, resolve

__all__ = classes = [
    'DATASETS',
    'DB15K',
    'Atlas',
    'GraphDataset',
    'MMKGDataset',
    'MMKGFolder',
    'RawFile',
    'get_dataset',
    'normalize_name',
    'resolve',
]
