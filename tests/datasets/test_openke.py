import logging
import random
import time
from datetime import date

import numpy as np
import pytest
import torch

from pyg_mmkgc.datasets.openke import (
    read_descriptions,
    read_names,
    read_numeric_triples,
    read_openke,
    read_text,
    read_triples,
)

# Counts of `shared/data/README.md`.
STATISTICS = {
    'DB15K': (12842, 279, 79222, 9904, 9902),
    'MKG-W': (15000, 169, 34196, 4276, 4274),
    'MKG-Y': (15000, 28, 21310, 2665, 2663),
    'TIVA': (11858, 16, 20071, 2000, 2000),
    'KVC16K': (16015, 4, 180190, 22523, 22525),
}


def error_of(function, *args):
    with pytest.raises(ValueError, match='file.txt') as info:
        function(*args)
    return str(info.value)


# Names ###########################################################################################


@pytest.mark.parametrize('content', [
    'a b\t1\nü\t0\n"c\t2',
    'a b 1\nü 0\n"c 2\n',
    'a b \t 1\r\n\r\nü\t0\r\n"c\t2 \r\n\r\n',
    '\ufeffü\t0\na b  1\n"c\t2\n',
])
def test_read_names(write, content):
    bom = '\ufeff' if content.startswith('\ufeff') else ''
    assert read_names(write(f'{bom}3\n{content.removeprefix(bom)}')) == ['ü', 'a b', '"c']


def test_read_names_keeps_odd_line_separators(write):
    # `str.splitlines` would split at each of these.
    names = ['a\x85b', 'c\u2028d', 'e\x0bf', 'g\x1ch', 'i 7']
    lines = ''.join(f'{name}\t{i}\n' for i, name in enumerate(names))
    assert read_names(write(f'5\n{lines}')) == names


@pytest.mark.parametrize('content,message', [
    ('', ':1: expected the number of names in the first line (the file is empty)'),
    ('\n \n', ':1: expected the number of names in the first line (the file is empty)'),
    ('a\t0\n', ":1: expected the number of names in the first line (got 'a\\t0')"),
    ('-1\n', ":1: expected the number of names in the first line (got '-1')"),
    ('2\na\t0\nb\n', ":3: expected a name and an id (got 'b')"),
    ('2\na\t0\n1\n', ":3: expected a name and an id (got '1')"),
    ('2\na\t0\nb1\n', ":3: expected a name and an id (got 'b1')"),
    ('2\na\t0\nb\t1.5\n', ":3: expected a name and an id (got 'b\\t1.5')"),
    ('2\na\t0\nb\t-1\n', ":3: expected a name and an id (got 'b\\t-1')"),
    ('2\na\t0\nb\t12345678901234567890\n', ':3: expected a name and an id'),
    ('2\na\t0\nb\t0\n', ":3: id 0 occurs twice (for 'a' and 'b')"),
    ('3\na\t0\nb\t1\na\t2\n', ":4: name 'a' occurs twice (first in line 2)"),
    ('3\na\t0\nb\t1\n', ':1: the first line announces 3 names, but 2 follow (is the file trunc'),
    ('1\na\t0\nb\t1\n', ':1: the first line announces 1 names, but 2 follow (is the count wrong'),
    ('2\na\t1\nb\t2\n', ':3: id 2 is out of range (expected 0 to 1; these ids count from one)'),
    ('2\na\t0\nb\t7\n', ':3: id 7 is out of range (expected 0 to 1)'),
])
def test_read_names_errors(write, content, message):
    assert message in error_of(read_names, write(content))


def test_missing_file(tmp_path):
    for function in [read_names, lambda p: read_triples(p, 1, 1), read_text,
                     lambda p: read_descriptions(p, []), lambda p: read_numeric_triples(p, [])]:
        with pytest.raises(FileNotFoundError, match="There is no file '.*nowhere.txt'"):
            function(tmp_path / 'nowhere.txt')


def test_not_utf8(write):
    message = error_of(read_names, write('2\na\t0\nü\t1\n'.encode('latin-1')))
    assert message.endswith(':3: not UTF-8 (byte 0xfc)')
    assert 'not UTF-8' in error_of(read_names, write('2\na\t0'.encode('utf-16')))


# Triples #########################################################################################


@pytest.mark.parametrize('content', [
    '3\n0 1 2\n3 3 0\n3 0 1\n',
    '3\r\n0\t1\t2\r\n3\t3\t0\r\n3\t0\t1',
    '\ufeff 3 \n\n 0  1\t2 \n\n3 3 0\n3 0 1\n\n',
    '03\n00 01 2\n3 3 0\n3 0 0001\n',
])
def test_read_triples(write, content):
    out = read_triples(write(content), num_entities=4, num_relations=3)
    assert out.dtype == torch.long
    # The columns of the file are head, tail, relation.
    assert out.tolist() == [[0, 2, 1], [3, 0, 3], [3, 1, 0]]


def test_read_triples_of_an_empty_split(write):
    assert read_triples(write('0\n'), 4, 3).shape == (0, 3)


@pytest.mark.parametrize('content,message', [
    ('', ":1: expected the number of triples alone in the first line (got '')"),
    ('0 1 2\n0 1 2\n', ":1: expected the number of triples alone in the first line (got '0 1 2')"),
    ('2\n0 1 2\n0 1\n', ':3: expected 3 columns (got 2)'),
    ('2\n0 1 2\n0 1 2 3\n', ':3: expected 3 columns (got 4)'),
    ('2\n0 1\n2 0 1 2\n', ':2: expected 3 columns (got 2)'),
    ('2\n0 1 2\n', ':1: the first line announces 2 triples, but 1 follow (is the file truncated'),
    ('1\n0 1 2\n0 1 1\n', ':1: the first line announces 1 triples, but 2 follow (is the count wr'),
    ('2\n0 1 2\n0 x1 2\n', ":3: expected non-negative integers (got 'x1')"),
    ('2\n0 1 2\n0 1.5 2\n', ":3: expected non-negative integers (got '1.5')"),
    ('2\n0 1 2\n0 -1 2\n', ":3: expected non-negative integers (got '-1')"),
    ('2\n0 1 2\n0 1e0 2\n', ":3: expected non-negative integers (got '1e0')"),
    ('2\n0 1 2\n0 \u0661 2\n', ":3: expected non-negative integers (got '\u0661')"),
    ('2\n0,1,2\n', ":2: expected non-negative integers (got '0,1,2')"),
    ('2\n0 1 2\n0 9999999999999999999 2\n', ":3: number too large (got '9999999999999999999')"),
    ('2\n0 1 2\n4 1 2\n', ':3: head id 4 is out of range (expected 0 to 3)'),
    ('2\n0 1 2\n\n0 9 2\n', ':4: tail id 9 is out of range (expected 0 to 3)'),
    ('2\n0 0 2\n0 4 3\n', ':3: tail id 4 is out of range (expected 0 to 3)'),
    ('2\n1 4 1\n2 0 1\n', ':2: tail id 4 is out of range (expected 0 to 3)'),
    ('2\n1 3 1\n2 1 3\n', ':3: relation id 3 is out of range (expected 0 to 2; these ids seem to '
     'count from one)'),
    ('2\n0 1 3\n0 2 1\n', ":2: relation id 3 is out of range (expected 0 to 2; the columns seem to "
     "be 'head relation tail', but this layout has 'head tail relation')"),
    ('2\n4 1 2\n1 2 1\n', ':2: head id 4 is out of range (expected 0 to 3; these ids seem to '
     'count from one)'),
])
def test_read_triples_errors(write, content, message):
    assert message in error_of(read_triples, write(content), 4, 3)


def test_read_triples_against_a_loop(write):
    rng = random.Random(0)
    for _ in range(20):
        rows = [[rng.randrange(50), rng.randrange(50), rng.randrange(5)] for _ in range(200)]
        lines = [''.join(str(x) + rng.choice([' ', '\t', '  ']) for x in row) for row in rows]
        content = '200\n' + ''.join(line + rng.choice(['\n', '\r\n', '\n\n']) for line in lines)
        out = read_triples(write(content), 50, 5)
        assert out.tolist() == [[h, r, t] for h, t, r in rows]


def test_any_bytes_give_our_error_or_a_correct_result(write):
    rng = random.Random(0)
    pieces = [b'0', b'1', b'2', b'3', b'10', b' ', b'\t', b'\n', b'\r\n', b'\r', b'-', b'x',
              b'\x00', b'\xff', b'\xef\xbb\xbf', '\u00b2'.encode(), b'\x0c', b'\n1 2 1', b'2\n']
    num_read = 0
    for _ in range(800):  # Files that are nearly right, with up to four places changed.
        content = b'2\n0 1 2\n3 0 1\n' if rng.random() < 0.7 else b'2\na b 0\nc\t1\n'
        for _ in range(rng.randrange(5)):
            start = rng.randrange(len(content) + 1)
            stop = start + rng.choice([0, 0, 1, 3])
            content = content[:start] + rng.choice([b'', *pieces]) + content[stop:]
        path = write(content)
        for function, sizes in [(read_triples, (4, 3)), (read_names, ())]:
            try:
                out = function(path, *sizes)
            except ValueError as error:
                assert 'file.txt:' in str(error)  # noqa: PT017
                continue
            num_read += 1
            lines = [line.split() for line in content.removeprefix(b'\xef\xbb\xbf')
                     .replace(b'\r', b' ').split(b'\n')]
            lines = [line for line in lines if line]
            assert int(lines[0][0]) == len(out) == len(lines) - 1
            if function is read_triples:
                expected = [[int(h), int(r), int(t)] for h, t, r in lines[1:]]
                assert out.tolist() == expected
    assert 200 < num_read < 1000


def test_speed(write):
    triples = np.random.default_rng(0).integers(0, 1000, (100_000, 3))
    lines = '\n'.join(' '.join(map(str, row)) for row in triples.tolist())
    path = write(f'100000\n{lines}\n')
    start = time.process_time()
    out = read_triples(path, 1000, 1000)
    assert time.process_time() - start < 1
    assert out.tolist() == triples[:, [0, 2, 1]].tolist()


# Descriptions ####################################################################################


def test_read_descriptions(write, caplog):
    path = write('b\tone: two\r\n\nnobody\tx\na c\t  ü \n')
    with caplog.at_level(logging.INFO):
        assert read_descriptions(path, ['a c', 'b', 'd']) == ['ü', 'one: two', None]
    assert '1 descriptions of unknown entities left out' in caplog.text


@pytest.mark.parametrize('content,message', [
    ('a\tx\nb y\n', ":2: expected a name, a tab and a text (got 'b y')"),
    ('a\t \n', ":1: expected a name, a tab and a text (got 'a\\t ')"),
    ('a\tx\ty\n', ":1: expected a name, a tab and a text (got 'a\\tx\\ty')"),
    ('a\tx\n\na\ty\n', ":3: entity 'a' occurs twice"),
])
def test_read_descriptions_errors(write, content, message):
    assert message in error_of(read_descriptions, write(content), ['a', 'b'])


# Numeric triples #################################################################################


def literal(entity, attribute, value):
    return f'<{entity}> <{attribute}> "{value}"^^<http://x#double> .\n'


def test_read_numeric_triples(write, caplog):
    path = write(
        literal('e1', 'height', '1.5') + literal('e2', 'born', '1946-03-12') + '\n' +
        literal('e1', 'height', '2.5e0') + literal('e2', 'height', '-3') +
        literal('nobody', 'weight', '7') + literal('e0', 'born', '2000-12-31') +
        '<e1>\t<born>\t"+.5"^^<d>\n')
    with caplog.at_level(logging.INFO):
        values, attributes = read_numeric_triples(path, ['<e0>', '<e1>', 'e2'])
    assert attributes == ['born', 'height', 'weight']
    nan = float('nan')
    expected = torch.tensor([[2000 + 365 / 366, nan, nan], [0.5, 2.0, nan],
                             [1946 + 70 / 365, -3, nan]], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12, equal_nan=True)
    assert '1 of 7 literals are about unknown entities and left out' in caplog.text


@pytest.mark.parametrize('year', [1, 1899, 1900, 1904, 2000, 2023, 2024])
def test_every_day_of_a_year(write, year):
    days = [date.fromordinal(i) for i in range(date(year, 1, 1).toordinal(),
                                               date(year + 1, 1, 1).toordinal())]
    path = write(''.join(literal(f'e{i}', 'a', f'{d.year}-{d.month}-{d.day:02d}')
                         for i, d in enumerate(days)))
    values, _ = read_numeric_triples(path, [f'e{i}' for i in range(len(days))])
    expected = year + torch.arange(len(days), dtype=torch.float64) / len(days)
    torch.testing.assert_close(values[:, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('value,expected', [
    ('1970-0-0', 1970.0),  # The month and the day are unknown.
    ('1989-10-0', 1989 + 273 / 365),
    ('-323-6-10', -323 + 160 / 365),
])
def test_partial_and_ancient_dates(write, value, expected):
    values, _ = read_numeric_triples(write(literal('e', 'a', value)), ['e'])
    assert float(values[0, 0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize('value', ['x', '', '1,5', 'nan', 'inf', '1e999', '1_0', '2001-13-01',
                                   '2001-02-29', '2001-01-32', '1-2', '١'])
def test_read_numeric_triples_bad_value(write, value):
    path = write(literal('e', 'a', '1') + literal('e', 'a', value))
    message = error_of(read_numeric_triples, path, ['e'])
    assert message.endswith(f':2: expected a finite number or a date (got {value!r})')


@pytest.mark.parametrize('line', ['<e> <a> 1', '<e> <a> "1" .', 'e <a> "1"^^<d> .', '<e> "1"^^<d>',
                                  '<e> <a> "1"^^<d> . x'])
def test_read_numeric_triples_bad_line(write, line):
    message = error_of(read_numeric_triples, write(literal('e', 'a', '1') + line + '\n'), ['e'])
    assert ':2: expected <entity> <attribute> "value"^^<type> .' in message


def test_read_numeric_triples_empty(write):
    values, attributes = read_numeric_triples(write(''), ['a', 'b'])
    assert values.shape == (2, 0)
    assert attributes == []


# Folders #########################################################################################


def test_read_openke(write, tmp_path):
    write('2\na\t0\nb\t1\n', 'entity2id.txt')
    write('1\nr\t0\n', 'relation2id.txt')
    for name, triple in [('train2id', '0 1 0'), ('valid2id', '1 0 0'), ('test2id', '1 1 0')]:
        write(f'1\n{triple}\n', f'{name}.txt')
    entities, relations, splits = read_openke(tmp_path)
    assert entities == ['a', 'b']
    assert relations == ['r']
    assert {split: t.tolist() for split, t in splits.items()} == {
        'train': [[0, 0, 1]], 'val': [[1, 0, 0]], 'test': [[1, 0, 1]]}
    assert list(read_openke(tmp_path, {'train': 'test2id.txt'})[2]) == ['train']


@pytest.mark.real_data
@pytest.mark.parametrize('name', list(STATISTICS))
def test_published_files(mirror, name):
    start = time.process_time()
    entities, relations, splits = read_openke(mirror / name)
    assert time.process_time() - start < 3
    num_triples = [splits[split].size(0) for split in ['train', 'val', 'test']]
    assert (len(entities), len(relations), *num_triples) == STATISTICS[name]
    train = splits['train']
    # Head and tail reach far beyond the relations: the columns are in the order we say.
    assert int(train[:, 0].max()) > len(relations)
    assert int(train[:, 2].max()) > len(relations)


@pytest.mark.real_data
@pytest.mark.parametrize('name,count', [('DB15K', 12303), ('MKG-W', 2270), ('MKG-Y', 1562)])
def test_published_descriptions(mirror, name, count):
    entities = read_names(mirror / name / 'entity2id.txt')
    texts = read_descriptions(mirror / name / 'descriptions.tsv', entities)
    assert len(texts) == len(entities)
    assert sum(text is not None for text in texts) == count


@pytest.mark.real_data
def test_published_literals(mirror, caplog):
    entities = read_names(mirror / 'DB15K' / 'entity2id.txt')
    with caplog.at_level(logging.INFO):
        values, attributes = read_numeric_triples(mirror / 'DB15K' / 'DB15K_NumericalTriples.txt',
                                                  entities)
    assert '125 of 48105 literals' in caplog.text
    assert values.shape == (12842, 225)
    birth_date = attributes.index('http://dbpedia.org/ontology/birthDate')
    alexander = entities.index('<http://dbpedia.org/resource/Alexander_the_Great>')
    assert float(values[alexander, birth_date]) == pytest.approx(-356 + 200 / 365, abs=0.01)
