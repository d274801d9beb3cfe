import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import EDGE, get_triples, split_names
from pyg_mmkgc.datasets import MMKGFolder

FUZZ = settings(deadline=None, max_examples=60,
                suppress_health_check=[HealthCheck.function_scoped_fixture])
TTL = """@prefix : <http://x.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
:New%20York :in :usa . :usa :has :New%20York .
:usa rdfs:label "Vereinigte Staaten"@de , "United States"@en ; rdfs:comment "A country" ;
    :area 9.5 , 9.7 ; :founded "1776-07-04"^^xsd:date ; :motto "E pluribus unum"@la .
:in rdfs:label "lies in" .
_:b :in :usa .
"""


def make(folder, **files):
    r"""Files by name; `__` stands for the dot before the suffix."""
    for name, content in files.items():
        path = folder / name.replace('__', '.')
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def in_words(folder):
    data = MMKGFolder(folder)[0]
    entity, relation = data['entity'].label, data[EDGE].label
    return {split: [(entity[h], relation[r], entity[t]) for h, r, t in
                    zip(*(part.tolist() for part in get_triples(data, split)), strict=True)]
            for split in split_names(data)}


def ring(n=12, form='{h}\tr{r}\t{t}\n'):
    return ''.join(form.format(h=f'e{i}', r=k, t=f'e{(i + k + 1) % n}') for i in range(n)
                   for k in range(3))


def test_splits_in_several_formats(tmp_path):
    make(tmp_path, train__csv='a,r,b\n"b, c",s,a\n', val__nt='<a:b> <a:r> <a:a> .\n')
    pq.write_table(pa.table({'head': ['b'], 'relation': ['r'], 'tail': ['a']}),
                   tmp_path / 'test.parquet')
    data = MMKGFolder(tmp_path)[0]
    assert data['entity'].name == ['a', 'a:a', 'a:b', 'b', 'b, c']
    assert get_triples(data, 'test')[0].tolist() == [3]


@pytest.mark.parametrize('name', ['triples.tsv', 'graph.txt', 'triples.csv', 'triples.nt'])
def test_one_file_is_split(tmp_path, name, caplog):
    form = {'csv': '{h},r{r},{t}\n', 'nt': '<x:{h}> <x:r{r}> <x:{t}> .\n'}.get(name.split('.')[1],
                                                                          '{h}\tr{r}\t{t}\n')
    make(tmp_path, **{name: ring(form=form)})
    with caplog.at_level(logging.INFO, 'pyg_mmkgc'):
        splits = in_words(tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {'train': 28, 'val': 4,
                                                                   'test': 4}
    assert len(set().union(*splits.values())) == 36
    assert {e for h, _, t in splits['train'] for e in (h, t)} == {
        e for rows in splits.values() for h, _, t in rows for e in (h, t)}
    assert f'{tmp_path / name}: split 0.8 / 0.1 / 0.1 with seed 0' in caplog.text
    assert in_words(tmp_path) == splits
    make(tmp_path, dataset__yaml='split: {seed: 1}')
    assert in_words(tmp_path) != splits


def test_inductive_split(tmp_path):
    make(tmp_path, triples__tsv=ring(30),
         dataset__yaml='split: {ratios: [0.6, 0.2, 0.2], inductive: 0.1}')
    splits = in_words(tmp_path)
    held = {e for h, _, t in splits['inductive_test'] for e in (h, t)} - {
        e for h, _, t in splits['train'] for e in (h, t)}
    assert len(held) == 3
    assert not any(e in held for s in ('val', 'test') for h, _, t in splits[s] for e in (h, t))


def test_too_few_to_split_and_none(tmp_path):
    make(tmp_path, triples__tsv='a\tr\tb\n')
    with pytest.raises(ValueError, match=r'triples.tsv: 1 distinct triples are too few'):
        MMKGFolder(tmp_path)
    make(tmp_path, triples__tsv='')
    with pytest.raises(ValueError, match=r'triples.tsv: the file is empty'):
        MMKGFolder(tmp_path)


def test_splits_are_not_split(tmp_path):
    make(tmp_path, train__tsv='a\tr\tb\n', val__tsv='a\tr\tb\n', test__tsv='a\tr\tb\n',
         dataset__yaml='split: {seed: 1}')
    with pytest.raises(ValueError, match=r"dataset.yaml: 'split' needs one file of all triples "
                       r".got \['train.tsv', 'val.tsv', 'test.tsv'\]"):
        MMKGFolder(tmp_path)
    make(tmp_path, entity2id__txt='1\na 0\n', relation2id__txt='1\nr 0\n', train2id__txt='1\n0 0 0',
         valid2id__txt='1\n0 0 0', test2id__txt='1\n0 0 0')
    with pytest.raises(ValueError, match=r"dataset.yaml: 'split' needs one file .*'train2id.txt'"):
        MMKGFolder(tmp_path)


def test_entity_that_a_table_does_not_list(tmp_path):
    make(tmp_path, train__tsv='a\tr\tb\n', val__tsv='a\tr\tb\n', test__tsv='a\tr\tc\n',
         entities__csv='name\na\nb\n')
    with pytest.raises(ValueError, match=r"test.tsv:1: entity 'c' is not listed in 'entities.csv'"):
        MMKGFolder(tmp_path)


def test_two_files_for_one_thing(tmp_path):
    make(tmp_path, train__tsv='a\tr\tb\n', val__tsv='a\tr\tb\n', valid__tsv='a\tr\tb\n')
    with pytest.raises(ValueError, match="both 'val.tsv' and 'valid.tsv' are there .expected one"):
        MMKGFolder(tmp_path)
    make(tmp_path, triples__csv='a,r,b')
    with pytest.raises(ValueError, match="both 'triples.csv' and 'train.tsv' hold triples"):
        MMKGFolder(tmp_path)


# Ids


SMALL = {'val__tsv': '0\t1\t2\n', 'test__tsv': '2\t0\t0\n'}


def test_integers_are_labels_without_a_list(tmp_path):
    make(tmp_path, train__tsv='0\t1\t10\n10\t0\t2\n', **SMALL)
    assert in_words(tmp_path)['train'] == [('0', '1', '10'), ('10', '0', '2')]
    make(tmp_path, entities__txt='10\n2\n0\n')
    data = MMKGFolder(tmp_path)[0]
    assert data['entity'].label == ['10', '2', '0']
    assert get_triples(data, 'train')[0].tolist() == [2, 0]


@pytest.mark.parametrize('first', [0, 1])
def test_integers_are_ids_of_other_names(tmp_path, first):
    def shifted(rows):
        return ''.join('\t'.join(str(i + first) for i in row) + '\n' for row in rows)

    make(tmp_path, train__tsv=shifted([(0, 1, 1), (1, 0, 2)]), val__tsv=shifted([(0, 1, 2)]),
         test__tsv=shifted([(2, 0, 0)]), entities__txt='zoe\nbo\nada\n',
         relations__txt='likes\nknows\n')
    expected = [('zoe', 'knows', 'bo'), ('bo', 'likes', 'ada')]
    assert in_words(tmp_path)['train'] == expected
    make(tmp_path, dataset__yaml=f'ids: {first}')
    assert in_words(tmp_path)['train'] == expected
    (tmp_path / 'entities.txt').unlink()
    (tmp_path / 'relations.txt').unlink()
    assert in_words(tmp_path)['train'] == [
        (str(first), str(1 + first), str(1 + first)), (str(1 + first), str(first), str(2 + first))]


def test_ids_that_may_count_from_either(tmp_path):
    make(tmp_path, train__tsv='1\tr\t2\n', val__tsv='2\tr\t1\n', test__tsv='1\tr\t1\n',
         entities__txt='a\nb\nc\n')
    with pytest.raises(ValueError, match=r"train.tsv: entity ids are 1 to 2, but 3 are listed, so "
                       r"they may count from 0 or from 1 .expected 'ids: 0' or 'ids: 1' in"):
        MMKGFolder(tmp_path)
    make(tmp_path, dataset__yaml='ids: 0')
    assert in_words(tmp_path)['train'] == [('b', 'r', 'c')]
    make(tmp_path, dataset__yaml='ids: 1')
    assert in_words(tmp_path)['train'] == [('a', 'r', 'b')]


@pytest.mark.parametrize('train,yaml,match', [
    ('0\tr\t1\n0\tr\t9\n', '', r'train.tsv:2: entity id 9 is out of range .expected 0 to 2'),
    ('1\tr\t1\n4\tr\t1\n', '', r'train.tsv:2: entity id 4 is out of range .expected 1 to 3'),
    ('0\tr\t1\n', 'ids: 1', r'train.tsv:1: entity id 0 is out of range .expected 1 to 3'),
    ('0\tr\t1\n\n1\tr\t99999999999999999999\n', '', r'train.tsv:3: number too large .got .99999'),
    ('0\tr\tb\n', 'ids: 0', r"train.tsv:1: expected the id of an entity, .* 'ids' .got 'b'"),
    ('0\tr\t-1\n', 'ids: 0', r"train.tsv:1: expected the id of an entity, .*got '-1'"),
])
def test_bad_ids(tmp_path, train, yaml, match):
    make(tmp_path, train__tsv=train, val__tsv='1\tr\t2\n', test__tsv='2\tr\t1\n',
         entities__txt='a\nb\nc\n', dataset__yaml=yaml)
    with pytest.raises(ValueError, match=match):
        MMKGFolder(tmp_path)


# What is warned of


def test_swapped_columns(tmp_path, caplog):
    rows = [(f'e{i}', f'e{i + 1}', 'r') for i in range(15)]
    make(tmp_path, **{f'{split}__tsv': ''.join('\t'.join(row) + '\n' for row in rows)
                      for split in ('train', 'val', 'test')})
    MMKGFolder(tmp_path)
    assert f'{tmp_path / "train.tsv"}: the columns look like head, tail, relation' in caplog.text
    caplog.clear()
    make(tmp_path, dataset__yaml='columns: {head: 0, tail: 1, relation: 2}')
    assert in_words(tmp_path)['train'][0] == ('e0', 'r', 'e1')
    assert caplog.text == ''
    make(tmp_path, dataset__yaml='', relations__txt='r\n')
    with pytest.raises(ValueError, match=r"train.tsv:1: relation 'e1' is not listed in "
                       r"'relations.txt'; none is, so the columns may be in another order"):
        MMKGFolder(tmp_path)


def test_unicode_forms(tmp_path, caplog):
    make(tmp_path, train__tsv='Ame\u0301lie\tr\tb\n', val__tsv='Am\u00e9lie\tr\tb\n',
         test__tsv='b\tr\tb\n')
    assert MMKGFolder(tmp_path).num_entities == 3
    assert 'are the same text in two Unicode forms, and stay two' in caplog.text


# RDF


def test_turtle(tmp_path):
    pytest.importorskip('pyoxigraph')
    make(tmp_path, train__ttl=TTL, val__nt='\ufeff<http://x.org/usa> <http://x.org/in> '
                                          '<http://x.org/usa> .\n',
         test__nt='<http://x.org/usa> <http://x.org/in> <http://y.org/usa> .\n')
    data = MMKGFolder(tmp_path)[0]
    store = data['entity']
    assert list(store.name[1:]) == ['http://x.org/New%20York', 'http://x.org/usa',
                                    'http://y.org/usa']
    assert store.name[0].startswith('_:')
    assert list(store.label[1:]) == ['New York', 'United States', 'usa']
    assert store.description == [None, None, 'A country', None]
    assert store.motto == [None, None, 'E pluribus unum', None]
    assert store.numeric_attribute == ['area']
    assert store.numeric_value[2].tolist() == [9.6]
    assert data[EDGE].label == ['has', 'lies in']
    assert in_words(tmp_path)['train'][:2] == [('New York', 'lies in', 'United States'),
                                               ('United States', 'has', 'New York')]


@pytest.mark.parametrize('name,content,match', [
    ('train.nt', '<a:a> <a:r> <a:b> .\n<a:a> <a:r>\n', r'train.nt:[23]: malformed RDF'),
    ('train.ttl', '<a:a> <a:r> "x"^^<http://www.w3.org/2001/XMLSchema#int> .',
     r"train.ttl: expected a number for 'a:r' of 'a:a' .got 'x'"),
    ('train.nt', '<a:a> <a:r> "x" .\n', r"train.nt: split 'train' is empty"),
    ('train.nt', b'<a:a> <a:r> "\xff" .\n', r'train.nt(:1)?: malformed RDF'),
])
def test_bad_rdf(tmp_path, name, content, match):
    pytest.importorskip('pyoxigraph')
    make(tmp_path, **{name: content}, val__nt='<a:a> <a:r> <a:b> .', test__nt='<a:a> <a:r> <a:b> .')
    with pytest.raises(ValueError, match=match):
        MMKGFolder(tmp_path)


def test_rdf_needs_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'pyoxigraph', None)
    make(tmp_path, graph__nt='<a:a> <a:r> <a:b> .')
    with pytest.raises(ImportError, match=r'pip install "pyg-mmkgc\[rdf\]"'):
        MMKGFolder(tmp_path)


# Any bytes


@FUZZ
@given(st.sampled_from(['train.tsv', 'entities.txt', 'entities.csv', 'numbers.tsv', 'texts.csv',
                        'train2id.txt', 'entity2id.txt', 'dataset.yaml', 'x.npy', 'x.npz',
                        'x_index.txt', 'x.safetensors', 'graph.ttl', 'descriptions.tsv']),
       st.one_of(st.binary(max_size=80), st.text('ab\t\n\r,":{}[]-&*!01 ', max_size=40).map(
           lambda text: text.encode())))
def test_any_bytes_are_read_or_refused_by_name(tmp_path, name, content):
    for path in tmp_path.iterdir():
        path.unlink()
    make(tmp_path, train__tsv='a\tr\tb\n', val__tsv='b\tr\ta\n', test__tsv='a\tr\ta\n',
         **{name: content})
    message = str(tmp_path)
    try:
        MMKGFolder(tmp_path)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert str(tmp_path) in message
