r"""Describing a folder: what it holds is guessed, tried, and written down as `dataset.yaml`."""
import csv
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Union

from pyg_mmkgc.data.hetero import EDGE, get_triples, modality_names, split_names
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.data.tables import TABLE_SUFFIXES, TripleFile
from pyg_mmkgc.datasets.folder.attributes import TABLE_STEMS, find_tables
from pyg_mmkgc.datasets.folder.config import CONFIG, FolderConfig, write_config
from pyg_mmkgc.datasets.folder.features import COMPANIONS, find_features
from pyg_mmkgc.datasets.folder.mmkg_folder import planned
from pyg_mmkgc.datasets.folder.rdf import RDF_SUFFIXES
from pyg_mmkgc.datasets.folder.read import read_folder
from pyg_mmkgc.datasets.folder.triples import (
    SINGLE_STEMS,
    SPLIT_STEMS,
    find_file,
    find_triples,
)

#: How many lines are looked at to find the delimiter, and which may be one.
_SAMPLE = 20
_DELIMITERS = ('\t', ',', ';', '|', ' ')
_DEFAULT_ENCODERS = {'audio': 'logmel', 'image': 'efficientnet-lite0', 'numeric': 'quantile',
                     'text': 'hash', 'video': 'efficientnet-lite0'}


def init_folder(path: Union[str, 'os.PathLike[str]']) -> Dict[str, Any]:
    r"""Find out what a folder holds, and write it down as `dataset.yaml`.

    Beyond what :class:`~pyg_mmkgc.datasets.MMKGFolder` takes by itself, one file of triples may
    have any name, and the delimiter is found by looking at the first lines. The graph is read
    once; what cannot be read is an error, and nothing is written.

    Args:
        path (str or os.PathLike): The folder.

    Returns:
        Dict[str, Any]: What was understood: ``'files'``, ``'entities'``, ``'relations'``,
        ``'splits'`` (triples in each), ``'texts'`` and ``'numbers'`` (entities that have one),
        ``'paths'`` (files found), ``'features'`` and ``'modalities'`` (with their encoders).

    Raises:
        FileNotFoundError: If there is no such folder, or no triples in it.
        FileExistsError: If it has a `dataset.yaml`, which is never overwritten.
        ValueError: If several files may hold the triples, or a file is malformed.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{path}'")
    if (folder / CONFIG).exists():
        raise FileExistsError(f"'{folder / CONFIG}' exists and is not overwritten")
    config = FolderConfig()
    if not (folder / 'entity2id.txt').exists():
        _describe_triples(folder, config)
    data = read_folder(folder, config)
    for stem in ('entities', 'relations'):
        listing = find_file(folder, [stem], TABLE_SUFFIXES)
        setattr(config, stem, None if listing is None or config.triples is None else listing.name)
    config.features = [file.name for file in find_features(folder, config)] or None
    config.attributes = [file.name for file in find_tables(folder, config)] or None
    if config.attributes and (folder / 'descriptions.tsv').exists():
        config.attributes = None  # That file is found by its name only, and the others with it.

    store = data['entity']
    texts = [key for key, value in store.items() if isinstance(value, Labels)
             and key not in ('label', 'name', 'description') and not key.endswith('_path')]
    config.texts = texts if not (folder / 'descriptions.tsv').exists() else []
    config.numbers = list(store.get('numeric_attribute', []))
    ready = modality_names(data)
    config.modalities = {name: {'encoder': _DEFAULT_ENCODERS[name]}
                         for name in planned(data, config) if name not in ready}
    write_config(config, folder)

    number = store.get('numeric_value')
    return {
        'files': _files(folder, config),
        'entities': store.num_nodes,
        'relations': data[EDGE].num_relations,
        'splits': {split: get_triples(data, split)[0].numel() for split in split_names(data)},
        'texts': {key: sum(text is not None for text in store[key]) for key in store.keys()
                  if isinstance(store[key], Labels) and key not in ('label', 'name')
                  and not key.endswith('_path')},
        'numbers': {name: int((~number[:, i].isnan()).sum())
                    for i, name in enumerate(config.numbers)},
        'paths': {key: sum(file is not None for file in store[key]) for key in store.keys()
                  if key.endswith('_path')},
        'features': {name: int(store[f'{name}_mask'].sum()) for name in ready},
        'modalities': {**{name: None for name in ready},
                       **{name: options['encoder'] for name, options in
                          config.modalities.items()}},
    }


def _describe_triples(folder: Path, config: FolderConfig) -> None:
    stems = [stem for split in SPLIT_STEMS.values() for stem in split] + SINGLE_STEMS
    if any(find_file(folder, [stem]) for stem in stems):
        paths = find_triples(folder, config)
    else:
        paths = {'': _only_candidate(folder)}
    config.triples = (paths[''].name if '' in paths else
                      {split: path.name for split, path in paths.items()})
    if '' in paths:
        config.split = {'ratios': [0.8, 0.1, 0.1], 'inductive': None, 'seed': 0}
    tables = [path for path in paths.values() if path.suffix in ('.tsv', '.txt', '.csv')]
    if not tables:
        return
    config.delimiter = _delimiter(tables[0])
    files = [TripleFile(path, delimiter=config.delimiter) for path in tables]
    headers = {file.header for file in files}
    positions, *others = {file.positions for file in files}
    if len(headers) == 1 and positions is not None and not others:
        config.header = headers.pop()
        config.columns = dict(zip(('head', 'relation', 'tail'), positions, strict=True))


def _only_candidate(folder: Path) -> Path:
    known = {'entities', 'relations', 'descriptions', 'readme', 'license', *TABLE_STEMS}
    found = [path for path in sorted(folder.iterdir())
             if path.suffix in (*TABLE_SUFFIXES, *RDF_SUFFIXES) and path.is_file()
             and path.stem.lower() not in known
             and not path.stem.endswith(tuple(f'_{c}' for c in COMPANIONS))]
    if len(found) != 1:
        what = 'no file' if not found else f'{[path.name for path in found]}'
        raise (FileNotFoundError if not found else ValueError)(
            f"{folder}: expected train, val and test, or one file of triples (got {what})")
    return found[0]


def _delimiter(path: Path) -> Optional[str]:
    # The one between three cells in each of the first lines; more cells, if there is none.
    with open(path, encoding='utf-8-sig', errors='replace') as f:
        lines = [line.rstrip('\r\n') for _, line in zip(range(_SAMPLE), f, strict=False)]
    lines = [line for line in lines if line.strip()]
    default = ',' if path.suffix == '.csv' else '\t'
    order = [default, *(d for d in _DELIMITERS if d != default)]
    for delimiter in order:
        widths = _widths(lines, delimiter, path.suffix == '.csv')
        if widths == {3}:
            return delimiter
    wide = [d for d in order if len(w := _widths(lines, d, path.suffix == '.csv')) == 1
            and min(w) > 3]
    return wide[0] if wide else None


def _widths(lines: List[str], delimiter: str, quoted: bool) -> Set[int]:
    if quoted:
        try:
            return {len(cells) for cells in csv.reader(lines, delimiter=delimiter)}
        except csv.Error:
            return set()
    return {len(line.split(delimiter)) for line in lines}


def _files(folder: Path, config: FolderConfig) -> List[str]:
    triples = config.triples
    names = list(triples.values()) if isinstance(triples, dict) else [triples]
    return sorted({name for name in (*names, config.entities, config.relations,
                                     *(config.attributes or []), *(config.features or []))
                   if name is not None})
