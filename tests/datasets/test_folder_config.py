import pytest

from pyg_mmkgc.datasets import MMKGFolder
from pyg_mmkgc.datasets.folder.config import FolderConfig, inside, read_config, write_config


@pytest.fixture
def folder(tmp_path):
    for split in ('train', 'val', 'test'):
        (tmp_path / f'{split}.tsv').write_text('a\tr\tb\n')
    return tmp_path


def test_round_trip(tmp_path):
    assert read_config(tmp_path) == FolderConfig()
    config = FolderConfig(triples={'train': 'a/b.csv'}, columns={'head': 0, 'relation': 'r',
                                                               'tail': 2},
                          header=False, delimiter='\t', ids=0, split={'ratios': [.6, .2, .2],
                                                                      'seed': 3, 'inductive': .1},
                          entities='e.txt', texts=['ü'], numbers=['n'], candidates='seen',
                          modalities={'x': {'encoder': None}, 'y': {'kind': 'image'}})
    write_config(config, tmp_path)
    assert read_config(tmp_path) == config
    (tmp_path / 'dataset.yaml').write_text('')
    assert read_config(tmp_path) == FolderConfig()


@pytest.mark.parametrize('content,match', [
    ('tripels: x', r"unknown key 'tripels' .*; did you mean 'triples'"),
    ('split: {ratio: 1}', r"unknown key 'split.ratio' .*; did you mean 'split.ratios'"),
    ('columns: {haed: 1}', r"unknown key 'columns.haed' .*; did you mean 'columns.head'"),
    ('triples: {trian: x}', r"unknown key 'triples.trian' .*; did you mean 'triples.train'"),
    ('modalities: {x: {encoded: 1}}', r"unknown key 'modalities.x.encoded' .*did you mean 'modal"),
    ('1: 2', r"unknown key '1'"),
    ('[a]', r'the file needs to be a mapping'),
    ('triples: {val: x}', r"'triples' needs to be a file for 'train' at least"),
    ('triples: 3', r"'triples' needs to be a relative path that stays inside the folder .got 3"),
    ('triples: ../x', r"'triples' needs to be a relative path that stays inside the folder"),
    ('triples: {train: /etc/passwd}', r"'triples.train' needs to be a relative path"),
    ('entities: a/../../x', r"'entities' needs to be a relative path"),
    ('attributes: [..]', r"'attributes' needs to be a relative path"),
    ('features: x', r"'features' needs to be a list of names .got 'x'"),
    ('texts: [1]', r"'texts' needs to be a list of names"),
    ('{texts: [a], numbers: [a]}', r"'numbers' needs to be columns that 'texts' does not name"),
    ('columns: [0, 1, 2]', r"'columns' needs to be a mapping"),
    ('columns: {head: 0, relation: 1}', r"'columns.tail' needs to be a name in the header or a"),
    ('columns: {head: 0, relation: 1, tail: true}', r"'columns.tail' needs to be a name"),
    ('columns: {head: 0, relation: 1, tail: 1}', r"'columns' needs to be three different columns"),
    ('header: 1', r"'header' needs to be true or false .got 1"),
    ('delimiter: ab', r"'delimiter' needs to be one character"),
    ('ids: 2', r"'ids' needs to be the first id, 0 or 1 .got 2"),
    ('ids: true', r"'ids' needs to be the first id"),
    ('candidates: some', r"'candidates' needs to be 'all' or 'seen' .got 'some'"),
    ('split: 1', r"'split' needs to be a mapping"),
    ('split: {ratios: [0.5, 0.5, 0.5]}', r"'split.ratios' needs to be three positive numbers of"),
    ('split: {inductive: 1}', r"'split.inductive' needs to be a number between 0 and 1 .got 1"),
    ('split: {seed: -1}', r"'split.seed' needs to be an integer of at least 0"),
    ('modalities: [x]', r"'modalities' needs to be a mapping"),
    ('modalities: {x: 1}', r"'modalities.x' needs to be a mapping, such as"),
    ('modalities: {x: {}}', r"'modalities.x.kind' needs to be one of .*'image'.* .got 'x'"),
    ('modalities: {1: {encoder: null}}', r"'modalities.1' needs to be a name .got 1"),
    ('modalities: {image: {source: [a]}}', r"'modalities.image.source' needs to be the name"),
    ('modalities: {image: {encoder: 3}}', r"'modalities.image.encoder' needs to be the name of an"),
])
def test_bad_config(folder, content, match):
    (folder / 'dataset.yaml').write_text(content)
    with pytest.raises(ValueError, match=f'dataset.yaml: {match}'):
        MMKGFolder(folder)


@pytest.mark.parametrize('content,match', [
    (b'a: 1\nb: [', r'dataset.yaml:\d: malformed YAML'),
    (b'a: 2001-99-99', r'dataset.yaml: malformed YAML .month'),
    (b'a: !!python/object:os.system x', r'dataset.yaml:1: malformed YAML'),
    (b'[' * 5000, r'dataset.yaml.*: malformed YAML'),
    (b'\nx: \xff', r'dataset.yaml:2: not UTF-8'),
])
def test_malformed_yaml(folder, content, match):
    (folder / 'dataset.yaml').write_bytes(content)
    with pytest.raises(ValueError, match=match):
        MMKGFolder(folder)


def test_named_files_must_be_there(folder):
    for key in ('triples: x.tsv', 'triples: {train: x.tsv}', 'entities: x.tsv', 'relations: x.txt',
                'attributes: [x.tsv]', 'features: [x.npy]'):
        (folder / 'dataset.yaml').write_text(key)
        with pytest.raises(FileNotFoundError, match=r"There is no file '.*x\.\w+'"):
            MMKGFolder(folder)


def test_paths_stay_inside():
    assert all(map(inside, ['a/b', 'a/../b', '..a', 'a.b/c d']))
    assert not any(map(inside, ['', '..', '../a', '/a', 'a/../../b', '..\\a', 'a\0']))
