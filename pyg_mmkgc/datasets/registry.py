r"""Datasets by name, for those that get a name from a user."""
import difflib
import os
from inspect import signature
from typing import Any, Dict, Optional, Type, Union

from pyg_mmkgc.datasets.atlas import Atlas
from pyg_mmkgc.datasets.base import GraphDataset
from pyg_mmkgc.datasets.db15k import DB15K
from pyg_mmkgc.datasets.folder import MMKGFolder
from pyg_mmkgc.datasets.kvc16k import KVC16K
from pyg_mmkgc.datasets.mkgw import MKGW
from pyg_mmkgc.datasets.mkgy import MKGY
from pyg_mmkgc.datasets.ogb import OGBBioKG, OGBWikiKG2
from pyg_mmkgc.datasets.tiva import TIVA


def normalize_name(name: str) -> str:
    r"""A dataset's name without case, hyphens and underscores: ``'MKG-W'`` is ``'mkgw'``."""
    return name.lower().replace('-', '').replace('_', '')


#: The datasets that have a name, by normalised name.
DATASETS: Dict[str, Type[GraphDataset]] = {
    normalize_name(cls.__name__): cls
    for cls in (Atlas, DB15K, KVC16K, MKGW, MKGY, OGBBioKG, OGBWikiKG2, TIVA)
}
#: The arguments of a dataset that the command line has an option for.
CHOICES = ('splits', 'features', 'encoder')


def resolve(name: str) -> Type[GraphDataset]:
    r"""The dataset of a name; case, hyphens and underscores do not matter.

    Raises:
        ValueError: If there is none; the message names what there is and what is similar.
    """
    key = normalize_name(name)
    if key not in DATASETS:
        close = difflib.get_close_matches(key, DATASETS, n=3)
        hint = f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
        raise ValueError(f'Unknown dataset {name!r} (expected one of {sorted(DATASETS)} or a '
                         f'folder{hint})')
    return DATASETS[key]


def get_dataset(name_or_folder: Union[str, 'os.PathLike[str]'], root: Optional[str] = None,
                mirror: Optional[str] = None, **kwargs: Any) -> GraphDataset:
    r"""Load a dataset by its name, or a folder of one's own.

    A name wins over a folder of the same name; ``./atlas`` is the folder.

    Args:
        name_or_folder (str or os.PathLike): A name, see :func:`resolve`, or a folder, see
            :class:`~pyg_mmkgc.datasets.MMKGFolder`.
        root (str, optional): Passed on to datasets that have one. (default: :obj:`None`)
        mirror (str, optional): Passed on to datasets that have one. (default: :obj:`None`)
        **kwargs (optional): Further arguments of the dataset.

    Raises:
        ValueError: If there is no such name and no such folder, or the dataset has no such
            argument.
        FileNotFoundError: If it is a path of a folder that does not exist.
    """
    name = os.fspath(name_or_folder)
    is_path = any(sep in name for sep in (os.sep, os.altsep) if sep) or name in ('.', '..')
    if is_path or (normalize_name(name) not in DATASETS and os.path.isdir(name)):
        return MMKGFolder(name, **_checked(name, MMKGFolder, kwargs))
    cls = resolve(name)
    shared: Dict[str, Any] = {key: value for key, value in [('root', root), ('mirror', mirror)]
              if key in signature(cls).parameters}
    return cls(**shared, **_checked(name, cls, kwargs))


def _checked(name: str, cls: Type[GraphDataset], kwargs: Dict[str, Any]) -> Dict[str, Any]:
    for key, value in kwargs.items():
        if key not in signature(cls).parameters:
            raise ValueError(f'Dataset {name!r} has no choice of {key!r} (got {value!r})')
    return kwargs
