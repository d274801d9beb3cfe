r"""What a folder says about its entities beside triples: labels, texts, numbers and files."""
import logging
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence
from urllib.parse import unquote

import numpy as np
import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.hetero import EDGE
from pyg_mmkgc.data.labels import Labels, unique_labels
from pyg_mmkgc.data.tables import AttributeTable, as_numbers, read_attribute_table
from pyg_mmkgc.datasets.folder.config import KINDS, FolderConfig, inside
from pyg_mmkgc.datasets.folder.triples import Graph, find_file
from pyg_mmkgc.datasets.openke import read_descriptions

#: The stems of tables about entities. Columns of `texts` are texts, those of `numbers` numbers.
TABLE_STEMS = ('attributes', 'texts', 'numbers')
DESCRIPTIONS = 'descriptions.tsv'
#: The folders of files by entity name, and which suffixes count there.
FILE_FOLDERS = {
    'image': ('images', ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')),
    'audio': ('audio', ('.flac', '.mp3', '.ogg', '.wav')),
    'video': ('video', ('.avi', '.mkv', '.mov', '.mp4', '.webm')),
}
_RESERVED = ('label', 'name', 'num_nodes', 'numeric_attribute', 'numeric_value', *KINDS)
_RESERVED_ENDS = ('_mask', '_index')

logger = logging.getLogger(__name__)


def add_attributes(data: HeteroData, folder: Path, graph: Graph, config: FolderConfig) -> None:
    r"""Put labels, texts, numbers and the paths of files into a graph, in place.

    Raises:
        FileNotFoundError: If a table that `dataset.yaml` names is missing.
        ValueError: If a table is malformed, two of them disagree, a cell is no number, or a
            column has a name that is kept for something else.
    """
    tables = graph.entity_tables + [read_attribute_table(path)
                                    for path in find_tables(folder, config)]
    _add_columns(data['entity'], folder, graph.entities, tables, config)
    _add_columns(data[EDGE], folder, graph.relations, graph.relation_tables, config, False)
    path = folder / DESCRIPTIONS
    if config.attributes is None and path.is_file():
        if 'description' in data['entity']:
            raise ValueError(f"{path}: there is another column 'description' in this folder")
        data['entity'].description = Labels(read_descriptions(path, graph.entities))
    for modality, (name, suffixes) in FILE_FOLDERS.items():
        if (folder / name).is_dir():
            key = f'{modality}_path'
            if key in data['entity']:
                raise ValueError(f"{folder / name}: there is a column {key!r}, too (expected one "
                                 f'of both)')
            data['entity'][key] = find_files(folder / name, suffixes, graph.entities,
                                             data['entity'].label)


def find_tables(folder: Path, config: FolderConfig) -> List[Path]:
    r"""The tables about entities, other than their list."""
    if config.attributes is not None:
        return [folder / name for name in config.attributes]
    found = [find_file(folder, [stem], ('.tsv', '.csv', '.parquet')) for stem in TABLE_STEMS]
    return [path for path in found if path is not None]


def find_files(folder: Path, suffixes: Sequence[str], names: Sequence[str],
               labels: Sequence[str]) -> Labels:
    r"""The file of each entity in a folder of files by entity.

    A file belongs to the entity whose name or label, in this order, is the file's name without
    the suffix; else whose name or label that is once ``%2F`` and the like are decoded; else once
    underscores are spaces as well; else whose id it is. Unicode forms do not matter. Hidden files
    are left out. What matches no entity is warned of, and of several files of one entity all but
    the first by name.

    Args:
        folder (Path): The folder.
        suffixes (Sequence[str]): The suffixes that count, in lower case.
        names (Sequence[str]): The names of the entities.
        labels (Sequence[str]): Their labels.

    Returns:
        Labels: An absolute path for each entity, :obj:`None` where it has none.
    """
    entity: Dict[str, int] = {str(i): i for i in range(len(names))}
    for keys in (labels, names):  # What is put in later wins.
        entity.update((unicodedata.normalize('NFC', key), i) for i, key in enumerate(keys))
    out: List[Optional[str]] = [None] * len(names)
    unknown, further = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith('.'):
            continue
        stem = unicodedata.normalize('NFC', path.stem)
        decoded = unicodedata.normalize('NFC', unquote(stem))
        found = [entity[key] for key in (stem, decoded, stem.replace('_', ' '),
                                         decoded.replace('_', ' ')) if key in entity]
        if not found or path.suffix.lower() not in suffixes or not path.is_file():
            unknown.append(path.name)
        elif out[found[0]] is not None:
            further.append(path.name)
        else:
            out[found[0]] = str(path.absolute())
    if unknown:
        logger.warning('%s: %d files match no entity or are of another kind (first: %r)', folder,
                       len(unknown), unknown[0])
    if further:
        logger.warning('%s: %d files of entities that have one already are left out (first: %r)',
                       folder, len(further), further[0])
    return Labels(out)


def _add_columns(store: HeteroData, folder: Path, names: List[str], tables: List[AttributeTable],
                 config: FolderConfig, with_numbers: bool = True) -> None:
    position = {name: i for i, name in enumerate(names)}
    values: Dict[str, np.ndarray] = {}
    origin: Dict[str, AttributeTable] = {}
    for table in tables:
        rows = np.array([position.get(name, -1) for name in table.names], dtype=np.int64)
        if (rows < 0).any():
            logger.warning('%s: %d rows about none of the entities left out (first: %r)',
                           table.path, int((rows < 0).sum()),
                           table.names[int((rows < 0).argmax())])
        for name, column in table.columns.items():
            if name in origin:
                raise ValueError(f'{table.path}: column {name!r} stands in '
                                 f"'{origin[name].path.name}', too")
            origin[name] = table
            found = _column(table, name, column, config)
            if found.dtype != object and not with_numbers:
                found = np.array(column.cast('string').to_pylist(), dtype=object)
            empty = np.full(len(names), None if found.dtype == object else np.nan, found.dtype)
            empty[rows[rows >= 0]] = found[rows >= 0]
            values[name] = empty
    for key, columns in (('texts', config.texts), ('numbers', config.numbers)):
        for name in columns if with_numbers else ():
            if name not in values:
                raise ValueError(f"{folder / 'dataset.yaml'}: {key!r} names the column {name!r}, "
                                 f'which is in no table (got {sorted(values)})')

    if 'label' in values:
        table = origin['label']
        if table.key != 'id':
            store.name = Labels(names)
        store.label = Labels(unique_labels([label or name for label, name
                                      in zip(values.pop('label'), names, strict=True)], names))
        if len(set(store.label)) < len(names):
            raise ValueError(f"{table.path}: labels occur twice even with the names behind them")
    for name, column in values.items():
        if name in _RESERVED or name.endswith(_RESERVED_ENDS):
            raise ValueError(f'{origin[name].path}: a column cannot be called {name!r}, which is '
                             f'kept for something else (another name, such as {name + "_of"!r}, '
                             f'will do)')
        if column.dtype == object:
            if name.endswith('_path'):
                column = _resolve(folder, origin[name].path, column)
            store[name] = Labels(column.tolist())
    numbers = [name for name, column in values.items() if column.dtype != object]
    if numbers:
        store.numeric_value = torch.from_numpy(np.stack([values[n] for n in numbers], axis=1))
        store.numeric_attribute = numbers


def _column(table: AttributeTable, name: str, column: Any, config: FolderConfig) -> np.ndarray:
    # Texts as objects, numbers as float64.
    stem = table.path.stem
    texts = np.array([*column.cast('string').to_pylist(), None], dtype=object)[:-1]
    if name in config.texts or name == 'label' or name.endswith('_path') or (
            stem == 'texts' and name not in config.numbers):
        return texts
    numbers, wrong = as_numbers(column)
    if name in config.numbers or stem == 'numbers':
        if wrong is not None:
            raise ValueError(f'{table.locate(wrong)}: expected a finite number in column {name!r} '
                             f'(got {texts[wrong]!r})')
        return numbers
    if str(column.type) != 'string' and wrong is not None:
        raise ValueError(f'{table.locate(wrong)}: column {name!r} holds an infinite number')
    return texts if wrong is not None or np.isnan(numbers).all() else numbers


def _resolve(folder: Path, table: Path, column: np.ndarray) -> np.ndarray:
    out = column.copy()
    for i, name in enumerate(column):
        if name is not None and not Path(name).is_absolute():
            if not inside(name):
                raise ValueError(f'{table}: expected an absolute path or one that stays inside '
                                 f'the folder (got {name!r})')
            out[i] = str((folder / name).absolute())
    return out
