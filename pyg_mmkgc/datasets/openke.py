r"""Readers of the files that the benchmarks are published in.

All are strict: what does not fit is an error that names file and line, never a silent skip.
Numbers are parsed in bulk; no Python runs per triple.
"""
import logging
import re
import unicodedata
from os import PathLike
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

#: The file of each split. OpenKE says `valid`, the rest of this package `val`.
SPLIT_FILES = {'train': 'train2id.txt', 'val': 'valid2id.txt', 'test': 'test2id.txt'}

_BOM = b'\xef\xbb\xbf'
#: Longer runs of digits may not fit into 64 bits.
_MAX_DIGITS = 18
#: Longer lines are cut where a message quotes them.
_MAX_QUOTED = 80
_LITERAL = re.compile(
    r'^<([^>\n]*)>[ \t]+<([^>\n]*)>[ \t]+"([^"\n]*)"\^\^<[^>\n]*>(?:[ \t]*\.)?[ \t]*$',
    re.MULTILINE)
_NUMBER = re.compile(r'[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?')
_DATE = re.compile(r'(-?[0-9]{1,6})-([0-9]{1,2})-([0-9]{1,2})')
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])

Path_ = Union[str, 'PathLike[str]']
logger = logging.getLogger(__name__)


def read_text(path: Path_) -> str:
    r"""The text of a UTF-8 file with ``\n`` line ends, whatever it had, and no byte-order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8, or holds a NUL or a carriage return that ends no line.
    """
    content = _read_bytes(path)
    try:
        text = content.decode('utf-8')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x})') from None
    if '\x00' in text:
        line = text.count('\n', 0, text.index('\x00')) + 1
        raise ValueError(f'{path}:{line}: expected text (got a NUL character)')
    return text.replace('\r\n', '\n')


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
    lines = [(i, line.strip(' \t')) for i, line in _numbered_lines(path)]
    header_line, header = lines[0] if lines else (1, '')
    if not re.fullmatch(f'[0-9]{{1,{_MAX_DIGITS}}}', header):
        found = f'got {_quote(header)}' if lines else 'the file is empty'
        raise ValueError(f'{path}:{header_line}: expected the number of names in the first line '
                         f'({found})')
    count = int(header)

    names: Dict[int, str] = {}
    first_line: Dict[str, int] = {}
    for i, line in lines[1:]:
        rest = line.rstrip('0123456789')
        name, digits = rest.rstrip(' \t'), line[len(rest):]
        if not name or name == rest or not 0 < len(digits) <= _MAX_DIGITS:
            raise ValueError(f'{path}:{i}: expected a name and an id (got {_quote(line)})')
        index = int(digits)
        if index in names:
            raise ValueError(f'{path}:{i}: id {index} occurs twice (for {_quote(names[index])} '
                             f'and {_quote(name)})')
        if name in first_line:
            raise ValueError(f'{path}:{i}: name {_quote(name)} occurs twice (first in line '
                             f'{first_line[name]})')
        names[index], first_line[name] = name, i
    _check_count(path, header_line, count, len(names), 'names')
    if names and max(names) >= count:
        hint = '; these ids count from one' if 0 not in names and max(names) == count else ''
        name = names[max(names)]
        raise ValueError(f'{path}:{first_line[name]}: id {max(names)} is out of range '
                         f'(expected 0 to {count - 1}{hint})')
    num_forms = len({unicodedata.normalize('NFC', name) for name in first_line})
    if num_forms < count:
        logger.warning('%s: %d names differ from another one only in their Unicode form', path,
                       count - num_forms)
    return [names[i] for i in range(count)]


def read_triples(path: Path_, num_entities: int, num_relations: int) -> Tensor:
    r"""Read `train2id.txt` and the like: the count, then ``head tail relation`` a line.

    Columns in another order are an error where ids show it, and a warning in the log where the
    second column could hold the relations, too, and has fewer distinct values than the third.

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
    if (len(values) > 0 and tail_index.max() < num_relations
            and np.unique(tail_index).size < np.unique(rel_type).size):
        logger.warning("%s: are the columns 'head relation tail'? This layout has 'head tail "
                       "relation', but the second column has fewer distinct values than the "
                       "third", path)
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
        and the triples of each split, ``[T, 3]`` in columns head, relation, tail. If neither
        entity 0 nor relation 0 occurs in any of them, a warning in the log says so.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is malformed.
    """
    folder = Path(folder)
    entities = read_names(folder / 'entity2id.txt')
    relations = read_names(folder / 'relation2id.txt')
    splits = {split: read_triples(folder / name, len(entities), len(relations))
              for split, name in split_files.items()}
    parts = [triples for triples in splits.values() if len(triples) > 0]
    if parts and all((triples > 0).all() for triples in parts):
        logger.warning('%s: neither entity 0 nor relation 0 occurs in any triple; do the ids count '
                       'from one?', folder)
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
    rows = []
    for i, line in _numbered_lines(path):
        name, _, text = line.partition('\t')
        name, text = name.strip(' '), text.strip()
        if not name or not text or '\t' in text:
            raise ValueError(f'{path}:{i}: expected a name, a tab and a text (got {_quote(line)})')
        rows.append((i, name, text))
    return _assign(path, rows, names, 'descriptions')


def read_links(path: Path_, names: Sequence[str]) -> List[Optional[str]]:
    r"""Read `entity_links.tsv`: an entity's address in DBpedia, a tab, its name.

    The title is what follows ``/resource/`` in the address, with escapes and underscores
    resolved: ``http://dbpedia.org/resource/How_High_Is_Up%3F`` gives ``'How High Is Up?'``.

    Args:
        path (str or os.PathLike): The file.
        names (Sequence[str]): The names of all entities, such as
            ``http://www.wikidata.org/entity/Q5917759``. Lines about others are left out.

    Returns:
        List[Optional[str]]: The title of each entity, :obj:`None` where there is none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed or an entity occurs twice.
    """
    rows = []
    for i, line in _numbered_lines(path):
        address, _, name = (cell.strip(' ') for cell in line.partition('\t'))
        title = address.removeprefix('<').removesuffix('>').partition('/resource/')[2]
        try:
            title = unquote(title, errors='strict').replace('_', ' ').strip()
        except UnicodeDecodeError:
            title = ''
        if not title or not name or '\t' in name:
            raise ValueError(f'{path}:{i}: expected http://dbpedia.org/resource/<title>, a tab '
                             f'and a name (got {_quote(line)})')
        rows.append((i, name, title))
    return _assign(path, rows, names, 'links')


def read_labels(path: Path_, count: int) -> List[str]:
    r"""Read `relation_labels.txt`: line :math:`i`, counted from zero, is the label of id
    :math:`i`. Ids may share a label.

    Args:
        path (str or os.PathLike): The file.
        count (int): The number of labels there have to be.

    Returns:
        List[str]: The labels in the order of their ids.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is empty (but for those at the end) or the count is wrong.
    """
    # Blank lines cannot be skipped as elsewhere, since the number of a line is its id.
    labels = [line.strip() for line in read_text(path).split('\n')]
    while labels and not labels[-1]:
        labels.pop()
    if '' in labels:
        raise ValueError(f"{path}:{labels.index('') + 1}: expected a label (the line is empty)")
    if len(labels) != count:
        raise ValueError(f'{path}:{max(len(labels), 1)}: expected {count} labels, one a line (got '
                         f'{len(labels)})')
    return labels


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
        ValueError: If a line or a value is malformed, or values are too large to be averaged.
    """
    lines = _numbered_lines(path)
    found = _LITERAL.findall('\n'.join(line for _, line in lines))
    if len(found) != len(lines):
        i, line = next((i, line) for i, line in lines if not _LITERAL.fullmatch(line))
        raise ValueError(f'{path}:{i}: expected <entity> <attribute> "value"^^<type> . '
                         f'(got {_quote(line)})')
    line_of = np.array([i for i, _ in lines], dtype=np.int64)
    values = _parse_values(path, line_of, [value for _, _, value in found])

    attributes = sorted({attribute for _, attribute, _ in found})
    attribute_id = {attribute: i for i, attribute in enumerate(attributes)}
    row = _find(names, [entity for entity, _, _ in found])
    column = np.array([attribute_id[attribute] for _, attribute, _ in found], dtype=np.int64)
    known = row >= 0
    if not known.all():
        logger.info('%s: %d of %d literals are about unknown entities and left out', path,
                    int((~known).sum()), len(found))

    total = np.zeros((len(names), len(attributes)))
    count = np.zeros_like(total)
    with np.errstate(over='ignore'):
        np.add.at(total, (row[known], column[known]), values[known])
    np.add.at(count, (row[known], column[known]), 1)
    overflow = known & ~np.isfinite(total[row, column])
    if overflow.any():
        i = int(overflow.argmax())
        raise ValueError(f'{path}:{line_of[i]}: the values of {_quote(found[i][1])} of '
                         f'{_quote(found[i][0])} are too large to be averaged')
    total /= np.where(count > 0, count, np.nan)  # [num_entities, num_attributes]
    return torch.from_numpy(total), attributes


def _read_bytes(path: Path_) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    content = path.read_bytes().removeprefix(_BOM)
    lone = re.search(rb'\r(?!\n)', content)
    if lone is not None:
        line = content.count(b'\n', 0, lone.start()) + 1
        raise ValueError(f'{path}:{line}: expected \\n or \\r\\n at the end of a line (got \\r)')
    return content


def _numbered_lines(path: Path_) -> List[Tuple[int, str]]:
    # All lines that are not blank, with their one-based numbers.
    return [(i, line) for i, line in enumerate(read_text(path).split('\n'), 1) if line.strip()]


def _quote(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED else f'{text[:_MAX_QUOTED]}...')


def _find(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    # The position of each wanted name, -1 where there is none. Where no name is the same, `<>`
    # around it and its Unicode form do not matter, unless names differ in nothing else.
    position = {name: i for i, name in enumerate(names)}
    if len(position) < len(names):
        name = next(name for i, name in enumerate(names) if position[name] != i)
        raise ValueError(f"'names' holds {_quote(name)} twice")
    forms: Dict[str, int] = {}
    for i, name in enumerate(names):
        form = _canonical(name)
        forms[form] = -1 if form in forms else i
    return np.array([position.get(name, forms.get(_canonical(name), -1)) for name in wanted],
                    dtype=np.int64)


def _canonical(name: str) -> str:
    return unicodedata.normalize('NFC', name.removeprefix('<').removesuffix('>'))


def _assign(path: Path_, rows: Sequence[Tuple[int, str, str]], names: Sequence[str], what: str,
            ) -> List[Optional[str]]:
    # Rows are line, name and value; the value of each name, or None.
    out: List[Optional[str]] = [None] * len(names)
    index = _find(names, [name for _, name, _ in rows])
    for (line, name, value), i in zip(rows, index.tolist(), strict=True):
        if i >= 0 and out[i] is not None:
            raise ValueError(f'{path}:{line}: entity {_quote(name)} occurs twice')
        if i >= 0:
            out[i] = value
    num_unknown = int((index < 0).sum())
    if num_unknown > 0:
        logger.info('%s: %d %s of unknown entities left out', path, num_unknown, what)
    return out


def _check_count(path: Path_, line: int, expected: int, found: int, what: str) -> None:
    if expected != found:
        hint = 'is the file truncated?' if found < expected else 'is the count wrong?'
        raise ValueError(f'{path}:{line}: the first line announces {expected} {what}, but {found} '
                         f'follow ({hint})')


def _parse_integers(path: Path_, columns: int) -> Tuple[np.ndarray, np.ndarray]:
    # All integers after the header, [T, columns], and the one-based line of each row.
    content = _read_bytes(path)
    foreign = re.search(rb'[^0-9 \t\r\n]', content)
    if foreign is not None:
        begin = max(content.rfind(c, 0, foreign.start()) for c in (b' ', b'\t', b'\r', b'\n')) + 1
        found = re.split(rb'[ \t\r\n]', content[begin:begin + 40])[0].decode('utf-8', 'replace')
        line = content.count(b'\n', 0, foreign.start()) + 1
        raise ValueError(f'{path}:{line}: expected non-negative integers (got {found!r})')

    digit = np.frombuffer(content, dtype=np.uint8) >= ord('0')
    border = np.flatnonzero(np.diff(digit, prepend=False, append=False))
    start, stop = border[::2], border[1::2]
    newline = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord('\n'))
    lines = np.searchsorted(newline, start) + 1  # One-based, as editors count.
    too_long = stop - start > _MAX_DIGITS
    if too_long.any():
        i = int(too_long.argmax())
        found = content[start[i]:stop[i]][:40].decode()
        raise ValueError(f'{path}:{lines[i]}: number too large (got {found!r})')

    if start.size == 0 or (lines == lines[0]).sum() != 1:
        found = content.lstrip().split(b'\n')[0][:40].decode()
        raise ValueError(f'{path}:{lines[0] if start.size else 1}: expected the number of triples '
                         f'alone in the first line (got {found.strip()!r})')
    values = np.fromstring(content.decode('ascii'), dtype=np.int64, sep=' ')
    assert values.size == start.size
    row_line, width = np.unique(lines[1:], return_counts=True)
    if (width != columns).any():
        i = int((width != columns).argmax())
        raise ValueError(f'{path}:{row_line[i]}: expected {columns} columns (got {width[i]})')
    _check_count(path, int(lines[0]), int(values[0]), row_line.size, 'triples')
    return values[1:].reshape(-1, columns), row_line


def _parse_values(path: Path_, line_of: np.ndarray, values: Sequence[str]) -> np.ndarray:
    dates = [_DATE.fullmatch(value) for value in values]
    is_date = np.array([date is not None for date in dates], dtype=bool)
    out = np.full(len(values), np.nan)
    parts = np.array([date.groups() for date in dates if date], dtype=np.int64).reshape(-1, 3)
    out[is_date] = _decimal_years(parts)
    out[~is_date] = [float(value) if _NUMBER.fullmatch(value) else np.nan
                     for value, date in zip(values, dates, strict=True) if date is None]
    wrong = ~np.isfinite(out)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f'{path}:{line_of[i]}: expected a finite number or a date '
                         f'(got {_quote(values[i])})')
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
