r"""A folder of one's own as a dataset: reading, describing and writing it."""
from pyg_mmkgc.datasets.folder.config import FolderConfig
from pyg_mmkgc.datasets.folder.init import init_folder
from pyg_mmkgc.datasets.folder.mmkg_folder import MMKGFolder
from pyg_mmkgc.datasets.folder.write import write_folder

__all__ = classes = [
    'FolderConfig',
    'MMKGFolder',
    'init_folder',
    'write_folder',
]
