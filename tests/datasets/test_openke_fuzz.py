r"""Any bytes give an error of ours that names file and line, or what a slow plain reader finds."""
import logging
import math
import re
import tempfile
import unicodedata
from datetime import date
from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.datasets.openke import (
    read_descriptions,
    read_labels,
    read_links,
    read_names,
    read_numeric_triples,
    read_openke,
    read_triples,
)

LOG = 'pyg_mmkgc.datasets.openke'
FUZZ = settings(max_examples=250, deadline=2000, derandomize=True,
                suppress_health_check=[HealthCheck.too_slow])
NAMES = ['a', 'b c', 'e\u0301', '<http://x/ü>', 'Area 51']
NUM_ENTITIES, NUM_RELATIONS = 5, 3

VALID = {
    'names': ['3\na\t0\nb c\t1\n\u00e9 2\n', '2\r\nx 7\t1\r\ny\t0\r\n', '0\n', '1\n<http://x> 0'],
    'triples': ['3\n0 1 2\n4\t3\t0\n2 2  1\n', '1\r\n0 0 0\r\n', '0\n', '\n2\n\n1 2 0 \n 3 4 1'],
    'descriptions': ['a\tone\nb c\ttwo words\n', 'nobody\tx\r\n\u00e9\tfoo: 1\r\n', ''],
    'links': ['http://dbpedia.org/resource/A_%28b%29\ta\nhttp://dbpedia.org/resource/C\tb c\n',
              '<http://dbpedia.org/resource/X>\tnobody\r\n', ''],
    'labels': ['one\ntwo words\nthree\n', 'x\r\nx\r\ny', 'a\nb\nc\n\n\n'],
    'numbers': ['<a> <p> "1.5"^^<t> .\n<a> <p> "-2e3"^^<t> .\n<b c> <q> "1946-03-12"^^<t> .\n',
                '<nobody> <p> "7"^^<t>\r\n<http://x/ü>\t<q> "0001-1-0"^^<t> .\r\n', ''],
}
PIECES = [b' ', b'\t', b'\n', b'\r', b'\r\n', b'\n\n', b'0', b'1', b'-1', b'3', b'7', b'99', b'"',
          b'<', b'>', b'^^', b'.', b',', b'e', b'%', b'%ff', b'_', b'nan', b'inf', b'1e999',
          b'\x00', b'\x0b', b'\x0c', b'\x1c', b'\xff', b'\xef\xbb\xbf', b'\xfe\xff', b'9' * 18,
          b'9' * 19, b'9' * 5000, b'\x80\x04\x95', b'\ned\xa0\x80', 'e\u0301'.encode(),
          '\u00e9'.encode(), '\u0661'.encode(), '\u2028'.encode(), '\u00a0'.encode(),
          '\U0001f600'.encode()]


@st.composite
def mutated(draw, kind):
    r"""A valid file with a few places changed; or random bytes, or random text."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(
            lambda text: text.encode())))
    content = draw(st.sampled_from(VALID[kind])).encode()
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = start + draw(st.sampled_from([0, 0, 1, 2, 5]))
        piece = draw(st.one_of(st.sampled_from([b'', *PIECES]), st.binary(max_size=3)))
        content = content[:start] + piece + content[stop:]
    return content


class Refused(Exception):
    pass


def check(condition):
    if not condition:
        raise Refused


def lines_of(content):
    r"""All lines of a file of text, as they have to be understood."""
    content = content[3:] if content[:3] == b'\xef\xbb\xbf' else content
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Refused from None
    check('\x00' not in text)
    lines = [line[:-1] if line[-1:] == '\r' and i < text.count('\n') else line
             for i, line in enumerate(text.split('\n'))]
    check(not any('\r' in line for line in lines))
    return lines


def slow_names(content):
    lines = [line.strip(' \t') for line in lines_of(content) if line.strip()]
    check(lines and re.fullmatch('[0-9]{1,18}', lines[0]))
    check(int(lines[0]) == len(lines) - 1)
    pairs = [re.fullmatch(r'(.*?)[ \t]+([0-9]{1,18})', line, re.DOTALL) for line in lines[1:]]
    check(all(pairs))
    names = {int(pair[2]): pair[1] for pair in pairs}
    check(sorted(names) == list(range(len(pairs))))
    check(len(set(names.values())) == len(pairs))
    check(all(names.values()))
    return [names[i] for i in range(len(names))]


def slow_triples(content):
    lines = [re.split('[ \t]+', line.strip(' \t')) for line in lines_of(content)
             if line.strip(' \t')]
    check(all(re.fullmatch('[0-9]{1,18}', cell) for line in lines for cell in line))
    check(lines and len(lines[0]) == 1 and int(lines[0][0]) == len(lines) - 1)
    check(all(len(line) == 3 for line in lines[1:]))
    triples = [[int(h), int(r), int(t)] for h, t, r in lines[1:]]
    check(all(max(h, t) < NUM_ENTITIES and r < NUM_RELATIONS for h, r, t in triples))
    return triples


def slow_position(name):
    if name in NAMES:
        return NAMES.index(name)

    def form(text):
        text = text[1:] if text[:1] == '<' else text
        return unicodedata.normalize('NFC', text[:-1] if text[-1:] == '>' else text)

    return next((i for i, other in enumerate(NAMES) if form(other) == form(name)), None)


def slow_rows(content, value_of):
    out = [None] * len(NAMES)
    for line in lines_of(content):
        if line.strip():
            name, value = value_of(line)
            position = slow_position(name)
            if position is not None:
                check(out[position] is None)
                out[position] = value
    return out


def slow_descriptions(content):
    def value_of(line):
        check('\t' in line)
        name, text = line.split('\t', 1)
        check(name.strip(' ') and text.strip() and '\t' not in text.strip())
        return name.strip(' '), text.strip()

    return slow_rows(content, value_of)


def slow_links(content):
    def value_of(line):
        check(line.count('\t') == 1)
        address, name = (cell.strip(' ') for cell in line.split('\t'))
        address = address[1:] if address[:1] == '<' else address
        address = address[:-1] if address[-1:] == '>' else address
        check('/resource/' in address and name)
        try:
            title = unquote_to_bytes(address.split('/resource/', 1)[1]).decode()
        except UnicodeDecodeError:
            raise Refused from None
        title = title.replace('_', ' ').strip()
        check(title)
        return name, title

    return slow_rows(content, value_of)


def slow_labels(content):
    lines = [line.strip() for line in lines_of(content)]
    while lines and not lines[-1]:
        del lines[-1]
    check(len(lines) == 3 and all(lines))
    return lines


def slow_value(text):
    parts = re.fullmatch(r'(-?)([0-9]{1,6})-([0-9]{1,2})-([0-9]{1,2})', text)
    if parts is None:
        check(re.fullmatch(r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?', text))
        value = float(text)
        check(math.isfinite(value))
        return Fraction(value)
    year = int(parts[2]) * (-1 if parts[1] else 1)
    # A year of the same length and weekday pattern, which the calendar of Python knows.
    same = year % 400 + 400
    try:
        day = date(same, max(int(parts[3]), 1), max(int(parts[4]), 1))
    except ValueError:
        raise Refused from None
    length = date(same + 1, 1, 1) - date(same, 1, 1)
    return year + Fraction((day - date(same, 1, 1)).days, length.days)


def slow_numbers(content):
    values = {}
    attributes = set()
    for line in lines_of(content):
        if not line.strip():
            continue
        match = re.fullmatch('<([^>]*)>[ \t]+<([^>]*)>[ \t]+"([^"]*)"\\^\\^<[^>]*>[ \t]*'
                             '([.][ \t]*)?', line)
        check(match)
        attributes.add(match[2])
        value, position = slow_value(match[3]), slow_position(match[1])
        if position is not None:
            values.setdefault((position, match[2]), []).append(value)
    return sorted(attributes), {key: sum(x) / len(x) for key, x in values.items()}


def run(reader, slow, content, *args):
    r"""Both readers on one file; what they found, or None if both refused it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'file.txt'
        path.write_bytes(content)
        found = message = None
        try:
            found = reader(path, *args)
        except ValueError as error:
            message = str(error)
    if message is not None:
        place = re.match(re.escape(str(path)) + ':([0-9]+): ', message)
        assert place, message
        assert 1 <= int(place[1]) <= content.count(b'\n') + 1
        assert len(message) < 700
    try:
        expected = slow(content)
    except Refused:
        expected = None
    assert (found is None) == (expected is None)
    return found, expected


@FUZZ
@given(mutated('names'))
def test_names(content):
    found, expected = run(read_names, slow_names, content)
    assert found == expected


@FUZZ
@given(mutated('triples'))
def test_triples(content):
    found, expected = run(read_triples, slow_triples, content, NUM_ENTITIES, NUM_RELATIONS)
    assert (None if found is None else found.tolist()) == expected
    assert found is None or (found.dtype == torch.long and found.size(1) == 3)


@FUZZ
@given(mutated('descriptions'))
def test_descriptions(content):
    found, expected = run(read_descriptions, slow_descriptions, content, NAMES)
    assert found == expected


@FUZZ
@given(mutated('links'))
def test_links(content):
    found, expected = run(read_links, slow_links, content, NAMES)
    assert found == expected


@FUZZ
@given(mutated('labels'))
def test_labels(content):
    found, expected = run(read_labels, slow_labels, content, 3)
    assert found == expected


@FUZZ
@given(mutated('numbers'))
def test_numbers(content):
    found, expected = run(read_numeric_triples, slow_numbers, content, NAMES)
    if found is None:
        return
    values, attributes = found
    assert attributes == expected[0]
    assert values.shape == (len(NAMES), len(attributes))
    for i in range(len(NAMES)):
        for j, attribute in enumerate(attributes):
            value = expected[1].get((i, attribute))
            assert (float(values[i, j]) == pytest.approx(float(value), rel=1e-12, abs=1e-300)
                    if value is not None else math.isnan(values[i, j]))


@pytest.mark.parametrize('kind,slow', [
    ('names', slow_names), ('triples', slow_triples), ('descriptions', slow_descriptions),
    ('links', slow_links), ('labels', slow_labels), ('numbers', slow_numbers)])
def test_valid_files_are_valid(kind, slow):
    r"""Otherwise all of the above could agree in refusing everything."""
    for content in VALID[kind]:
        slow(content.encode())


# Files that are hard to read ######################################################################


READERS = {
    'names': (read_names, ()), 'triples': (read_triples, (NUM_ENTITIES, NUM_RELATIONS)),
    'descriptions': (read_descriptions, (NAMES, )), 'links': (read_links, (NAMES, )),
    'labels': (read_labels, (3, )), 'numbers': (read_numeric_triples, (NAMES, )),
}


def same(one, other):
    if isinstance(one, tuple):
        return one[1] == other[1] and torch.equal(one[0].nan_to_num(), other[0].nan_to_num())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize('kind', READERS)
def test_byte_order_mark_and_line_ends_do_not_matter(write, kind):
    reader, args = READERS[kind]
    for content in VALID[kind]:
        plain = content.replace('\r\n', '\n')
        expected = reader(write(plain), *args)
        for variant in [f'\ufeff{plain}', plain.replace('\n', '\r\n'), plain.rstrip('\n'),
                        f'{plain}\n\n']:
            assert same(reader(write(variant), *args), expected)


@pytest.mark.parametrize('kind', READERS)
def test_other_encodings_and_line_ends_are_refused(write, kind):
    reader, args = READERS[kind]
    content = VALID[kind][0]
    for variant, message in [
        (content.encode('utf-16'), r'file.txt:1: (not UTF-8|expected .*(NUL|integers))'),
        (content.encode('utf-16-le'), r'file.txt:[0-9]: (not UTF-8|expected)'),
        (content.replace('\n', '\r').encode(), r'file.txt:1: expected \\n or \\r\\n at the end of'),
        (content.replace('\n', '\r\r\n').encode(), r'file.txt:1: expected \\n or \\r\\n at the'),
        (b'\x80\x04\x95' + content.encode(), 'file.txt:1: '),
    ]:
        with pytest.raises(ValueError, match=message):
            reader(write(variant), *args)


@pytest.mark.parametrize('kind', READERS)
@pytest.mark.parametrize('pattern', [b' ', b'\t', b'1', b'<', b'"', b'a', b'1 ', b'a\t', b'\n',
                                     b'-', b'<>', b'%', b'.', b'<a> <b> "'])
def test_long_files_take_no_long_time(write, kind, pattern):
    # Anything worse than linear would take minutes on a line of this length.
    reader, args = READERS[kind]
    prefix = {'names': b'1\n', 'triples': b'1\n', 'numbers': b'<a> <p> "'}.get(kind, b'')
    path = write(prefix + pattern * (200_000 // len(pattern)) + b'x')
    with pytest.raises(ValueError, match='file.txt:') as info:
        reader(path, *args)
    assert len(str(info.value)) < 700


def test_numbers_too_large(write):
    for digits in ('9' * 19, '9' * 5000):
        with pytest.raises(ValueError, match='file.txt:2: number too large'):
            read_triples(write(f'1\n0 {digits} 0\n'), 5, 3)
        with pytest.raises(ValueError, match='file.txt:2: expected a name and an id'):
            read_names(write(f'1\na {digits}\n'))
        with pytest.raises(ValueError, match='file.txt:1: '):
            read_names(write(f'{digits}\n'))
    with pytest.raises(ValueError, match='file.txt:1: the first line announces 9{18} names, but 1'):
        read_names(write(f'{"9" * 18}\na 0\n'))
    literal = '<a> <p> "{}"^^<t> .\n'
    with pytest.raises(ValueError, match='file.txt:1: expected a finite number or a date'):
        read_numeric_triples(write(literal.format('9' * 5000)), ['a'])
    # Quadratic time would be minutes.
    with pytest.raises(ValueError, match="file.txt:1: expected a finite .* .got '1{80}[.]{3}'"):
        read_numeric_triples(write(literal.format('1' * 200_000 + 'x')), ['a'])
    with pytest.raises(ValueError, match="file.txt:1: the values of 'p' of 'a' are too large to"):
        read_numeric_triples(write(literal.format('1.7e308') * 2), ['a'])


def test_line_of_a_value_that_stands_elsewhere_too(write):
    path = write('<"x"> <p> "1"^^<t> .\n\n<a> <p> "x"^^<t> .\n')
    with pytest.raises(ValueError, match="file.txt:3: expected a finite number or a date .got 'x'"):
        read_numeric_triples(path, ['a'])


@pytest.mark.parametrize('content,line', [('\n\n5\na\t0\n', 3), ('\n5\na\t0\n', 2)])
def test_header_after_empty_lines(write, content, line):
    with pytest.raises(ValueError, match=f'file.txt:{line}: the first line announces 5 names'):
        read_names(write(content))
    content = content.replace('a\t0', '0 1 2')
    with pytest.raises(ValueError, match=f'file.txt:{line}: the first line announces 5 triples'):
        read_triples(write(content), 5, 3)


def test_unicode_forms(write, caplog):
    composed, decomposed = '\u00e9', 'e\u0301'
    with caplog.at_level(logging.WARNING, LOG):
        assert read_names(write(f'2\n{composed}\t0\n{decomposed}\t1\n')) == [composed, decomposed]
    assert 'file.txt: 1 names differ from another one only in their Unicode form' in caplog.text
    path = write(f'{decomposed}\tx\n')
    # Any form will do, unless names differ in nothing else: then it has to be the same.
    assert read_descriptions(path, ['a', composed]) == [None, 'x']
    assert read_descriptions(path, [composed, decomposed]) == [None, 'x']
    assert read_descriptions(path, [composed, f'<{composed}>']) == [None, None]
    with pytest.raises(ValueError, match='file.txt:2: entity .* occurs twice'):
        read_descriptions(write(f'{decomposed}\tx\n{composed}\ty\n'), [composed])


def test_names_given_twice(write):
    for reader, content in [(read_descriptions, 'a\tx'), (read_links, 'http://x/resource/A\ta'),
                            (read_numeric_triples, '<a> <p> "1"^^<t>')]:
        with pytest.raises(ValueError, match="'names' holds 'b' twice"):
            reader(write(content), ['a', 'b', 'b'])


def test_spaces_around_the_name_of_a_description(write):
    assert read_descriptions(write('  b c \tx\n'), NAMES)[1] == 'x'
    with pytest.raises(ValueError, match='file.txt:1: expected a name, a tab and a text'):
        read_descriptions(write('  \tx\n'), NAMES)


@pytest.mark.parametrize('rows,warns', [
    # The second column has fewer values than the third, and all of them could be relations.
    ([(0, 0, 1), (1, 0, 2), (2, 1, 0)], True),
    ([(0, 1, 0), (1, 2, 0), (2, 0, 1)], False),
    ([(0, 0, 0), (1, 1, 1)], False),
    # One tail that is no relation says enough.
    ([(0, 4, 1), (1, 4, 2), (2, 4, 0)], False),
])
def test_swapped_columns_that_no_id_gives_away(write, caplog, rows, warns):
    content = f'{len(rows)}\n' + ''.join(f'{h} {t} {r}\n' for h, t, r in rows)
    with caplog.at_level(logging.WARNING, LOG):
        assert read_triples(write(content), 5, 3).tolist() == [[h, r, t] for h, t, r in rows]
    assert ("file.txt: are the columns 'head relation tail'?" in caplog.text) == warns


@pytest.mark.parametrize('shift,warns', [(0, False), (1, True)])
def test_ids_that_count_from_one_in_all_triples(write, tmp_path, caplog, shift, warns):
    write('4\na 0\nb 1\nc 2\nd 3\n', 'entity2id.txt')
    write('3\nr 0\ns 1\nt 2\n', 'relation2id.txt')
    for name in ('train2id', 'valid2id', 'test2id'):
        write(f'1\n{shift} {2 + shift} {shift}\n', f'{name}.txt')
    with caplog.at_level(logging.WARNING, LOG):
        read_openke(tmp_path)
    assert ('neither entity 0 nor relation 0 occurs' in caplog.text) == warns


@pytest.mark.real_data
@pytest.mark.parametrize('name', ['DB15K', 'MKG-W', 'MKG-Y', 'TIVA', 'KVC16K'])
def test_published_files_give_no_warning(mirror, caplog, name):
    with caplog.at_level(logging.WARNING, LOG):
        read_openke(mirror / name)
    assert caplog.text == ''


# Links and labels ################################################################################


def test_read_links(write, caplog):
    path = write('http://dbpedia.org/resource/How_High_Is_Up%3F\thttp://w/Q1\n\n'
                 '<http://dbpedia.org/resource/AC/DC>\t<http://w/Q2>\r\n'
                 'http://dbpedia.org/resource/Chi%C5%9Fin%C4%83u \t http://w/Q3\n'
                 'http://dbpedia.org/resource/X\thttp://w/Q9\n')
    with caplog.at_level(logging.INFO, LOG):
        assert read_links(path, [f'http://w/Q{i}' for i in range(4)]) == [
            None, 'How High Is Up?', 'AC/DC', 'Chişinău']
    assert '1 links of unknown entities left out' in caplog.text


@pytest.mark.parametrize('content,message', [
    ('http://x/resource/A\ta\nhttp://x/resource/B b\n', ':2: expected http://dbpedia.org/resource/'),
    ('http://x/page/A\ta\n', ':1: expected http://dbpedia.org/resource/<title>, a tab and a name'),
    ('http://x/resource/\ta\n', ':1: expected http'),
    ('http://x/resource/_\ta\n', ':1: expected http'),
    ('http://x/resource/A\t\n', ':1: expected http'),
    ('http://x/resource/A\ta\tb\n', ':1: expected http'),
    ('http://x/resource/%ff\ta\n', r':1: expected http.*%ff'),
    ('http://x/resource/A\ta\nhttp://x/resource/B\ta\n', ":2: entity 'a' occurs twice"),
])
def test_read_links_errors(write, content, message):
    with pytest.raises(ValueError, match=f'file.txt{message}'):
        read_links(write(content), ['a', 'b'])


def test_read_labels(write):
    assert read_labels(write('\ufeffcast member\r\n x \nx\n\n'), 3) == ['cast member', 'x', 'x']
    assert read_labels(write(''), 0) == []


@pytest.mark.parametrize('content,message', [
    ('a\n\nb\n', r':2: expected a label \(the line is empty'),
    ('a\nb\n', r':2: expected 3 labels, one a line \(got 2'),
    ('a\nb\nc\nd\n', r':4: expected 3 labels, one a line \(got 4'),
    ('', r':1: expected 3 labels, one a line \(got 0'),
])
def test_read_labels_errors(write, content, message):
    with pytest.raises(ValueError, match=f'file.txt{message}'):
        read_labels(write(content), 3)


@pytest.mark.real_data
def test_published_links_and_labels(mirror):
    names = read_names(mirror / 'MKG-W' / 'entity2id.txt')
    titles = read_links(mirror / 'MKG-W' / 'entity_links.tsv', names)
    assert None not in titles
    assert len(set(titles)) == 15000
    assert titles[names.index('http://www.wikidata.org/entity/Q5917759')] == 'How High Is Up?'
    labels = read_labels(mirror / 'MKG-W' / 'relation_labels.txt', 169)
    assert (labels[0], labels[3], len(set(labels))) == ('cast member', 'performer', 169)
