r"""`dataset.yaml`: what a folder says about itself where guessing would be unsafe."""
import difflib
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import yaml

from pyg_mmkgc.data.io import atomic_write
from pyg_mmkgc.datasets.openke import read_text

CONFIG = 'dataset.yaml'
SPLITS = ('train', 'val', 'test', 'inductive_test')
#: What a modality can be made from; without `kind`, a modality's name says it.
KINDS = ('audio', 'image', 'numeric', 'text', 'video')
COLUMNS = ('head', 'relation', 'tail')
MODALITY_KEYS = ('encoder', 'kind', 'source')
SPLIT_KEYS = ('inductive', 'ratios', 'seed')


@dataclass
class FolderConfig:
    r"""The content of `dataset.yaml`. Every key may be left out; the folder is then searched for
    files of the usual names. Paths are relative and stay inside the folder.

    Args:
        triples (str or Dict[str, str], optional): The file of all triples, or one for each split.
        columns (Dict[str, str or int], optional): For head, relation and tail the column, as a
            name in the header or a position from 0.
        header (bool, optional): Whether the files of triples have a header.
        delimiter (str, optional): The character between cells in the files of triples.
        ids (int, optional): The first id, 0 or 1, if triples hold ids rather than labels.
        split (Dict[str, Any], optional): How one file is split: `ratios`, `inductive` (the share
            of the entities that training never mentions) and `seed`.
        entities (str, optional): The list or table of all entities, in order.
        relations (str, optional): The same for relations.
        attributes (List[str], optional): Further tables about entities.
        features (List[str], optional): Files of features.
        texts (List[str]): Columns that are texts even if they look like numbers.
        numbers (List[str]): Columns that are numbers, so that anything else is an error.
        candidates (str): Which entities are ranked: ``'all'``, or ``'seen'`` in training.
        modalities (Dict[str, Dict[str, Any]]): For a modality its `encoder` (null: it is left
            out), `source` and `kind`.
    """
    triples: Union[None, str, Dict[str, str]] = None
    columns: Optional[Dict[str, Union[str, int]]] = None
    header: Optional[bool] = None
    delimiter: Optional[str] = None
    ids: Optional[int] = None
    split: Optional[Dict[str, Any]] = None
    entities: Optional[str] = None
    relations: Optional[str] = None
    attributes: Optional[List[str]] = None
    features: Optional[List[str]] = None
    texts: List[str] = field(default_factory=list)
    numbers: List[str] = field(default_factory=list)
    candidates: str = 'all'
    modalities: Dict[str, Dict[str, Any]] = field(default_factory=dict)


def read_config(folder: Path) -> FolderConfig:
    r"""Read and check the `dataset.yaml` of a folder, if it has one.

    Raises:
        ValueError: If it is malformed, or a key is unknown, of a wrong type or out of range.
    """
    path = folder / CONFIG
    if not path.exists():
        return FolderConfig()
    try:
        content = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, 'problem_mark', None)
        where = path if mark is None else f'{path}:{mark.line + 1}'
        problem = getattr(error, 'problem', None) or 'nested too deeply'
        raise ValueError(f'{where}: malformed YAML ({problem})') from error
    except ValueError as error:
        # Of ours, or of a date that the calendar lacks.
        ours = str(error).startswith(str(path))
        raise error if ours else ValueError(f'{path}: malformed YAML ({error})') from error
    return _check(path, {} if content is None else content)


def write_config(config: FolderConfig, folder: Path) -> None:
    r"""Write what differs from the defaults as `dataset.yaml`."""
    default = FolderConfig()
    values = {f.name: getattr(config, f.name) for f in fields(config)
              if getattr(config, f.name) != getattr(default, f.name)}
    with atomic_write(folder / CONFIG) as f:
        f.write('# What pyg_mmkgc reads in this folder; see MMKGFolder.\n')
        yaml.safe_dump(values, f, sort_keys=False, allow_unicode=True)


def _check(path: Path, content: Any) -> FolderConfig:
    _expect(path, 'the file', content, isinstance(content, dict), 'a mapping')
    _check_keys(path, '', content, [f.name for f in fields(FolderConfig)])
    config = FolderConfig(**{key: value for key, value in content.items() if value is not None})

    if isinstance(config.triples, dict):
        _check_keys(path, 'triples.', config.triples, SPLITS)
        for split, name in config.triples.items():
            _check_path(path, f'triples.{split}', name)
        _expect(path, 'triples', config.triples, 'train' in config.triples,
                "a file for 'train' at least")
    elif config.triples is not None:
        _check_path(path, 'triples', config.triples)
    for key in ('entities', 'relations'):
        if getattr(config, key) is not None:
            _check_path(path, key, getattr(config, key))
    for key in ('attributes', 'features', 'texts', 'numbers'):
        names = getattr(config, key)
        if names is not None:
            _expect(path, key, names, isinstance(names, list)
                    and all(isinstance(name, str) for name in names), 'a list of names')
            if key in ('attributes', 'features'):
                for name in names:
                    _check_path(path, key, name)
    both = sorted(set(config.texts) & set(config.numbers))
    _expect(path, 'numbers', both, not both, "columns that 'texts' does not name")

    if config.columns is not None:
        columns = config.columns
        _expect(path, 'columns', columns, isinstance(columns, dict), 'a mapping')
        _check_keys(path, 'columns.', columns, COLUMNS)
        for part in COLUMNS:
            value = columns.get(part)
            _expect(path, f'columns.{part}', value, isinstance(value, str) or _is_int(value),
                    'a name in the header or a position from 0')
        _expect(path, 'columns', columns, len({str(v) for v in columns.values()}) == 3,
                'three different columns')
    if config.header is not None:
        _expect(path, 'header', config.header, isinstance(config.header, bool), 'true or false')
    if config.delimiter is not None:
        value = config.delimiter
        _expect(path, 'delimiter', value, isinstance(value, str) and len(value) == 1
                and value.isascii() and value not in '"\r\n\0', 'one character, such as ";"')
    if config.ids is not None:
        _expect(path, 'ids', config.ids, _is_int(config.ids) and config.ids in (0, 1),
                'the first id, 0 or 1')
    _expect(path, 'candidates', config.candidates, config.candidates in ('all', 'seen'),
            "'all' or 'seen'")
    _check_split(path, config.split)

    _expect(path, 'modalities', config.modalities, isinstance(config.modalities, dict),
            'a mapping')
    for name, values in config.modalities.items():
        key = f'modalities.{name}'
        _expect(path, key, name, isinstance(name, str), 'a name')
        _expect(path, key, values, isinstance(values, dict), 'a mapping, such as {encoder: hash}')
        _check_keys(path, f'{key}.', values, MODALITY_KEYS)
        kind = values.get('kind', name)
        if values.get('encoder', '') is not None:
            _expect(path, f'{key}.kind', kind, kind in KINDS, f'one of {list(KINDS)}')
        source = values.get('source', '')
        _expect(path, f'{key}.source', source, isinstance(source, str) or (
            kind == 'text' and isinstance(source, list) and len(source) > 0
            and all(isinstance(s, str) for s in source)), 'the name of an attribute')
        encoder = values.get('encoder')
        _expect(path, f'{key}.encoder', encoder, encoder is None or isinstance(encoder, str),
                'the name of an encoder or null')
    return config


def _check_split(path: Path, split: Any) -> None:
    if split is None:
        return
    _expect(path, 'split', split, isinstance(split, dict), 'a mapping')
    _check_keys(path, 'split.', split, SPLIT_KEYS)
    ratios = split.get('ratios', [0.8, 0.1, 0.1])
    _expect(path, 'split.ratios', ratios, isinstance(ratios, list) and len(ratios) == 3
            and all(_is_number(r) and 0 < r < 1 for r in ratios) and abs(sum(ratios) - 1) < 1e-6,
            'three positive numbers of sum 1')
    inductive = split.get('inductive')
    _expect(path, 'split.inductive', inductive,
            inductive is None or (_is_number(inductive) and 0 < inductive < 1),
            'a number between 0 and 1')
    seed = split.get('seed', 0)
    _expect(path, 'split.seed', seed, _is_int(seed) and 0 <= seed < 2**63,
            'an integer of at least 0')


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_int(value)


def _expect(path: Path, key: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f'{path}: {key!r} needs to be {expected} (got {value!r})'.replace(
            "'the file'", 'the file'))


def _check_keys(path: Path, prefix: str, values: Dict[Any, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f'; did you mean {prefix + close[0]!r}?' if close else ''
            raise ValueError(f'{path}: unknown key {prefix + str(key)!r} (expected some of '
                             f'{sorted(known)}{hint})')


def _check_path(path: Path, key: str, name: Any) -> None:
    _expect(path, key, name, isinstance(name, str) and inside(name),
            'a relative path that stays inside the folder')


def inside(name: str) -> bool:
    r"""Whether a path is relative and leads no higher than where it starts; links are followed."""
    normal = os.path.normpath(name.replace('\\', '/'))
    return bool(name) and '\0' not in name and not os.path.isabs(normal) and \
        normal.split('/')[0] != '..'
