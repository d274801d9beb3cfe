r"""Readers of the files that the benchmarks are published in.

All are strict: what does not fit is an error that names file and line, never a silent skip.
Numbers are parsed in bulk; no Python runs per triple.
"""
import logging
import re
from os import PathLike
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

#: The file of each split. OpenKE says `valid`, the rest of this package `val`.
SPLIT_FILES = {'train': 'train2id.txt', 'val': 'valid2id.txt', 'test': 'test2id.txt'}

_BOM = b'\xef\xbb\xbf'
#: Longer runs of digits may not fit into 64 bits.
_MAX_DIGITS = 18
_LITERAL = re.compile(
    r'^<([^>\n]*)>[ \t]+<([^>\n]*)>[ \t]+"([^"\n]*)"\^\^<[^>\n]*>(?:[ \t]*\.)?[ \t]*$',
    re.MULTILINE)
_NUMBER = re.compile(r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?')
_DATE = re.compile(r'(-?[0-9]{1,6})-([0-9]{1,2})-([0-9]{1,2})')
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])

Path_ = Union[str, 'PathLike[str]']
logger = logging.getLogger(__name__)


def read_text(path: Path_) -> str:
    r"""The text of a UTF-8 file with ``\n`` line ends, whatever it had, and no byte-order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8.
    """
    content = _read_bytes(path)
    try:
        return content.decode('utf-8').replace('\r\n', '\n')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x})') from None


def read_names(path: Path_) -> List[str]:
    r"""Read `entity2id.txt` or `relation2id.txt`: the count, then name and id a line.

    Name and id are separated by tabs or spaces; the name may hold spaces.

    Args:
        path (str or os.PathLike): The file.

    Returns:
        List[str]: The names in the order of their ids.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header or a line is malformed, the count is wrong, a name or an id
            occurs twice, or the ids are not 0 to count - 1.
    """
    lines = [(i, line.strip(' \t')) for i, line in enumerate(read_text(path).split('\n'), 1)]
    lines = [(i, line) for i, line in lines if line]
    if not lines or not re.fullmatch(f'[0-9]{{1,{_MAX_DIGITS}}}', lines[0][1]):
        found = f'got {lines[0][1]!r}' if lines else 'the file is empty'
        raise ValueError(f'{path}:1: expected the number of names in the first line ({found})')
    count = int(lines[0][1])

    names: Dict[int, str] = {}
    first_line: Dict[str, int] = {}
    for i, line in lines[1:]:
        rest = line.rstrip('0123456789')
        name, digits = rest.rstrip(' \t'), line[len(rest):]
        if not name or name == rest or not 0 < len(digits) <= _MAX_DIGITS:
            raise ValueError(f'{path}:{i}: expected a name and an id (got {line!r})')
        index = int(digits)
        if index in names:
            raise ValueError(f'{path}:{i}: id {index} occurs twice (for {names[index]!r} and '
                             f'{name!r})')
        if name in first_line:
            raise ValueError(f'{path}:{i}: name {name!r} occurs twice (first in line '
                             f'{first_line[name]})')
        names[index], first_line[name] = name, i
    _check_count(path, count, len(names), 'names')
    if names and max(names) >= count:
        hint = '; these ids count from one' if 0 not in names and max(names) == count else ''
        name = names[max(names)]
        raise ValueError(f'{path}:{first_line[name]}: id {max(names)} is out of range '
                         f'(expected 0 to {count - 1}{hint})')
    return [names[i] for i in range(count)]


def read_triples(path: Path_, num_entities: int, num_relations: int) -> Tensor:
    r"""Read `train2id.txt` and the like: the count, then ``head tail relation`` a line.

    Args:
        path (str or os.PathLike): The file.
        num_entities (int): The number of entities.
        num_relations (int): The number of relations.

    Returns:
        torch.Tensor: The triples ``[T, 3]`` in columns **head, relation, tail**.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header or a line is malformed, the count is wrong or an id is out of
            range.
    """
    values, line = _parse_integers(path, columns=3)
    head_index, tail_index, rel_type = values.T
    for column, index, size in [('head', head_index, num_entities),
                                ('tail', tail_index, num_entities),
                                ('relation', rel_type, num_relations)]:
        wrong = index >= size
        if wrong.any():
            row = int(wrong.argmax())
            hint = ''
            if column == 'relation' and tail_index.max() < size and index.max() < num_entities:
                hint = ("; the columns seem to be 'head relation tail', but this layout has "
                        "'head tail relation'")
            elif index.min() > 0 and index.max() == size:
                hint = '; these ids seem to count from one'
            raise ValueError(f'{path}:{line[row]}: {column} id {index[row]} is out of range '
                             f'(expected 0 to {size - 1}{hint})')
    return torch.from_numpy(np.stack([head_index, rel_type, tail_index], axis=1))


def read_openke(folder: Path_, split_files: Mapping[str, str] = SPLIT_FILES,
                ) -> Tuple[List[str], List[str], Dict[str, Tensor]]:
    r"""Read a folder in OpenKE's layout.

    Args:
        folder (str or os.PathLike): Holds `entity2id.txt`, `relation2id.txt` and one file of
            triples for each split.
        split_files (Mapping[str, str], optional): The file of each split. (default:
            `train2id.txt`, `valid2id.txt` and `test2id.txt`)

    Returns:
        (List[str], List[str], Dict[str, torch.Tensor]): The names of entities and relations,
        and the triples of each split, ``[T, 3]`` in columns head, relation, tail.
    """
    folder = Path(folder)
    entities = read_names(folder / 'entity2id.txt')
    relations = read_names(folder / 'relation2id.txt')
    splits = {split: read_triples(folder / name, len(entities), len(relations))
              for split, name in split_files.items()}
    return entities, relations, splits


def read_descriptions(path: Path_, names: Sequence[str]) -> List[Optional[str]]:
    r"""Read `descriptions.tsv`: an entity's name, a tab, one line of text.

    Args:
        path (str or os.PathLike): The file.
        names (Sequence[str]): The names of all entities. Lines about others are left out.

    Returns:
        List[Optional[str]]: The text of each entity, :obj:`None` where there is none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed or an entity occurs twice.
    """
    entity_id = {name: i for i, name in enumerate(names)}
    out: List[Optional[str]] = [None] * len(entity_id)
    num_unknown = 0
    for i, line in enumerate(read_text(path).split('\n'), 1):
        if not line.strip():
            continue
        name, tab, text = line.partition('\t')
        text = text.strip()
        if not tab or not text or '\t' in text:
            raise ValueError(f'{path}:{i}: expected a name, a tab and a text (got {line!r})')
        if name not in entity_id:
            num_unknown += 1
        elif out[entity_id[name]] is not None:
            raise ValueError(f'{path}:{i}: entity {name!r} occurs twice')
        else:
            out[entity_id[name]] = text
    if num_unknown > 0:
        logger.info('%s: %d descriptions of unknown entities left out', path, num_unknown)
    return out


def read_numeric_triples(path: Path_, names: Sequence[str]) -> Tuple[Tensor, List[str]]:
    r"""Read numeric triples as mmkb publishes them, ``<entity> <attribute> "value"^^<type> .``
    a line.

    A value is a decimal number or an ISO date, whatever its type says; a date ``1946-03-12``
    becomes the decimal year :math:`1946 + 70 / 365`. A month or a day of 0 stands for unknown
    and counts as the first. Several values of one attribute are averaged.

    Args:
        path (str or os.PathLike): The file.
        names (Sequence[str]): The names of all entities, with or without ``<>``. Lines about
            others are left out.

    Returns:
        (torch.Tensor, List[str]): Values ``[num_entities, num_attributes]`` of type
        :obj:`torch.float64` with NaN where there is none, and the attributes, sorted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line or a value is malformed.
    """
    text = read_text(path)
    found = _LITERAL.findall(text)
    if len(found) != sum(bool(line.strip()) for line in text.split('\n')):
        for i, line in enumerate(text.split('\n'), 1):
            if line.strip() and not _LITERAL.fullmatch(line):
                raise ValueError(f'{path}:{i}: expected <entity> <attribute> "value"^^<type> . '
                                 f'(got {line!r})')
    values = _parse_values(path, text, [value for _, _, value in found])

    attributes = sorted({attribute for _, attribute, _ in found})
    attribute_id = {attribute: i for i, attribute in enumerate(attributes)}
    entity_id = {name.removeprefix('<').removesuffix('>'): i for i, name in enumerate(names)}
    row = np.array([entity_id.get(entity, -1) for entity, _, _ in found], dtype=np.int64)
    column = np.array([attribute_id[attribute] for _, attribute, _ in found], dtype=np.int64)
    known = row >= 0
    if not known.all():
        logger.info('%s: %d of %d literals are about unknown entities and left out', path,
                    int((~known).sum()), len(found))

    total = np.zeros((len(names), len(attributes)))
    count = np.zeros_like(total)
    np.add.at(total, (row[known], column[known]), values[known])
    np.add.at(count, (row[known], column[known]), 1)
    total /= np.where(count > 0, count, np.nan)  # [num_entities, num_attributes]
    return torch.from_numpy(total), attributes


def _read_bytes(path: Path_) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    return path.read_bytes().removeprefix(_BOM)


def _check_count(path: Path_, expected: int, found: int, what: str) -> None:
    if expected != found:
        hint = 'is the file truncated?' if found < expected else 'is the count wrong?'
        raise ValueError(f'{path}:1: the first line announces {expected} {what}, but {found} '
                         f'follow ({hint})')


def _parse_integers(path: Path_, columns: int) -> Tuple[np.ndarray, np.ndarray]:
    # All integers after the header, [T, columns], and the one-based line of each row.
    content = _read_bytes(path)
    foreign = re.search(rb'[^0-9 \t\r\n]', content)
    if foreign is not None:
        token = re.compile(rb'[^ \t\r\n]*')
        start = max(content.rfind(c, 0, foreign.start()) for c in (b' ', b'\t', b'\r', b'\n')) + 1
        found = token.match(content, start)[0][:40].decode('utf-8', 'replace')
        line = content.count(b'\n', 0, foreign.start()) + 1
        raise ValueError(f'{path}:{line}: expected non-negative integers (got {found!r})')

    digit = np.frombuffer(content, dtype=np.uint8) >= ord('0')
    border = np.flatnonzero(np.diff(digit, prepend=False, append=False))
    start, stop = border[::2], border[1::2]
    newline = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord('\n'))
    line = np.searchsorted(newline, start) + 1  # One-based, as editors count.
    too_long = stop - start > _MAX_DIGITS
    if too_long.any():
        i = int(too_long.argmax())
        found = content[start[i]:stop[i]][:40].decode()
        raise ValueError(f'{path}:{line[i]}: number too large (got {found!r})')

    if start.size == 0 or (line == line[0]).sum() != 1:
        found = content.lstrip().split(b'\n')[0][:40].decode()
        raise ValueError(f'{path}:1: expected the number of triples alone in the first line '
                         f'(got {found.strip()!r})')
    values = np.fromstring(content.decode('ascii'), dtype=np.int64, sep=' ')
    assert values.size == start.size
    row_line, width = np.unique(line[1:], return_counts=True)
    if (width != columns).any():
        i = int((width != columns).argmax())
        raise ValueError(f'{path}:{row_line[i]}: expected {columns} columns (got {width[i]})')
    _check_count(path, int(values[0]), row_line.size, 'triples')
    return values[1:].reshape(-1, columns), row_line


def _parse_values(path: Path_, text: str, values: Sequence[str]) -> np.ndarray:
    dates = [_DATE.fullmatch(value) for value in values]
    is_date = np.array([date is not None for date in dates], dtype=bool)
    out = np.full(len(values), np.nan)
    parts = np.array([date.groups() for date in dates if date], dtype=np.int64).reshape(-1, 3)
    out[is_date] = _decimal_years(parts)
    out[~is_date] = [float(value) if _NUMBER.fullmatch(value) else np.nan
                     for value, date in zip(values, dates, strict=True) if date is None]
    wrong = ~np.isfinite(out)
    if wrong.any():
        value = values[int(wrong.argmax())]
        line = text.count('\n', 0, text.index(f'"{value}"')) + 1
        raise ValueError(f'{path}:{line}: expected a finite number or a date (got {value!r})')
    return out


def _decimal_years(parts: np.ndarray) -> np.ndarray:
    # Columns year, month, day; NaN for a day that the calendar lacks.
    year, month, day = parts[:, 0], parts[:, 1].clip(min=1), parts[:, 2].clip(min=1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    valid = month <= 12
    month = np.where(valid, month, 1)
    length = _DAYS_BEFORE[month] - _DAYS_BEFORE[month - 1] + (leap & (month == 2))
    valid &= day <= length
    day_of_year = _DAYS_BEFORE[month - 1] + (leap & (month > 2)) + day - 1
    return np.where(valid, year + day_of_year / np.where(leap, 366, 365), np.nan)
