import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import EDGE, Labels, build_data, set_modality
from pyg_mmkgc.datasets import DB15K, Atlas, MMKGFolder
from pyg_mmkgc.datasets.folder import write_folder
from pyg_mmkgc.testing import FakeMMKG

FUZZ = settings(deadline=None, max_examples=60,
                suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(data, other, left_out=()):
    assert data.node_types == other.node_types
    assert data.edge_types == other.edge_types
    for store, back in zip(data.stores, other.stores, strict=True):
        assert set(store.keys()) - set(left_out) == set(back.keys())
        for key in back.keys():
            if isinstance(store[key], torch.Tensor):
                assert store[key].dtype == back[key].dtype, key
                torch.testing.assert_close(store[key], back[key], rtol=0, atol=0, equal_nan=True)
            else:
                assert type(store[key]) is type(back[key])
                assert store[key] == back[key], key


def graph(labels=('a', 'b', 'c'), relations=('r', 's')):
    data = build_data({'train': torch.tensor([[0, 1, 2], [2, 0, 1]]),
                       'val': torch.tensor([[0, 0, 0]]), 'inductive_test': torch.tensor(
                           [[1, 1, 1], [1, 1, 1]])}, labels, relations)
    data.candidates = 'seen'
    return data


def test_atlas(tmp_path):
    data = Atlas()[0]
    MMKGFolder.write(data, tmp_path / 'atlas')
    assert_same(data, MMKGFolder(tmp_path / 'atlas')[0])
    assert sorted(path.name for path in tmp_path.rglob('*')) == [
        'atlas', 'dataset.yaml', 'entities.csv', 'features.safetensors', 'inductive_test.tsv',
        'relations.csv', 'test.tsv', 'train.tsv', 'val.tsv']


def test_fake_graph(tmp_path):
    data = FakeMMKG()[0]
    data.candidates = 'all'
    write_folder(data, tmp_path / 'fake')
    assert_same(data, MMKGFolder(tmp_path / 'fake')[0])


@pytest.mark.real_data
def test_db15k(mirror, tmp_path, caplog):
    data = DB15K(str(tmp_path / 'root'), mirror=str(mirror))[0]
    write_folder(data, tmp_path / 'out')
    back = MMKGFolder(tmp_path / 'out')[0]
    for key in ('label', 'text', 'text_mask', 'numeric'):
        same = back['entity'][key] == data['entity'][key]
        assert same if isinstance(same, bool) else bool(same.all())
    assert torch.equal(back[EDGE].edge_index, data[EDGE].edge_index)
    assert 'data.raw_files' in caplog.text


def test_all_kinds_of_attributes(tmp_path):
    data = graph()
    store = data['entity']
    store.description = Labels(['x,\n"y"\r\n\t', None, ''])
    store.code = Labels(['1', '2', ' 3 '])
    store.image_path = Labels(['/nowhere/a.png', None, None])
    store.numeric_value = torch.tensor([[0.1, math.nan, -0.0], [1e-300, 2.5, 1 / 3],
                                        [math.nan, math.nan, 1e22]], dtype=torch.float64)
    store.numeric_attribute = ['p q', 'born', 'x']
    data[EDGE].description = Labels(['1', None])
    set_modality(data, 'voice', torch.randn(3, 4), torch.tensor([True, False, True]))
    write_folder(data, tmp_path / 'out')
    back = MMKGFolder(tmp_path / 'out')
    assert back.modalities == ['voice']  # Nothing is encoded that was not.
    assert_same(data, back[0])
    write_folder(back[0], tmp_path / 'again')
    assert [path.read_bytes() for path in sorted((tmp_path / 'out').iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / 'again').iterdir())]


@pytest.mark.parametrize('labels', [
    (' a', 'b', 'c'), ('a\tb', 'c', 'd'), ('a\nb', '1', '0'), ('"a', 'b"', ','),
    ('entity', 'head', 'name'), ('2', '0', '1'), ('e\u0301', '\u00e9', 'e'), ('\ufeffa', 'b', '\0'),
])
def test_labels_come_back(tmp_path, labels):
    data = graph(labels)
    write_folder(data, tmp_path / 'out')
    assert_same(data, MMKGFolder(tmp_path / 'out')[0])


TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=5)


@FUZZ
@given(st.lists(TEXT.filter(bool), min_size=3, max_size=3, unique=True),
       st.lists(TEXT.filter(bool), min_size=2, max_size=2, unique=True),
       st.lists(st.none() | TEXT, min_size=3, max_size=3),
       st.lists(st.floats(allow_infinity=False), min_size=3, max_size=3))
def test_whatever_is_written_comes_back(tmp_path_factory, labels, relations, texts, numbers):
    data = graph(labels, relations)
    data['entity'].words = Labels(texts)
    data['entity'].numeric_value = torch.tensor(numbers, dtype=torch.float64).view(3, 1)
    data['entity'].numeric_attribute = ['n']
    path = tmp_path_factory.mktemp('any') / 'out'
    write_folder(data, path)
    assert_same(data, MMKGFolder(path)[0])


def test_what_has_no_place_is_named(tmp_path, caplog):
    data = graph()
    data.note = 'x'
    data['entity'].degree = torch.ones(3, dtype=torch.long)
    write_folder(data, tmp_path / 'out')
    assert_same(data, MMKGFolder(tmp_path / 'out')[0], left_out=['note', 'degree'])
    assert "data.note, data['entity'].degree left out, since a folder has no place" in caplog.text


@pytest.mark.parametrize('change,match', [
    (lambda d: d['entity'].update(label=Labels(['a', '', 'c'])), "label of entity 1 .*'' is empty"),
    (lambda d: d['entity'].update(label=Labels(['a', 'b', 'a'])),
     "label of entity 2 cannot be written: 'a' is also that of 0"),
    (lambda d: d['entity'].update(label=Labels(['a', '\ud800', 'c'])),
     "labels of kind 'entity' cannot be written .'utf-8' codec"),
    (lambda d: d['entity'].update(voice=torch.ones(3, 2).double(), voice_mask=torch.ones(3) > 0),
     r"data\['entity'\].voice cannot be written such that it reads back the same .it is a tensor "
     r'of torch.float64'),
    (lambda d: d['entity'].update(words=Labels(['\ud800', None, None])),
     "'words' cannot be written"),
    (lambda d: d['entity'].update(words=Labels(['a', None, None]), numeric_attribute=['words'],
                                  numeric_value=torch.ones(3, 1).double()),
     "'words' is a text and a number"),
    (lambda d: setattr(d, 'candidates', 'none'), "'candidates' needs to be 'all' or 'seen'"),
    (lambda d: d[EDGE].update(x_edge_label_type=torch.zeros(1), x_edge_label_index=torch.zeros(
        2, 1)), "split 'x' cannot be written"),
])
def test_what_cannot_be_written(tmp_path, change, match):
    data = graph()
    change(data)
    with pytest.raises(ValueError, match=match):
        write_folder(data, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / 'file').write_text('precious')
    with pytest.raises(FileExistsError, match='exists and is no empty folder'):
        write_folder(graph(), tmp_path)
    with pytest.raises(FileExistsError, match='exists and is no empty folder'):
        write_folder(graph(), tmp_path / 'file')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    (tmp_path / 'empty').mkdir()
    write_folder(graph(), tmp_path / 'empty')
    assert MMKGFolder(tmp_path / 'empty').num_entities == 3


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pyg_mmkgc.datasets.folder.write.write_config', full)
    with pytest.raises(OSError, match='No space left'):
        write_folder(graph(), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []
