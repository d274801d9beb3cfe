r"""Tables of triples and of attributes, read in bulk: tsv, csv and Parquet.

pyarrow reads, column by column; Python sees each distinct label once, and never a triple. Line
numbers are found by a second, slow pass, and only where something is wrong.

A `.csv` file has commas and quotes (``"``, doubled within), any other text file tabs and no quotes.
Lines end in ``\n``, ``\r\n`` or ``\r``; a byte-order mark and blank lines are left out.
"""
import csv
from contextlib import contextmanager
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

#: The suffixes of the tables that can be read.
TABLE_SUFFIXES = ('.tsv', '.txt', '.csv', '.parquet')
#: What the columns of triples are called in a header that is recognised, in any case.
COLUMN_NAMES = {'head': ('head', 'subject'), 'relation': ('relation', 'predicate'),
                'tail': ('tail', 'object')}
#: What the first column of a table about entities or relations is called.
KEY_NAMES = ('name', 'label', 'entity', 'relation', 'id')
#: What stands for no number, in any case, beside an empty cell.
MISSING = ('nan', 'na', 'null', 'none')

_BOM = b'\xef\xbb\xbf'
_NUMBER = r'^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$'
#: In bytes. A label is kept once for each block that it occurs in.
_BLOCK_SIZE = 1 << 24
_MAX_QUOTED = 60

PathLike = Union[str, Path]
Positions = Tuple[int, int, int]


class TripleTable(NamedTuple):
    r"""The triples of one file as codes into the file's own labels.

    Args:
        head (numpy.ndarray): The place of each head in :obj:`entities`, ``int32`` of shape
            :math:`(T)`.
        relation (numpy.ndarray): The place of each relation in :obj:`relations`.
        tail (numpy.ndarray): The place of each tail in :obj:`entities`.
        entities (List[str]): The distinct entities, in no particular order.
        relations (List[str]): The distinct relations, in no particular order.
    """
    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    entities: List[str]
    relations: List[str]


class TripleFile:
    r"""A table with one triple a row. Labels are stripped of space around them.

    Args:
        path (str or Path): A `.csv`, a `.parquet`, or else a file with tabs.
        columns (Mapping, optional): For ``'head'``, ``'relation'`` and ``'tail'`` the column, as
            a name in the header or a position from 0. (default: as the header says, see
            :data:`COLUMN_NAMES`, else the columns of a table that has three, in this order)
        header (bool, optional): Whether the first row is a header. (default: whether it names
            the three columns)
        delimiter (str, optional): The character between cells. (default: a comma in a `.csv`,
            else a tab)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an option does not fit the file.
    """
    def __init__(self, path: PathLike, columns: Optional[Mapping[str, Union[str, int]]] = None,
                 header: Optional[bool] = None, delimiter: Optional[str] = None):
        self.path = _existing(path)
        self._columns = columns
        self._text = None if self.path.suffix == '.parquet' else _Text(self.path, delimiter)
        first = None if self._text is None else next(self._text.rows(), None)
        #: Whether the file has a header.
        self.header = False
        #: The positions of head, relation and tail; :obj:`None` for an empty file.
        self.positions: Optional[Positions] = None
        self.width = 0
        if self._text is None:
            names = _open_parquet(self.path).schema_arrow.names
            self.positions, self.width = self._find_columns(names, True), len(names)
        elif first is not None:
            cells = [cell.strip() for cell in first.cells]
            self.header = header if header is not None else (
                _named(cells) is not None or self._names_in(cells))
            self._skip = first.last_line if self.header else 0
            self.positions, self.width = self._find_columns(cells, self.header), len(cells)

    def read(self) -> TripleTable:
        r"""Read the file: 10 million lines take less than half a minute on one core, and memory
        for 12 bytes a triple and for the distinct labels of each block of 16 MiB.

        Raises:
            ValueError: If the file is damaged or not UTF-8, a row has another number of cells
                than the first, or a label is empty or holds a tab or a line break. The message
                names the line.
        """
        import pyarrow as pa

        if self.positions is None:
            empty = np.zeros(0, dtype=np.int32)
            return TripleTable(empty, empty, empty, [], [])
        try:
            if self._text is None:
                columns = _read_parquet(self.path, self.positions)
            else:
                columns = self._text.read(self.width, self._skip, self.positions,
                                          pa.dictionary(pa.int32(), pa.string()))
        except pa.ArrowException as error:
            raise self._first_error(str(error)) from error
        (head, tail), entities = _as_codes([columns[0], columns[2]])
        (relation, ), relations = _as_codes([columns[1]])
        del columns
        pa.default_memory_pool().release_unused()  # Or it stays with pyarrow, at its peak.

        blank = np.stack([_equals(head, entities, ''), _equals(relation, relations, ''),
                          _equals(tail, entities, '')])
        if blank.any():
            if self.width > 3 or bool((blank.any(axis=0) & ~blank.all(axis=0)).any()):
                raise self._first_error('a cell is empty')
            kept = ~blank[0]
            (head, tail), entities = _shrink([head[kept], tail[kept]], entities)
            (relation, ), relations = _shrink([relation[kept]], relations)
        everything = ''.join([*entities, *relations])
        if any(c in everything for c in '\t\n\r'):
            raise self._first_error('a label holds a tab or a line break')
        return TripleTable(head, relation, tail, entities, relations)

    def locate(self, wrong: Callable[[str, str, str], bool]) -> str:
        r"""Where the first triple stands that :obj:`wrong` holds of, as ``path:line``; in a
        Parquet file only the path."""
        for line, triple in self._triples():
            if triple is not None and wrong(*triple):
                return f'{self.path}:{line}'
        return str(self.path)

    def _triples(self) -> Iterator[Tuple[int, Optional[Sequence[str]]]]:
        # The slow pass; None for a row that is none.
        if self._text is None or self.positions is None:
            return
        for row in self._text.rows():
            if row.last_line > self._skip:
                fits = len(row.cells) == self.width
                yield row.line, [row.cells[i].strip() for i in self.positions] if fits else None

    def _first_error(self, reason: str) -> ValueError:
        if self._text is not None and self.positions is not None:
            for row in self._text.rows():
                if row.last_line <= self._skip:
                    continue
                if len(row.cells) != self.width:
                    return _shape_error(self.path, row, self.width, self._text)
                for i in self.positions:
                    problem = label_error(row.cells[i].strip())
                    if problem is not None:
                        return _shape_error(self.path, row, self.width, self._text, problem)
        return ValueError(f'{self.path}: damaged or no table of triples ({_short(reason)})')

    def _names_in(self, cells: Sequence[str]) -> bool:
        names = [v for v in (self._columns or {}).values() if isinstance(v, str)]
        return bool(names) and all(name in cells for name in names)

    def _find_columns(self, cells: Sequence[str], header: bool) -> Positions:
        if self._columns is not None:
            found = []
            for part in COLUMN_NAMES:
                value = self._columns[part]
                if isinstance(value, str):
                    if not header or list(cells).count(value) != 1:
                        raise ValueError(f'{self.path}:1: no column {value!r} for {part} '
                                         f'(expected a header with it, got {list(cells)})')
                    value = list(cells).index(value)
                elif not 0 <= value < len(cells):
                    raise ValueError(f'{self.path}:1: no column {value} for {part} (expected 0 '
                                     f'to {len(cells) - 1})')
                found.append(value)
            head, relation, tail = found
            return head, relation, tail
        positions = _named(cells) if header else None
        if positions is not None:
            return positions
        if len(cells) != 3:
            if self._text is None:
                raise ValueError(f'{self.path}: expected the columns head, relation and tail '
                                 f'(got {list(cells)})')
            raise _shape_error(self.path, next(self._text.rows()), 3, self._text)
        return 0, 1, 2


class AttributeTable(NamedTuple):
    r"""What a table says about entities or relations.

    Args:
        path (Path): The file.
        key (str): What the first column is called.
        names (List[str]): The first column: who each row is about.
        columns (Dict[str, pyarrow.Array]): The other columns by name: strings, null where a cell
            is empty, or, in a Parquet file, also numbers.
        delimiter (str, optional): As it was read.
    """
    path: Path
    key: str
    names: List[str]
    columns: Dict[str, Any]
    delimiter: Optional[str] = None

    def locate(self, row: int) -> str:
        r"""Where a row stands, as ``path:line``; in a Parquet file ``path: row``."""
        if self.path.suffix != '.parquet':
            name = self.names[row]
            before = self.names[:row].count(name)
            for found in _Text(self.path, self.delimiter).rows():
                # The header is row 0 of the file, and its first cell may be a name, too.
                if found.number > 0 and found.cells[0].strip() == name:
                    if before == 0:
                        return f'{self.path}:{found.line}'
                    before -= 1
        return f'{self.path}: row {row + 1}'


def read_attribute_table(path: PathLike, delimiter: Optional[str] = None) -> AttributeTable:
    r"""Read a table with a header whose first column, one of :data:`KEY_NAMES`, says which
    entity or relation a row is about.

    Args:
        path (str or Path): A `.csv`, a `.parquet`, or else a file with tabs.
        delimiter (str, optional): The character between cells. (default: a comma in a `.csv`,
            else a tab)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such table or not UTF-8, a row has another number of cells
            than the header, or a name is empty, occurs twice, or holds a tab or a line break.
    """
    import pyarrow as pa

    path = _existing(path)
    text = None if path.suffix == '.parquet' else _Text(path, delimiter)
    if text is None:
        header = _open_parquet(path).schema_arrow.names
    else:
        first = next(text.rows(), _Row(0, 1, 1, []))
        header = [cell.strip() for cell in first.cells]
    where = path if text is None else f'{path}:{first.line}'
    if not header or header[0].lower() not in KEY_NAMES:
        raise ValueError(f'{where}: expected a header whose first column is one of '
                         f'{list(KEY_NAMES)} (got {header[:1]})')
    if '' in header or len(set(header)) < len(header):
        raise ValueError(f'{where}: expected distinct names of columns (got {header})')
    try:
        if text is None:
            columns = _read_parquet(path)
        else:
            columns = text.read(len(header), first.last_line, range(len(header)), pa.string())
    except pa.ArrowException as error:
        if text is not None:
            for row in text.rows():
                if len(row.cells) != len(header):
                    raise _shape_error(path, row, len(header), text) from error
        raise ValueError(f'{path}: damaged or no table ({_short(str(error))})') from error

    if not _is_text(columns[0].type):
        raise ValueError(f'{path}: column {header[0]!r} needs to hold texts '
                         f'(got {columns[0].type})')
    arrays = [_plain(path, name, column) for name, column in zip(header, columns, strict=True)]
    names = [(name or '').strip() for name in arrays[0].to_pylist()]
    if '' in names:
        # A blank row is left out, and one with something else in it is found below.
        kept = [i for i, name in enumerate(names)
                if name or any(array[i].as_py() not in (None, '') for array in arrays[1:])]
        arrays = [array.take(pa.array(kept, pa.int64())) for array in arrays]
        names = [names[i] for i in kept]
    table = AttributeTable(path, header[0].lower(), names,
                           dict(zip(header[1:], arrays[1:], strict=True)), delimiter)
    seen: Dict[str, int] = {}
    for i, name in enumerate(names):
        problem = label_error(name)
        if problem is not None:
            raise ValueError(f'{table.locate(i)}: {name!r} in column {header[0]!r} is {problem}')
        if name in seen:
            raise ValueError(f'{table.locate(i)}: {name!r} occurs twice (first in '
                             f'{table.locate(seen[name])})')
        seen[name] = i
    return table


def as_numbers(column: Any) -> Tuple[np.ndarray, Optional[int]]:
    r"""A column of an :class:`AttributeTable` as numbers.

    Args:
        column (pyarrow.Array): Numbers, or strings that are decimal numbers with or without an
            exponent. Null, an empty cell and those of :data:`MISSING` are none.

    Returns:
        (numpy.ndarray, int): Numbers in ``float64``, NaN where missing, and the first row that
        holds something else or an infinite number, :obj:`None` if all is well.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bad = np.zeros(len(column), dtype=bool)
    if pa.types.is_string(column.type):
        column = pc.fill_null(pc.utf8_trim_whitespace(column), '')
        number = pc.match_substring_regex(column, _NUMBER)
        known = pc.or_(number, pc.is_in(pc.utf8_lower(column),
                                        value_set=pa.array(['', *MISSING])))
        bad = ~known.to_numpy(zero_copy_only=False)
        column = pc.if_else(number, pc.utf8_ltrim(column, '+'), pa.scalar(None, pa.string()))
    column = pc.cast(column, pa.float64(), safe=False)
    out = pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
    bad = bad | np.isinf(out)
    return out, int(bad.argmax()) if bad.any() else None


def label_error(label: str) -> Optional[str]:
    r"""What is wrong with a label; :obj:`None` if it can stand in a line of its own."""
    if label == '':
        return 'empty'
    if label != label.strip() or any(c in label for c in '\t\n\r'):
        return 'no label (expected no tab, no line break and no space around it)'
    return None


# Text files #######################################################################################


class _Row(NamedTuple):
    number: int
    line: int  # The first, from 1.
    last_line: int
    cells: List[str]


class _Text:
    def __init__(self, path: Path, delimiter: Optional[str]):
        self.path = path
        self.quoted = path.suffix == '.csv'
        self.delimiter = delimiter or (',' if self.quoted else '\t')

    def read(self, width: int, skip: int, positions: Sequence[int], dtype: Any) -> List[Any]:
        # The columns at the given positions, in bulk; an `ArrowException` if anything is wrong.
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if self.quoted and self._num_quotes() % 2 == 1:
            for _ in self.rows():  # pyarrow takes a quote that does not end for text.
                pass
        names = [str(i) for i in range(width)]
        table = arrow_csv.read_csv(
            self.path,
            arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_SIZE, column_names=names,
                                  skip_rows=skip),
            arrow_csv.ParseOptions(delimiter=self.delimiter,
                                   quote_char='"' if self.quoted else False, double_quote=True,
                                   escape_char=False, newlines_in_values=self.quoted,
                                   invalid_row_handler=_skip_blank),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, dtype),
                                     include_columns=[str(i) for i in dict.fromkeys(positions)],
                                     null_values=[''], quoted_strings_can_be_null=False,
                                     strings_can_be_null=dtype == pa.string()))
        return [table[str(i)] for i in positions]

    def _num_quotes(self) -> int:
        with open(self.path, 'rb') as f:
            return sum(chunk.count(b'"') for chunk in iter(lambda: f.read(_BLOCK_SIZE), b''))

    def rows(self) -> Iterator[_Row]:
        # The slow pass: rows that are not blank, with their lines.
        number = last = 0
        try:
            for last_line, cells in self._cells():
                first, last = last + 1, last_line
                if any(cell.strip() for cell in cells):
                    yield _Row(number, first, last, cells)
                    number += 1
        except csv.Error as error:
            raise ValueError(f'{self.path}:{last + 1}: malformed csv ({error})') from error

    def _cells(self) -> Iterator[Tuple[int, List[str]]]:
        # All rows, each with its last line.
        if not self.quoted:
            for i, line in enumerate(self._lines(), 1):
                yield i, line.split(self.delimiter)
            return
        reader = csv.reader((f'{line}\n' for line in self._lines()), delimiter=self.delimiter,
                            strict=True)
        for cells in reader:
            yield reader.line_num, cells

    def _lines(self) -> Iterator[str]:
        i = 0
        with open(self.path, 'rb') as f:
            for raw in f:
                for part in raw.removesuffix(b'\n').removesuffix(b'\r').split(b'\r'):
                    i += 1
                    part = part.removeprefix(_BOM) if i == 1 else part
                    try:
                        yield part.decode('utf-8')
                    except UnicodeDecodeError as error:
                        raise ValueError(f'{self.path}:{i}: not UTF-8 '
                                         f'(byte 0x{part[error.start]:02x})') from None


def _skip_blank(row: Any) -> str:
    return 'error' if row.text.strip() else 'skip'


def _shape_error(path: Path, row: _Row, width: int, text: _Text,
                 problem: Optional[str] = None) -> ValueError:
    separator = {'\t': 'tabs', ',': 'commas', ' ': 'spaces'}.get(text.delimiter,
                                                                 repr(text.delimiter))
    line = text.delimiter.join(row.cells)
    expected = ('head, relation and tail' if width == 3 else f'{width} cells')
    hint = '' if problem is None else f': a cell is {problem}'
    if problem is None:
        for other in '\t,; |':
            if other != text.delimiter and len(line.split(other)) == width:
                hint = (f'; it has {width} parts between {other!r}, which can be said by '
                        f"'delimiter' in dataset.yaml")
                break
    found = line if len(line) <= _MAX_QUOTED else f'{line[:_MAX_QUOTED]}...'
    return ValueError(f'{path}:{row.line}: expected {expected}, separated by {separator} '
                      f'(got {found!r}{hint})')


def _named(cells: Sequence[str]) -> Optional[Positions]:
    # The positions of the three columns if these cells are a header that names them.
    lower = [cell.strip().lower() for cell in cells]
    found = [[i for i, cell in enumerate(lower) if cell in names]
             for names in COLUMN_NAMES.values()]
    if any(len(where) != 1 for where in found):
        return None
    (head, ), (relation, ), (tail, ) = found
    return head, relation, tail


def _existing(path: PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    return path


def _short(reason: str) -> str:
    return ' '.join(reason.split())[:200]


# Parquet ##########################################################################################


def _open_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        return pq.ParquetFile(path)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    # A damaged file makes pyarrow raise errors of its own, of decoding and of the system.
    try:
        yield
    except Exception as error:
        raise ValueError(f'{path}: damaged or no Parquet file ({_short(str(error))})') from error


def _read_parquet(path: Path, positions: Optional[Positions] = None) -> List[Any]:
    # Labels, as dictionaries, at the given positions, else all columns.
    import pyarrow as pa
    import pyarrow.compute as pc

    file = _open_parquet(path)
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError(f'{path}: expected distinct names of columns (got {names})')
    wanted = [names[i] for i in (range(len(names)) if positions is None else positions)]
    with _parquet_errors(path):
        table = file.read(columns=wanted, use_threads=False)
        table.validate(full=True)
        columns = [table[name] for name in wanted]
    if positions is None:
        return columns
    out = []
    for name, column in zip(wanted, columns, strict=True):
        if not (_is_text(column.type) or pa.types.is_integer(column.type)):
            raise ValueError(f'{path}: column {name!r} needs to hold labels or integers '
                             f'(got {column.type})')
        if column.null_count > 0:
            raise ValueError(f'{path}: column {name!r} has {column.null_count} empty cells')
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(column)
        out.append(pc.cast(column, pa.dictionary(pa.int32(), pa.string())))
    return out


def _is_text(dtype: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def _plain(path: Path, name: str, column: Any) -> Any:
    # One array of strings or of numbers.
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_text(column.type):
        column = pc.cast(column, pa.string())
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
              or pa.types.is_null(column.type)):
        raise ValueError(f'{path}: column {name!r} needs to hold texts or numbers '
                         f'(got {column.type})')
    if pa.types.is_null(column.type):
        column = pc.cast(column, pa.string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


# Codes ############################################################################################


def _as_codes(columns: Sequence[Any]) -> Tuple[List[np.ndarray], List[str]]:
    # Columns of dictionaries become codes into one list of stripped labels.
    import pyarrow as pa

    chunks = [chunk for column in columns for chunk in column.chunks]
    if not chunks:
        return [np.zeros(0, dtype=np.int32) for _ in columns], []
    unified = pa.chunked_array(chunks).unify_dictionaries().chunks
    code: Dict[str, int] = {}
    values = unified[0].dictionary.to_pylist()
    new = np.fromiter((code.setdefault(value.strip(), len(code)) for value in values),
                      dtype=np.int32, count=len(values))
    out, start = [], 0
    for column in columns:
        part = unified[start:start + column.num_chunks]
        start += column.num_chunks
        out.append(np.concatenate([new[chunk.indices.to_numpy()] for chunk in part]))
    return out, list(code)


def _equals(codes: np.ndarray, labels: List[str], label: str) -> np.ndarray:
    if label not in labels:
        return np.zeros(len(codes), dtype=bool)
    return codes == labels.index(label)


def _shrink(columns: Sequence[np.ndarray], labels: List[str],
            ) -> Tuple[List[np.ndarray], List[str]]:
    # Leave out the labels that no code names.
    used = np.zeros(len(labels), dtype=bool)
    for codes in columns:
        used[codes] = True
    new = (np.cumsum(used) - 1).astype(np.int32)
    return [new[codes] for codes in columns], [labels[i] for i in np.flatnonzero(used)]
