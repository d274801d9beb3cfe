r"""The benchmarks, the embedded default, and one's own data."""
from pyg_mmkgc.datasets.atlas import Atlas
from pyg_mmkgc.datasets.base import GraphDataset, MMKGDataset, RawFile
from pyg_mmkgc.datasets.db15k import DB15K
from pyg_mmkgc.datasets.folder import FolderConfig, MMKGFolder, init_folder, write_folder
from pyg_mmkgc.datasets.kvc16k import KVC16K
from pyg_mmkgc.datasets.mkgw import MKGW
from pyg_mmkgc.datasets.mkgy import MKGY
from pyg_mmkgc.datasets.ogb import OGBBioKG, OGBDataset, OGBWikiKG2
from pyg_mmkgc.datasets.registry import DATASETS, get_dataset, normalize_name, resolve
from pyg_mmkgc.datasets.tiva import TIVA

__all__ = classes = [
    'DATASETS',
    'DB15K',
    'KVC16K',
    'MKGW',
    'MKGY',
    'TIVA',
    'Atlas',
    'FolderConfig',
    'GraphDataset',
    'MMKGDataset',
    'MMKGFolder',
    'OGBBioKG',
    'OGBDataset',
    'OGBWikiKG2',
    'RawFile',
    'get_dataset',
    'init_folder',
    'normalize_name',
    'resolve',
    'write_folder',
]
