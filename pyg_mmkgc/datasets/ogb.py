r"""The knowledge graphs of the Open Graph Benchmark, read from the files that ogb leaves."""
import csv
import gzip
import logging
import os
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.hetero import EDGE, build_data
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.datasets.base import GraphDataset

#: The file of each split.
SPLIT_FILES = {'train': 'train.pt', 'val': 'valid.pt', 'test': 'test.pt'}
#: The only dtypes that arrays in those files may have.
INTEGERS = ('int16', 'int32', 'int64')

logger = logging.getLogger(__name__)


class OGBDataset(GraphDataset):
    r"""A knowledge graph of the `"Open Graph Benchmark" <https://arxiv.org/abs/2005.00687>`_ paper
    as one :class:`~torch_geometric.data.HeteroData`.

    The package ogb downloads the files; here they are only read, anew each time, and nothing is
    written. Its `split/*/*.pt` are pickled arrays: they are loaded weights-only, where arrays of
    integers are all that is allowed beside, so that no file can run code.

    The candidates that the benchmark gives for each triple of ``'val'`` and ``'test'`` are
    ``val_head_neg`` and ``val_tail_neg`` (``test_...``) of the edge store, ``[T, K]`` of type
    :obj:`torch.int32`. :func:`~pyg_mmkgc.evaluation.evaluate_ogb` ranks among them.

    Args:
        root (str, optional): The folder that holds `ogbl_wikikg2` or `ogbl_biokg` (or
            `..._pyg`), the ``root`` of ogb. (default: `$PYG_MMKGC_ROOT`, else `./datasets`)
        transform (callable, optional): Applied at each access. (default: :obj:`None`)
        pre_transform (callable, optional): Applied once. (default: :obj:`None`)

    Raises:
        FileNotFoundError: If the folder or a file that it must have is missing.
        ValueError: If a file is damaged, holds anything but arrays of integers, or ids are out
            of range. The message names the file.
    """
    #: The name of the benchmark in ogb.
    ogb_name: str
    #: The name of the archive at ogb's address, and of the folder in it.
    archive: str
    #: The folder in `split`.
    split_type: str
    #: The file in `mapping` with the names of the relations.
    relation_file: str

    def __init__(self, root: Optional[str] = None, transform: Optional[Callable[..., Any]] = None,
                 pre_transform: Optional[Callable[..., Any]] = None):
        parent = Path(root or os.environ.get('PYG_MMKGC_ROOT') or 'datasets').expanduser()
        name = self.ogb_name.replace('-', '_')
        folders = [parent / f'{name}_pyg', parent / name]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(
                f"There is no folder '{folders[-1]}', and this package does not download it. By "
                f"ogb: LinkPropPredDataset('{self.ogb_name}', root='{parent}'). By hand: unpack "
                f'http://snap.stanford.edu/ogb/data/linkproppred/{self.archive}.zip in '
                f"'{parent}' and rename '{self.archive}' to '{name}'")
        self.path = folder
        super().__init__(transform=transform, pre_transform=pre_transform)

        sizes = self.num_nodes()
        offset = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        relations = read_mapping(self.path / 'mapping' / self.relation_file)
        splits, negatives = {}, {}
        for split, file in SPLIT_FILES.items():
            path = self.path / 'split' / self.split_type / file
            splits[split], found = _read_split(path, sizes, offset,
                                               None if relations is None else len(relations))
            negatives.update({f'{split}_{side}_neg': index for side, index in found.items()})
        if relations is None:
            num_relations = 1 + max(int(triples[:, 1].max(initial=-1))
                                    for triples in splits.values())
            relations = [str(i) for i in range(num_relations)]

        data = build_data({split: torch.from_numpy(triples) for split, triples in splits.items()},
                          self.entity_labels(sizes), relations)
        data.candidates = 'all'
        data.ogb_name = self.ogb_name
        if len(sizes) > 1:
            data['entity'].entity_type = torch.repeat_interleave(torch.tensor([*sizes.values()]))
            data['entity'].entity_type_label = Labels(sizes)
        data[EDGE].update(negatives)
        self.data = data if pre_transform is None else pre_transform(data)

    def num_nodes(self) -> Dict[str, int]:
        r"""The number of entities of each type, in the order of their ids."""
        raise NotImplementedError

    def entity_labels(self, sizes: Mapping[str, int]) -> List[str]:
        r"""The label of each entity, given the number of entities of each type."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({str(self.path)!r})'


class OGBWikiKG2(OGBDataset):
    r"""ogbl-wikikg2: Wikidata as of 2015.

    2,500,604 entities, 535 relations, 16,109,182 / 429,456 / 598,543 triples for training,
    validation and test, split by time; 500 negatives on each side of a triple. Labels are
    Wikidata's ids (``'Q92894'``, ``'P31'``) where `mapping` has them, else numbers. There is no
    modality. Counts are those that ogb states; see :class:`OGBDataset` for the arguments.
    """
    ogb_name = 'ogbl-wikikg2'
    archive = 'wikikg-v2'
    split_type = 'time'
    relation_file = 'reltype2relid.csv.gz'

    def num_nodes(self) -> Dict[str, int]:
        path = self.path / 'raw' / 'num-node-list.csv.gz'
        rows = _read_csv(path)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise ValueError(f'{path}:1: expected the number of entities alone (got {rows[:2]})')
        return {'': _to_int(path, 1, rows[0][0])}

    def entity_labels(self, sizes: Mapping[str, int]) -> List[str]:
        return _labels(self.path / 'mapping' / 'nodeidx2entityid.csv.gz', sizes[''])


class OGBBioKG(OGBDataset):
    r"""ogbl-biokg: diseases, drugs, functions, proteins and side effects.

    93,773 entities of five types, 51 relations, 4,762,678 / 162,886 / 162,870 triples for
    training, validation and test, split at random; 500 negatives of the right type on each side
    of a triple. In the files each type counts from zero; here the types follow one another in
    alphabetical order, and ``data['entity'].entity_type`` is the index of an entity's type in
    ``entity_type_label``. Labels are ``'<type>:<name>'``, such as ``'protein:3350'``, with
    numbers for names where `mapping` has none. There is no modality. Counts are those that ogb
    states; see :class:`OGBDataset` for the arguments.
    """
    ogb_name = 'ogbl-biokg'
    archive = 'biokg'
    split_type = 'random'
    relation_file = 'relidx2relname.csv.gz'

    def num_nodes(self) -> Dict[str, int]:
        path = self.path / 'raw' / 'num-node-dict.csv.gz'
        rows = _read_csv(path)
        if len(rows) != 2 or len(rows[0]) != len(rows[1]) or len(set(rows[0])) < len(rows[0]):
            raise ValueError(f'{path}:1: expected a line of types and one of their sizes '
                             f'(got {rows[:3]})')
        sizes = dict(zip(rows[0], rows[1], strict=True))
        return {name: _to_int(path, 2, sizes[name]) for name in sorted(sizes)}

    def entity_labels(self, sizes: Mapping[str, int]) -> List[str]:
        return [f'{name}:{label}' for name, size in sizes.items() for label in
                _labels(self.path / 'mapping' / f'{name}_entidx2name.csv.gz', size)]


def read_mapping(path: Path) -> Optional[List[str]]:
    r"""Read a file of `mapping`: compressed, a header, then id and name, separated by a comma.

    Args:
        path (pathlib.Path): The file.

    Returns:
        List[str], optional: The names in the order of their ids, :obj:`None` if there is no such
        file.

    Raises:
        ValueError: If it is damaged, or the ids are not 0 to :math:`n - 1`, each once.
    """
    if not path.is_file():
        logger.info("There is no file '%s', so ids stand for names", path)
        return None
    rows = _read_csv(path)
    names = [''] * max(len(rows) - 1, 0)
    for i, row in enumerate(rows[1:], 2):
        index = _to_int(path, i, row[0])
        if len(row) != 2 or not row[1]:
            raise ValueError(f'{path}:{i}: expected an id and a name (got {row})')
        if index >= len(names) or names[index]:
            raise ValueError(f'{path}:{i}: id {index} is out of range or occurs twice (expected 0 '
                             f'to {len(names) - 1}, each once)')
        names[index] = row[1]
    return names


def _labels(path: Path, size: int) -> List[str]:
    names = read_mapping(path)
    if names is None:
        return [str(i) for i in range(size)]
    if len(names) != size:
        raise ValueError(f'{path}: expected {size} names (got {len(names)})')
    return names


def _read_csv(path: Path) -> List[List[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    try:
        with gzip.open(path, 'rt', encoding='utf-8', newline='') as f:
            return [row for row in csv.reader(f) if row]
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{path}: damaged or no compressed table ({error})') from error


def _to_int(path: Path, line: int, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ValueError(f'{path}:{line}: expected a number (got {value!r})')
    return int(value)


def _read_split(path: Path, sizes: Mapping[str, int], offset: Mapping[str, int],
                num_relations: Optional[int]) -> Tuple[np.ndarray, Dict[str, Tensor]]:
    # Triples [T, 3] and the negatives [T, K] of each side, in ids over all types.
    parts = _load(path)
    relation = _integers(path, parts, 'relation', 1)
    _check_range(path, 'relation', relation, np.array(num_relations or np.iinfo(np.int64).max))
    triples = np.empty((relation.size, 3), dtype=np.int64)
    triples[:, 1] = relation
    negatives = {}
    for column, side in [(0, 'head'), (2, 'tail')]:
        if len(sizes) > 1 or f'{side}_type' in parts:
            size, start = _of_types(path, parts, f'{side}_type', sizes, offset)
        else:
            size, start = np.array([*sizes.values()]), np.array(0)
        index = _integers(path, parts, side, 1)
        if size.size not in (1, index.size) or index.size != relation.size:
            raise ValueError(f'{path}: {side!r}, its types and the relations differ in length '
                             f'({index.size}, {size.size}, {relation.size})')
        _check_range(path, side, index, size)
        triples[:, column] = index + start
        key = f'{side}_neg'
        if key in parts:
            index = _integers(path, parts, key, 2)
            if len(index) != relation.size:
                raise ValueError(f'{path}: expected one row of {key!r} for each of '
                                 f'{relation.size} triples (got {len(index)})')
            _check_range(path, key, index, size.reshape(-1, 1))
            # Half the memory, which for ogbl-wikikg2 is 4 GB.
            index = index.astype(np.int32)
            index += start.reshape(-1, 1).astype(np.int32)
            negatives[side] = torch.from_numpy(index)
            del parts[key]
    return triples, negatives


def _load(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    reconstruct = np.empty(0).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in INTEGERS]
    # The name depends on the version of NumPy that wrote the file.
    functions: List[Tuple[Any, str]] = [
        (reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')]
    try:
        with torch.serialization.safe_globals([np.ndarray, np.dtype, *dtypes, *functions]):
            parts = torch.load(path, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except Exception as error:  # A damaged pickle can fail in any way.
        reason = _reason(error)
        hint = ''
        if reason.endswith('Unsupported operand 149'):  # What newer pickles begin with.
            hint = ('; it is of a newer pickle protocol than weights-only loading reads. If you '
                    'trust it: torch.save(torch.load(path, weights_only=False), path)')
        raise ValueError(f'{path}: refused, since it is damaged or holds more than arrays of '
                         f'integers ({type(error).__name__}: {reason}{hint})') from error
    if not isinstance(parts, dict):
        raise ValueError(f'{path}: expected a dictionary of arrays (got {type(parts).__name__})')
    return parts


def _reason(error: Exception) -> str:
    # PyTorch surrounds the one line that says what was wrong with advice to trust the file.
    lines = [line.rpartition('WeightsUnpickler error:')[2].strip()
             for line in str(error).split('\n')]
    lines = [line for line in lines if line] or ['']
    return next((line for line in lines if 'nsupported' in line), lines[0])[:200]


def _integers(path: Path, parts: Mapping[str, Any], key: str, dim: int) -> np.ndarray:
    value = parts.get(key)
    if isinstance(value, Tensor):
        value = value.numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind != 'i' or value.ndim != dim:
        found = (f'{value.dtype}, {list(value.shape)}' if isinstance(value, np.ndarray) else
                 type(value).__name__)
        raise ValueError(f'{path}: expected {key!r} to be an array of integers with {dim} '
                         f'dimensions (got {found})')
    return value


def _of_types(path: Path, parts: Mapping[str, Any], key: str, sizes: Mapping[str, int],
              offset: Mapping[str, int]) -> Tuple[np.ndarray, np.ndarray]:
    # The number of entities of the type of each row, and where they start.
    value = parts.get(key)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f'{path}: expected {key!r} to be a list of types '
                         f'(got {type(value).__name__})')
    names, code = np.unique(np.array(value, dtype=str), return_inverse=True)
    for name in names.tolist():
        if name not in sizes:
            raise ValueError(f'{path}: unknown type {name!r} in {key!r} (expected one of '
                             f'{list(sizes)})')
    return (np.array([sizes[name] for name in names.tolist()], dtype=np.int64)[code],
            np.array([offset[name] for name in names.tolist()], dtype=np.int64)[code])


def _check_range(path: Path, key: str, index: np.ndarray, size: np.ndarray) -> None:
    wrong = (index < 0) | (index >= size)
    if wrong.any():
        row = np.unravel_index(int(wrong.argmax()), index.shape)
        limit = np.broadcast_to(size, index.shape)[row]
        raise ValueError(f'{path}: id {index[row]} in row {row[0]} of {key!r} is out of range '
                         f'(expected 0 to {limit - 1})')
