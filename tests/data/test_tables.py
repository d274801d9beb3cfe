import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data.tables import TripleFile, as_numbers, read_attribute_table

FUZZ = settings(deadline=None, max_examples=100,
                suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path, **options):
    r"""The triples as labels, in order."""
    table = TripleFile(path, **options).read()
    return [(table.entities[h], table.relations[r], table.entities[t])
            for h, r, t in zip(table.head, table.relation, table.tail, strict=True)]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


AB = [('a', 'r', 'b'), ('b', 's', 'a')]


@pytest.mark.parametrize('content', [
    'a\tr\tb\nb\ts\ta\n',
    'a\tr\tb\nb\ts\ta',  # No line end.
    'a\tr\tb\r\nb\ts\ta\r\n',
    'a\tr\tb\rb\ts\ta\r',
    '\ufeffa\tr\tb\nb\ts\ta\n',
    '\n  \na\tr\tb\n\t\t\n \t \t\nb\ts\ta\n\n',
    ' a \tr\t b\nb\t s\ta\u00a0\n',
    'head\trelation\ttail\na\tr\tb\nb\ts\ta\n',
    '\ufeff\r\nSubject\tPredicate\tObject\r\na\tr\tb\r\nb\ts\ta\r\n',
    'tail\thead\trelation\nb\ta\tr\na\tb\ts\n',
    'no\ttail\thead\trelation\n1\tb\ta\tr\n2\ta\tb\ts\n',
])
def test_tabs(tmp_path, content):
    assert read(write(tmp_path / 'x.tsv', content)) == AB


def test_tabs_know_no_quotes_and_keep_inner_space(tmp_path):
    path = write(tmp_path / 'x.txt', '"New York"\tis  in\tthe "USA\nÅ\tr,\t\u2028x\n')
    assert read(path) == [('"New York"', 'is  in', 'the "USA'), ('Å', 'r,', 'x')]


def test_unicode_forms_stay_two_labels(tmp_path):
    path = write(tmp_path / 'x.tsv', 'e\u0301\tr\t\u00e9\n')
    assert read(path) == [('e\u0301', 'r', '\u00e9')]


@pytest.mark.parametrize('content', ['', '\n\n', '\ufeff', 'head\trelation\ttail\n', ' \t \t \n'])
def test_nothing_in_it(tmp_path, content):
    table = TripleFile(write(tmp_path / 'x.tsv', content)).read()
    assert (len(table.head), table.entities, table.relations) == (0, [], [])


@pytest.mark.parametrize('content', [
    'a,r,b\nb,s,a\n',
    '"a","r","b"\r\n"b",s,"a"\r\n',
    'head,relation,tail\na,r,b\n\nb,s,a\n',
    'tail,since,relation,head\nb,1,r,a\na,"2, or 3",s,b\n',
])
def test_csv(tmp_path, content):
    assert read(write(tmp_path / 'x.csv', content)) == AB


def test_csv_quotes(tmp_path):
    path = write(tmp_path / 'x.csv', '"a, ""b""",r," c "\n')
    assert read(path) == [('a, "b"', 'r', 'c')]


def test_options(tmp_path):
    path = write(tmp_path / 'x.csv', 'a;b;r;0\nb;a;s;1\n')
    assert read(path, delimiter=';', columns={'head': 0, 'relation': 2, 'tail': 1}) == AB
    path = write(tmp_path / 'y.csv', 'from,to,how\na,b,r\nb,a,s\n')
    assert read(path, columns={'head': 'from', 'relation': 'how', 'tail': 'to'}) == AB
    path = write(tmp_path / 'z.tsv', 'head\trelation\ttail\na\tr\tb\n')
    assert read(path, header=False)[0] == ('head', 'relation', 'tail')
    assert read(path, header=True) == AB[:1]
    path = write(tmp_path / 'w.tsv', 'x\ty\tz\na\tr\tb\n')
    assert read(path, header=True) == AB[:1]


def test_parquet(tmp_path):
    path = tmp_path / 'x.parquet'
    for columns in [
        {'head': ['a', 'b'], 'relation': ['r', 's'], 'tail': ['b', 'a']},
        {'x': ['a', 'b'], 'y': ['r', 's'], 'z': ['b', 'a']},
        {'tail': ['b', 'a'], 'n': [1, 2], 'head': ['a', 'b'], 'relation': ['r', 's']},
    ]:
        pq.write_table(pa.table(columns), path)
        assert read(path) == AB
    table = pa.table({'head': ['a', 'b'], 'relation': ['r', 's'], 'tail': ['b', 'a']})
    pq.write_table(pa.table([column.dictionary_encode() for column in table.columns],
                            table.schema.names), path, row_group_size=1)
    assert read(path) == AB
    pq.write_table(pa.table({'head': [0, 10**17], 'relation': [1, 1], 'tail': [2, 0]}), path)
    assert read(path) == [('0', '1', '2'), (str(10**17), '1', '0')]


@pytest.mark.parametrize('columns,match', [
    ({'head': ['a', None], 'relation': ['r', 's'], 'tail': ['b', 'a']}, "'head' has 1 empty"),
    ({'head': [1.5], 'relation': ['r'], 'tail': ['b']}, r"'head' needs to hold labels .*double"),
    ({'a': ['a'], 'b': ['r']}, r"expected the columns head, relation and tail .got \['a', 'b'"),
    ({'head': ['a\nb'], 'relation': ['r'], 'tail': ['b']}, 'a label holds a tab or a line break'),
    ({'head': [' '], 'relation': ['r'], 'tail': ['b']}, 'a cell is empty'),
])
def test_bad_parquet(tmp_path, columns, match):
    path = tmp_path / 'x.parquet'
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=f'x.parquet: .*{match}'):
        read(path)


def test_damaged_parquet(tmp_path):
    path = tmp_path / 'x.parquet'
    pq.write_table(pa.table({'head': ['a'], 'relation': ['r'], 'tail': ['b']}), path)
    content = path.read_bytes()
    for damaged in (b'', b'PAR1', content[:-5], content[10:]):
        with pytest.raises(ValueError, match='x.parquet: damaged or no Parquet file'):
            read(write(path, damaged))


@pytest.mark.parametrize('name,content,match', [
    ('x.tsv', 'a\tr\tb\n\na r b\n', r":3: expected head, relation and tail, separated by tabs .got "
     r"'a r b'; it has 3 parts between ' ', which can be said by 'delimiter' in dataset.yaml"),
    ('x.tsv', 'a,r,b\n', r":1: expected .*it has 3 parts between ','"),
    ('x.tsv', 'a\tr b\n', r":1: expected head, relation and tail, .*got 'a\\tr b'.$"),
    ('x.tsv', 'a\tr\tb\r\na\tr\tb\tc\r\n', r':2: expected head, relation and tail'),
    ('x.tsv', 'a\tr\tb\ra\tr\tb\ra\tr\n', r':3: expected head, relation and tail'),
    ('x.tsv', 'a\tr\tb\na\t\tb\n', r':2: expected .*: a cell is empty'),
    ('x.tsv', b'a\tr\tb\na\tr\t\xe9\n', r':2: not UTF-8 .byte 0xe9'),
    ('x.tsv', b'\xff\xfea\x00\t\x00', r':1: not UTF-8 .byte 0xff'),
    ('x.csv', 'a,r,b\n"a,r,b\nc,r,d\n', r':2: malformed csv .unexpected end'),
    ('x.csv', f'{"x" * 200000},r,b\n', r':1: malformed csv .field larger than'),
    ('x.csv', 'a,r,b\n"a\nb",r,b\n', r':2: expected .*: a cell is no label .expected no tab'),
    ('x.csv', 'a;r;b\n', r":1: expected head, relation and tail, separated by commas .*';'"),
    ('x.csv', 'head,relation,tail,n\na,r,b,1\n,,,2\n', r':3: expected 4 cells.*: a cell is empty'),
])
def test_errors_name_the_line(tmp_path, name, content, match):
    with pytest.raises(ValueError, match=name + match):
        read(write(tmp_path / name, content))


def test_errors_in_options(tmp_path):
    path = write(tmp_path / 'x.tsv', 'a\tr\tb\n')
    with pytest.raises(ValueError, match=r'x.tsv:1: no column 3 for tail .expected 0 to 2'):
        TripleFile(path, columns={'head': 0, 'relation': 1, 'tail': 3})
    with pytest.raises(ValueError, match=r"x.tsv:1: no column 'x' for head .expected a header"):
        TripleFile(path, columns={'head': 'x', 'relation': 1, 'tail': 2})
    with pytest.raises(FileNotFoundError, match="There is no file '.*nowhere.tsv'"):
        TripleFile(tmp_path / 'nowhere.tsv')


def test_locate(tmp_path):
    path = write(tmp_path / 'x.csv', 'head,relation,tail\n\na,r,b\n"b",s,a\n')
    assert TripleFile(path).locate(lambda h, r, t: r == 's') == f'{path}:4'
    assert TripleFile(path).locate(lambda h, r, t: r == 'x') == str(path)


def test_many_blocks_share_one_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr('pyg_mmkgc.data.tables._BLOCK_SIZE', 1000)
    rng = np.random.default_rng(0)
    rows = [(f'e {h}', f'r{r}', f'e {t}') for h, r, t in rng.integers(0, 40, (3000, 3))]
    path = write(tmp_path / 'x.tsv', ''.join('\t'.join(row) + '\n' for row in rows))
    table = TripleFile(path).read()
    assert len(set(table.entities)) == len(table.entities) == 40
    assert table.head.dtype == np.int32
    assert read(path) == rows


# Attributes


def test_attributes(tmp_path):
    path = write(tmp_path / 'x.csv', '\ufeffName,text,n\r\na,"two\nlines, ""quoted""",1\r\n\r\n'
                                     ' b ,,\r\n')
    table = read_attribute_table(path)
    assert (table.key, table.names) == ('name', ['a', 'b'])
    assert table.columns['text'].to_pylist() == ['two\nlines, "quoted"', None]
    assert table.columns['n'].to_pylist() == ['1', None]
    assert table.locate(1) == f'{path}:5'
    path = write(tmp_path / 'x.tsv', 'entity\tt\na\t"\nb\t NA\n')
    assert read_attribute_table(path).columns['t'].to_pylist() == ['"', ' NA']
    path = write(tmp_path / 'y.tsv', 'label\nlabel\nb\n\n')
    table = read_attribute_table(path)
    assert (table.names, table.columns) == (['label', 'b'], {})
    assert table.locate(0) == f'{path}:2'
    pq.write_table(pa.table({'name': ['a', 'b'], 'n': [1.5, None], 't': [None, 'x']}),
                   tmp_path / 'x.parquet')
    table = read_attribute_table(tmp_path / 'x.parquet')
    assert {name: column.to_pylist() for name, column in table.columns.items()} == {
        'n': [1.5, None], 't': [None, 'x']}


@pytest.mark.parametrize('name,content,match', [
    ('x.tsv', '', r":1: expected a header whose first column is one of .*'name'"),
    ('x.tsv', '\nParis\tx\n', r":2: expected a header .*got \['Paris'\]"),
    ('x.tsv', 'name\tt\tt\n', ':1: expected distinct names of columns'),
    ('x.tsv', 'name\tt\t\n', ':1: expected distinct names of columns'),
    ('x.tsv', 'name\tt\na\n', r":2: expected 2 cells, separated by tabs .got 'a'"),
    ('x.tsv', 'name\tt\na\tx\n\na\ty\n', r":4: 'a' occurs twice .first in .*x.tsv:2"),
    ('x.tsv', 'name\tt\n\tx\n', r":2: '' in column 'name' is empty"),
    ('x.csv', 'name,t\n"a\nb",x\n', r":2: 'a\\nb' in column 'name' is no label"),
    ('x.tsv', b'name\tt\na\t\xff\n', r':2: not UTF-8'),
    ('x.csv', 'name,t\na,"x\n', ':2: malformed csv'),
])
def test_bad_attributes(tmp_path, name, content, match):
    with pytest.raises(ValueError, match=f'{name}(?:{match})'):
        read_attribute_table(write(tmp_path / name, content))


def test_bad_attributes_in_parquet(tmp_path):
    path = tmp_path / 'x.parquet'
    pq.write_table(pa.table({'name': [1, 2]}), path)
    with pytest.raises(ValueError, match=r"x.parquet: column 'name' needs to hold texts .*int64"):
        read_attribute_table(path)
    pq.write_table(pa.table({'name': ['a'], 'x': [[1]]}), path)
    with pytest.raises(ValueError, match=r"column 'x' needs to hold texts or numbers .*list"):
        read_attribute_table(path)
    pq.write_table(pa.table({'name': ['a', 'a']}), path)
    with pytest.raises(ValueError, match=r"x.parquet: row 2: 'a' occurs twice .*row 1"):
        read_attribute_table(path)


def test_numbers():
    cells = ['1', '-2.5', '+3', ' 4e2 ', '.5', '', None, 'NaN', 'na', 'None']
    values, wrong = as_numbers(pa.array(cells))
    assert wrong is None
    np.testing.assert_array_equal(values, [1, -2.5, 3, 400, 0.5] + [np.nan] * 5)
    for bad in ('x', '1,5', 'inf', '0x1', '1e999', '1 2', '++1', '-', '１'):
        assert as_numbers(pa.array(['1', bad]))[1] == 1, bad
    values, wrong = as_numbers(pa.array([1, None, 3]))
    assert wrong is None
    np.testing.assert_array_equal(values, [1, np.nan, 3])
    assert as_numbers(pa.array([1., np.inf]))[1] == 1


# Against slow readers


def slow_tsv(content):
    r"""What the file says, by the definition; None where it is malformed."""
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError:
        return None
    lines = text.replace('\r\n', '\n').replace('\r', '\n').split('\n')
    rows = [[cell.strip() for cell in line.split('\t')] for line in lines if line.strip()]
    if any(len(row) != 3 or not all(row) for row in rows):
        return None
    rows = [tuple(row) for row in rows]
    names = [cell.lower() for cell in rows[0]] if rows else []
    kinds = [('head', 'subject'), ('relation', 'predicate'), ('tail', 'object')]
    if rows and all(any(name in kind for name in names) for kind in kinds):
        order = [next(i for i, name in enumerate(names) if name in kind) for kind in kinds]
        rows = [tuple(row[i] for i in order) for row in rows[1:]]
    return rows


def check_against(path, expected):
    if expected is None:
        with pytest.raises(ValueError, match=rf'^{path}(:\d+)?: '):
            read(path)
    else:
        assert read(path) == expected


PIECES = st.sampled_from(['a', 'b', 'ä', 'e\u0301', ' ', '\t', '\n', '\r', '\r\n', '\0', '"', ',',
                          '\ufeff', '\u2028', '\x1c', '\x85', 'head', 'relation', 'tail',
                          'a\tr\tb'])


@FUZZ
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=25).map(
    lambda parts: ''.join(parts).encode()), st.lists(st.lists(
        st.text('ab äé"', min_size=1, max_size=4), min_size=3, max_size=3), max_size=6).map(
            lambda rows: '\r\n'.join('\t'.join(row) for row in rows).encode())))
def test_any_bytes_as_tsv(tmp_path, content):
    check_against(write(tmp_path / 'x.tsv', content), slow_tsv(content))


@FUZZ
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_characters='\t\n\r\0',
                                                  exclude_categories=['Cs']),
                                    min_size=1, max_size=5)] * 3), max_size=8))
def test_any_labels_as_csv(tmp_path, rows):
    rows = [tuple(cell.strip() for cell in row) for row in rows]
    rows = [row for row in rows if all(row)]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    assert read(write(tmp_path / 'x.csv', out.getvalue())) == rows


@FUZZ
@given(st.sampled_from(['csv', 'tsv', 'parquet']), st.binary(max_size=200),
       st.integers(0, 700), st.booleans())
def test_any_bytes_give_our_errors(tmp_path, suffix, noise, position, attributes):
    path = tmp_path / f'x.{suffix}'
    if suffix == 'parquet':  # Damage a good one.
        pq.write_table(pa.table({'name': ['a', 'b'], 'relation': ['r', 's'], 'tail': ['b', 'a']}),
                       path)
        content = path.read_bytes()
        noise = content[:position] + noise + content[position + len(noise):]
    message = ''
    try:
        (read_attribute_table if attributes else read)(write(path, noise))
    except ValueError as error:
        message = str(error)
    assert not message or message.startswith(str(path))
