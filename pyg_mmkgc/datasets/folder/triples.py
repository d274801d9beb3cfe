r"""The triples of a folder: which files hold them, and what their cells mean."""
import logging
import unicodedata
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.splits import split_entities, split_triples
from pyg_mmkgc.data.tables import (
    TABLE_SUFFIXES,
    AttributeTable,
    TripleFile,
    TripleTable,
    label_error,
    read_attribute_table,
)
from pyg_mmkgc.datasets.folder.config import CONFIG, FolderConfig
from pyg_mmkgc.datasets.folder.rdf import RDF_SUFFIXES, Literals, RDFFile
from pyg_mmkgc.datasets.openke import SPLIT_FILES, read_openke, read_text

#: The stems that each split's file may have; those after the first three need not be there.
SPLIT_STEMS = {'train': ['train'], 'val': ['val', 'valid'], 'test': ['test'],
               'inductive_test': ['inductive_test']}
#: The stems of a file that holds all triples.
SINGLE_STEMS = ['triples', 'graph']
SUFFIXES = [*TABLE_SUFFIXES, *RDF_SUFFIXES]
_MAX_DIGITS = 18

TriplesOf = Union[TripleFile, RDFFile]

logger = logging.getLogger(__name__)


class Graph(NamedTuple):
    r"""What a folder says without its features.

    Args:
        entities (List[str]): The names of the entities, by which all other files call them.
        relations (List[str]): The names of the relations.
        splits (Dict[str, torch.Tensor]): The triples ``[T, 3]`` of each split.
        ordered (bool): Whether the folder itself says in which order the entities stand.
        entity_tables (List[AttributeTable]): What came along about the entities.
        relation_tables (List[AttributeTable]): What came along about the relations.
    """
    entities: List[str]
    relations: List[str]
    splits: Dict[str, Tensor]
    ordered: bool
    entity_tables: List[AttributeTable]
    relation_tables: List[AttributeTable]


def read_graph(folder: Path, config: FolderConfig) -> Graph:
    r"""Read triples, and the lists of entities and relations.

    Raises:
        FileNotFoundError: If a file that the folder must have is missing.
        ValueError: If a file is malformed, a split is empty, or a name is not listed.
    """
    if config.triples is None and (folder / 'entity2id.txt').exists():
        entities, relations, splits = read_openke(folder)
        for split, triples in splits.items():
            _check_filled(folder / SPLIT_FILES[split], split, len(triples))
        _check_unsplit(folder, config, SPLIT_FILES.values())
        return Graph(entities, relations, splits, True, [], [])

    paths = find_triples(folder, config)
    if '' not in paths:
        _check_unsplit(folder, config, [path.name for path in paths.values()])
    literals = Literals()
    files = {split: _open(path, config, literals) for split, path in paths.items()}
    tables = {split: file.read() for split, file in files.items()}
    for split, table in tables.items():
        _check_filled(paths[split], split, len(table.head))
    entity_path = _find_listing(folder, 'entities', config.entities)
    relation_path = _find_listing(folder, 'relations', config.relations)
    entity_list, entity_tables = _read_listing(entity_path)
    relation_list, relation_tables = _read_listing(relation_path)
    if entity_list is None and relation_list is None:
        _warn_of_swapped_columns(paths, tables)

    listings = {'entity': entity_path, 'relation': relation_path}
    lookup = _Lookup(files, config.ids,
                     {kind: path for kind, path in listings.items() if path is not None})
    entities, entity_ids = lookup('entity', {s: t.entities for s, t in tables.items()},
                                  entity_list)
    relations, rel_ids = lookup('relation', {s: t.relations for s, t in tables.items()},
                                relation_list)
    rdf = [file.path for file in files.values() if isinstance(file, RDFFile)]
    if rdf:
        entity_tables.append(literals.table(rdf[0], entities))
        relation_tables.append(literals.table(rdf[0], relations))
    splits = {}
    for split in list(tables):
        table = tables.pop(split)  # Its memory is needed for the result.
        triples = torch.empty(3, len(table.head), dtype=torch.long)
        for row, codes, ids in zip(triples, (table.head, table.relation, table.tail),
                                   (entity_ids[split], rel_ids[split], entity_ids[split]),
                                   strict=True):
            np.take(ids, codes, out=row.numpy())
        splits[split] = triples.t()  # Columns that lie together, as `build_data` needs them.
    if set(splits) == {''}:
        splits = _split(paths[''], splits[''], config)
    _warn_of_unicode_forms('entities', entities)
    _warn_of_unicode_forms('relations', relations)
    return Graph(entities, relations, splits, entity_list is not None or config.ids is not None,
                 entity_tables, relation_tables)


def find_triples(folder: Path, config: FolderConfig) -> Dict[str, Path]:
    r"""The file of each split, or the one file of all triples under the key ``''``."""
    if isinstance(config.triples, dict):
        return {split: folder / name for split, name in config.triples.items()}
    if isinstance(config.triples, str):
        return {'': folder / config.triples}
    single = find_file(folder, SINGLE_STEMS)
    train = find_file(folder, SPLIT_STEMS['train'])
    if single is not None and train is not None:
        raise ValueError(f"{folder}: both '{single.name}' and '{train.name}' hold triples "
                         f"(expected one of them, or 'triples' in {CONFIG})")
    if single is not None:
        return {'': single}
    paths = {}
    for split, stems in SPLIT_STEMS.items():
        path = find_file(folder, stems)
        if path is not None:
            paths[split] = path
        elif split != 'inductive_test':
            names = [f'{stem}{suffix}' for stem in stems for suffix in SUFFIXES]
            raise FileNotFoundError(
                f"There is no file '{folder / names[0]}' (nor {names[1:]}, nor 'triples.tsv' for "
                f"all splits, nor 'entity2id.txt' of the OpenKE layout)")
    return paths


def find_file(folder: Path, stems: Sequence[str],
              suffixes: Sequence[str] = tuple(SUFFIXES)) -> Optional[Path]:
    r"""The one file with one of these stems and suffixes, if there is one.

    Raises:
        ValueError: If there are several.
    """
    found = [folder / f'{stem}{suffix}' for stem in stems for suffix in suffixes
             if (folder / f'{stem}{suffix}').is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder}: both '{found[0].name}' and '{found[1].name}' are there "
                         f'(expected one of them, or its name in {CONFIG})')
    return found[0] if found else None


def read_list(path: Path) -> List[str]:
    r"""Read a list of labels, one a line; blank lines are left out.

    Raises:
        ValueError: If a label occurs twice or there is none.
    """
    first: Dict[str, int] = {}
    for i, line in enumerate(read_text(path).split('\n'), 1):
        label = line.strip()
        if label in first:
            raise ValueError(f'{path}:{i}: {label!r} occurs twice (first in line {first[label]})')
        if label:
            if label_error(label) is not None:
                raise ValueError(f'{path}:{i}: {label!r} is {label_error(label)}')
            first[label] = i
    if not first:
        raise ValueError(f'{path}: the file is empty')
    return list(first)


def _find_listing(folder: Path, stem: str, name: Optional[str]) -> Optional[Path]:
    if name is not None and not (folder / name).is_file():
        raise FileNotFoundError(f"There is no file '{folder / name}'")
    return find_file(folder, [stem], TABLE_SUFFIXES) if name is None else folder / name


def _read_listing(path: Optional[Path]) -> Tuple[Optional[List[str]], List[AttributeTable]]:
    if path is None:
        return None, []
    if path.suffix not in ('.csv', '.tsv', '.parquet'):
        return read_list(path), []
    table = read_attribute_table(path)
    if not table.names:
        raise ValueError(f'{path}: the file is empty')
    return table.names, [table]


def _open(path: Path, config: FolderConfig, literals: Literals) -> TriplesOf:
    if path.suffix in RDF_SUFFIXES:
        return RDFFile(path, literals)
    return TripleFile(path, config.columns, config.header, config.delimiter)


def _check_filled(path: Path, split: str, num_triples: int) -> None:
    if num_triples == 0:
        what = f'split {split!r}' if split else 'the file'
        raise ValueError(f'{path}: {what} is empty')


def _check_unsplit(folder: Path, config: FolderConfig, names: Iterable[str]) -> None:
    if config.split is not None:
        raise ValueError(f"{folder / CONFIG}: 'split' needs one file of all triples (got "
                         f'{list(names)})')


def _split(path: Path, triples: Tensor, config: FolderConfig) -> Dict[str, Tensor]:
    options = dict(config.split or {})
    if config.split is None:
        logger.info("%s: split 0.8 / 0.1 / 0.1 with seed 0; 'split' in %s says otherwise", path,
                    CONFIG)
    inductive = options.pop('inductive', None)
    try:
        if inductive is None:
            return split_triples(triples, **options)
        return split_entities(triples, inductive, **options)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


class _Lookup:
    r"""Turns what cells hold, labels or ids, into positions in one list."""
    def __init__(self, files: Dict[str, TriplesOf], first_id: Optional[int],
                 listings: Dict[str, Path]):
        self.files = files
        self.first_id = first_id
        self.listings = listings

    def __call__(self, kind: str, cells: Dict[str, List[str]], listed: Optional[List[str]],
                 ) -> Tuple[List[str], Dict[str, np.ndarray]]:
        everything: Set[str] = set().union(*cells.values())
        first_id = self.first_id
        digits = all(cell.isascii() and cell.isdigit() for cell in everything)
        if first_id is not None and kind == 'entity' and not digits:
            bad = next(cell for cells_ in cells.values() for cell in cells_
                       if not (cell.isascii() and cell.isdigit()))
            raise ValueError(f"{self._where(kind, bad)}: expected the id of an entity, since "
                             f"{CONFIG} has 'ids' (got {bad!r})")
        if first_id is None and listed is not None and digits and not everything & set(listed):
            first_id = self._guess(kind, everything, len(listed))
        if first_id is None or not digits:
            names = listed or sorted(everything)
            position = {name: i for i, name in enumerate(names)}
            for missing in (cell for cells_ in cells.values() for cell in cells_
                            if cell not in position):
                raise ValueError(f"{self._where(kind, missing)}: {kind} {missing!r} is not listed "
                                 f"in '{self.listings[kind].name}'"
                                 f'{self._hint(kind, cells, position)}')
            return names, {split: np.array([position[cell] for cell in cells_], dtype=np.int64)
                           for split, cells_ in cells.items()}
        ids = {split: self._parse(kind, cells_, first_id) for split, cells_ in cells.items()}
        size = max(int(values.max()) for values in ids.values()) + 1
        if listed is not None and size > len(listed) or min(v.min() for v in ids.values()) < 0:
            last = (size if listed is None else len(listed)) + first_id - 1
            bad = next(cell for cells_ in cells.values() for cell in cells_
                       if not first_id <= int(cell) <= last)
            raise ValueError(f'{self._where(kind, bad)}: {kind} id {int(bad)} is out of range '
                             f'(expected {first_id} to {last})')
        names = listed or [str(i + first_id) for i in range(size)]
        return names, ids

    def _where(self, kind: str, cell: str) -> str:
        for file in self.files.values():
            where = file.locate(lambda h, r, t: cell in ((h, t) if kind == 'entity' else (r, )))
            if where != str(file.path):
                return where
        return str(next(iter(self.files.values())).path)

    def _parse(self, kind: str, cells: List[str], first_id: int) -> np.ndarray:
        long = next((cell for cell in cells if len(cell) > _MAX_DIGITS), None)
        if long is not None:
            raise ValueError(f'{self._where(kind, long)}: number too large (got {long[:40]!r})')
        return np.array([int(cell) for cell in cells], dtype=np.int64) - first_id

    def _guess(self, kind: str, cells: Set[str], size: int) -> int:
        low, high = (int(f(cells, key=lambda c: (len(c.lstrip('0')), c.lstrip('0'))))
                     for f in (min, max))
        if low == 0 or high > size:
            return 0 if low == 0 else 1
        if high == size:
            return 1
        path = next(iter(self.files.values())).path
        raise ValueError(f'{path}: {kind} ids are {low} to {high}, but {size} are listed, so they '
                         f"may count from 0 or from 1 (expected 'ids: 0' or 'ids: 1' in {CONFIG})")

    def _hint(self, kind: str, cells: Dict[str, List[str]], position: Dict[str, int]) -> str:
        other = not any(cell in position for cells_ in cells.values() for cell in cells_)
        return ("; none is, so the columns may be in another order, see 'columns' of "
                f'{CONFIG}' if other and kind == 'relation' else '')


def _warn_of_swapped_columns(paths: Dict[str, Path], tables: Dict[str, TripleTable]) -> None:
    # A relation is rarely an entity as well, and there are fewer relations than tails.
    for split, table in tables.items():
        heads = {table.entities[i] for i in np.unique(table.head)}
        tails = {table.entities[i] for i in np.unique(table.tail)}
        shared = len(heads.intersection(table.relations))
        if shared > len(heads & tails) or len(table.relations) > max(len(tails), 10):
            logger.warning("%s: the columns look like head, tail, relation (%d relations, %d "
                           "tails, %d relations that are heads); 'columns' in %s sets another "
                           'order', paths[split], len(table.relations), len(tails), shared,
                           CONFIG)
            return


def _warn_of_unicode_forms(kind: str, names: List[str]) -> None:
    # They stay two names: which of them was meant, only the user knows.
    forms: Dict[str, str] = {}
    odd = [name for name in names if not unicodedata.is_normalized('NFC', name)]
    if not odd:
        return
    known = set(names)
    for name in odd:
        form = unicodedata.normalize('NFC', name)
        other = form if form in known else forms.get(form)
        if other is not None:
            logger.warning('%s %r and %r are the same text in two Unicode forms, and stay two',
                           kind, other, name)
            return
        forms[form] = name
