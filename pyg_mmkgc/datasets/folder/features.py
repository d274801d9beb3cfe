r"""Features that lie in a folder as arrays: `.npy`, `.npz` and `.safetensors`."""
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import check_modality_name, set_modality
from pyg_mmkgc.data.io import check_archive
from pyg_mmkgc.datasets.folder.config import FolderConfig
from pyg_mmkgc.datasets.folder.triples import Graph, read_list

FEATURE_SUFFIXES = ('.npy', '.npz', '.safetensors')
#: What may stand beside the features of a modality.
COMPANIONS = ('mask', 'index')


def add_features(data: HeteroData, folder: Path, graph: Graph, config: FolderConfig) -> None:
    r"""Put the features of all files into a graph, in place.

    Raises:
        FileNotFoundError: If a file is missing, or nothing says which row is which entity.
        ValueError: If a file is damaged or holds pickled objects, features do not match the
            entities or are not finite, or a modality stands in two files.
    """
    origin: Dict[str, Path] = {}
    for path in find_features(folder, config):
        arrays = _load(path)
        names = [name for name in arrays if not any(
            name == f'{other}_{companion}' for other in arrays for companion in COMPANIONS)]
        for name in sorted(names):
            if name in origin:
                raise ValueError(f"{path}: modality {name!r} stands in '{origin[name].name}', too")
            origin[name] = path
            try:
                check_modality_name(name)  # Before a file is looked for by it.
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
            rows = _rows(path, name, arrays.get(f'{name}_index'), graph)
            try:
                x = _as_features(arrays[name])
                mask = arrays.get(f'{name}_mask')
                mask = None if mask is None else _as_tensor(mask)
                if rows is not None:
                    x, mask = _spread(x, mask, rows, len(graph.entities))
                elif not graph.ordered:
                    raise FileNotFoundError(
                        f"There is no file '{folder / 'entities.txt'}', so the order of the rows "
                        f"in '{path.name}' is unknown (nor '{name}_index.txt' beside it)")
                set_modality(data, name, x, mask)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error


def find_features(folder: Path, config: FolderConfig) -> List[Path]:
    r"""The files of features, without the masks and indices of others."""
    if config.features is not None:
        for name in config.features:
            if not (folder / name).is_file() or Path(name).suffix not in FEATURE_SUFFIXES:
                raise FileNotFoundError(f"There is no file '{folder / name}' of features "
                                        f'(expected one of {list(FEATURE_SUFFIXES)})')
        return [folder / name for name in config.features]
    found = sorted(path for path in folder.iterdir() if path.suffix in FEATURE_SUFFIXES)
    companions = {path.with_name(f'{path.stem}_{companion}.npy') for path in found
                  if path.suffix == '.npy' for companion in COMPANIONS}
    return [path for path in found if path not in companions]


def _load(path: Path) -> Dict[str, Any]:
    if path.suffix == '.safetensors':
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f'{path}: damaged or no safetensors file ({error})') from error
    if path.suffix == '.npz':
        archive = _load_numpy(path)
        if not isinstance(archive, dict):
            raise ValueError(f'{path}: damaged or no npz archive')
        return archive
    out = {path.stem: _load_numpy(path)}
    for companion in COMPANIONS:
        beside = path.with_name(f'{path.stem}_{companion}.npy')
        if beside.exists():
            out[f'{path.stem}_{companion}'] = _load_numpy(beside)
    for name, array in out.items():
        if isinstance(array, dict):
            raise ValueError(f"{path.with_name(f'{name}.npy')}: damaged or no array of numbers "
                             f'(expected one array, got an archive)')
        if name == path.stem or name.endswith('_mask'):
            _as_tensor(array, path.with_name(f'{name}.npy'))
    return out


def _load_numpy(path: Path) -> Any:
    check_archive(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # Damaged headers make numpy and zipfile raise about anything.
        raise ValueError(f'{path}: damaged or no array of numbers '
                         f'({" ".join(str(error).split()) or error.__class__.__name__})') from error


def _as_tensor(array: Any, path: Optional[Path] = None) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        if array.dtype.kind in 'fiu' and not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder('='))
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except (TypeError, ValueError) as error:
        where = '' if path is None else f'{path}: '
        raise ValueError(f'{where}damaged or no array of numbers ({error})') from error


def _as_features(array: Any) -> Tensor:
    # Other dtypes are left as they are, for `set_modality` to refuse.
    x = _as_tensor(array)
    return x.float() if x.is_floating_point() else x


def _rows(path: Path, modality: str, index: Any, graph: Graph) -> Optional[np.ndarray]:
    # The entity of each row, if an index says so.
    listing = path.with_name(f'{modality}_index.txt')
    where = f'{path}: index of modality {modality!r}'
    if index is None:
        if not listing.exists():
            return None
        where, index = str(listing), np.array(read_list(listing))
    elif listing.exists():
        raise ValueError(f"{listing}: modality {modality!r} has an index in '{path.name}', too")
    index = index.numpy() if isinstance(index, Tensor) else index
    if index.ndim != 1 or index.dtype.kind not in 'iuU':
        raise ValueError(f'{where} needs to be one-dimensional, of ids or names '
                         f'(got {index.dtype}, {list(index.shape)})')
    if index.dtype.kind == 'U':
        position = {name: i for i, name in enumerate(graph.entities)}
        unknown = [name for name in index.tolist() if name not in position]
        if unknown:
            raise ValueError(f'{where} names the unknown entity {unknown[0]!r} (and '
                             f'{len(unknown) - 1} more)')
        rows = np.array([position[name] for name in index.tolist()], dtype=np.int64)
    else:
        if not graph.ordered:
            raise FileNotFoundError(f"There is no file '{path.parent / 'entities.txt'}', so the "
                                    f"ids in the index of {modality!r} in '{path.name}' are "
                                    f'unknown')
        wrong = (index < 0) | (index >= len(graph.entities))
        if wrong.any():
            raise ValueError(f'{where} holds id {index[wrong.argmax()]} (expected 0 to '
                             f'{len(graph.entities) - 1})')
        rows = index.astype(np.int64)
    values, count = np.unique(rows, return_counts=True)
    if (count > 1).any():
        raise ValueError(f'{where} names entity {graph.entities[values[count.argmax()]]!r} '
                         f'{count.max()} times')
    return rows


def _spread(x: Tensor, mask: Optional[Tensor], rows: np.ndarray,
            num_entities: int) -> Tuple[Tensor, Tensor]:
    if x.dim() != 2 or x.size(0) != len(rows):
        raise ValueError(f'features need one row for each of {len(rows)} ids in their index '
                         f'(got shape {list(x.shape)})')
    if mask is None:
        mask = torch.ones(len(rows), dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != (len(rows), ):
        raise ValueError(f'the mask needs to be boolean of shape [{len(rows)}] (got '
                         f'{mask.dtype}, {list(mask.shape)})')
    index = torch.from_numpy(rows)
    out = x.new_zeros(num_entities, x.size(1))
    out[index] = x
    has = torch.zeros(num_entities, dtype=torch.bool)
    has[index] = mask
    return out, has
