import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyg_mmkgc.data import EDGE, get_triples, split_names
from pyg_mmkgc.datasets import MMKGFolder

LABELS = {
    'train.tsv': 'head\trelation\ttail\nzoe\tlikes\tab c\nab c\tknows\tü\n',
    'valid.tsv': 'zoe\tknows\tü\r\n\r\n',
    'test.txt': 'ü\tlikes\tzoe\n',
}
OPENKE = {
    'entity2id.txt': '3\nzoe 0\nab c 1\nü 2\n',
    'relation2id.txt': '2\nlikes 0\nknows 1\n',
    'train2id.txt': '2\n0 1 0\n1 2 1\n',
    'valid2id.txt': '1\n0 2 1\n',
    'test2id.txt': '1\n2 0 0\n',
}


@pytest.fixture
def labels(tmp_path):
    for name, content in LABELS.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def openke(tmp_path):
    for name, content in OPENKE.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def in_words(data):
    entity, relation = data['entity'].label, data[EDGE].label
    return {split: [(entity[h], relation[r], entity[t]) for h, r, t in
                    zip(*(part.tolist() for part in get_triples(data, split)), strict=True)]
            for split in split_names(data)}


EXPECTED = {
    'train': [('zoe', 'likes', 'ab c'), ('ab c', 'knows', 'ü')],
    'val': [('zoe', 'knows', 'ü')],
    'test': [('ü', 'likes', 'zoe')],
}


def test_labels(labels):
    dataset = MMKGFolder(labels)
    data = dataset[0]
    assert repr(dataset) == f"MMKGFolder('{labels}')"
    assert len(dataset) == 1
    assert in_words(data) == EXPECTED
    assert data['entity'].label == ['ab c', 'zoe', 'ü']
    assert data[EDGE].label == ['knows', 'likes']
    assert data.candidates == 'all'
    assert dataset.modalities == []


def test_openke(openke):
    data = MMKGFolder(str(openke))[0]
    assert in_words(data) == EXPECTED
    assert data['entity'].label == ['zoe', 'ab c', 'ü']


def test_lists_set_the_order(labels):
    (labels / 'entities.txt').write_text('ü\nnew\nzoe\nab c\n')
    (labels / 'relations.txt').write_text('likes\nknows\n')
    data = MMKGFolder(labels)[0]
    assert in_words(data) == EXPECTED
    assert data['entity'].label == ['ü', 'new', 'zoe', 'ab c']
    assert data[EDGE].label == ['likes', 'knows']


def test_inductive_test_and_transforms(labels):
    (labels / 'inductive_test.tsv').write_text('new\tlikes\tzoe\n')

    def mark(data):
        data.marks = data.get('marks', 0) + 1
        return data

    dataset = MMKGFolder(labels, transform=mark, pre_transform=mark)
    assert dataset.split_names == ['train', 'val', 'test', 'inductive_test']
    assert in_words(dataset[0])['inductive_test'] == [('new', 'likes', 'zoe')]
    assert dataset[0].marks == 2


def test_features(openke):
    image = np.arange(6.).reshape(3, 2)
    image[1] = np.nan
    np.save(openke / 'image.npy', image)
    np.save(openke / 'image_mask.npy', np.array([True, False, True]))
    np.save(openke / 'text.npy', np.ones((3, 4), dtype=np.float16))
    save_file({'audio': torch.ones(3, 1), 'audio_mask': torch.tensor([False, True, True]),
               'video': torch.ones(3, 5)}, openke / 'more.safetensors')
    dataset = MMKGFolder(openke)
    store = dataset[0]['entity']
    assert dataset.modalities == ['audio', 'image', 'text', 'video']
    assert store.image.tolist() == [[0, 1], [0, 0], [4, 5]]
    assert store.image_mask.tolist() == [True, False, True]
    assert store.text.dtype == torch.float32
    assert bool(store.text_mask.all())
    assert store.audio.tolist() == [[0], [1], [1]]
    assert store.video.shape == (3, 5)


def test_feature_rows_need_an_order(labels):
    np.save(labels / 'text.npy', np.ones((3, 4)))
    with pytest.raises(FileNotFoundError, match="no file '.*entities.txt', so the order of the row"
                       "s in 'text.npy' is unknown"):
        MMKGFolder(labels)
    (labels / 'entities.txt').write_text('zoe\nab c\nü\n')
    assert MMKGFolder(labels).modalities == ['text']


@pytest.mark.parametrize('name,array,match', [
    ('text', np.ones((4, 2)), r"text.npy: modality 'text' needs one row for each of 3 entities"),
    ('text', np.ones(3), r"text.npy: modality 'text' needs one row for each of 3 entities"),
    ('text', np.array([[1.], [np.nan], [1.]]), r"text.npy: .* NaN or infinite values in 1 rows "
     r".first: row 1, entity 'ab c'"),
    ('text', np.array([[1.], [1.], [np.inf]]), r'text.npy: .* NaN or infinite values in 1 rows'),
    ('text', np.ones((3, 2), dtype=int), r"text.npy: modality 'text' needs floating-point"),
    ('text', np.array([['a'], ['b'], ['c']]), r'text.npy: damaged or no array of numbers'),
    ('text', np.array([[{}], [1], [2]], dtype=object), r'text.npy: damaged or no array .*pickle'),
    ('structure', np.ones((3, 2)), r"structure.npy: modality name 'structure' is kept"),
    ('a b', np.ones((3, 2)), r"a b.npy: modality name 'a b' is not usable"),
])
def test_bad_features(openke, name, array, match):
    np.save(openke / f'{name}.npy', array, allow_pickle=True)
    with pytest.raises(ValueError, match=match):
        MMKGFolder(openke)


def test_bad_mask_and_damaged_files(openke):
    np.save(openke / 'text.npy', np.ones((3, 2)))
    np.save(openke / 'text_mask.npy', np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="text.npy: mask of modality 'text' needs to be boolean"):
        MMKGFolder(openke)
    (openke / 'text_mask.npy').write_bytes(b'')
    with pytest.raises(ValueError, match=r'text_mask.npy: damaged or no array of numbers'):
        MMKGFolder(openke)
    (openke / 'text_mask.npy').unlink()
    content = (openke / 'text.npy').read_bytes()
    (openke / 'text.npy').write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r'text.npy: damaged or no array of numbers'):
        MMKGFolder(openke)
    (openke / 'text.npy').unlink()
    (openke / 'x.safetensors').write_bytes(b'12345678901')
    with pytest.raises(ValueError, match=r'x.safetensors: damaged or no safetensors file'):
        MMKGFolder(openke)


@pytest.mark.parametrize('name,content,match', [
    ('train.tsv', 'a\tb\n', r"train.tsv:1: expected head, relation and tail, .*got 'a\\tb'"),
    ('train.tsv', 'a\tb\tc\n\na b c\n', r'train.tsv:3: expected head, relation and tail'),
    ('train.tsv', 'a\tb\tc\td\n', r'train.tsv:1: expected head, relation and tail'),
    ('train.tsv', 'a\t \tc\n', r'train.tsv:1: expected head, relation and tail'),
    ('train.tsv', '', r"train.tsv: split 'train' is empty"),
    ('valid.tsv', 'Head\tRelation\tTail\n', r"valid.tsv: split 'val' is empty"),
    ('train.tsv', b'a\tb\t\xff\n', r'train.tsv:1: not UTF-8'),
    ('entities.txt', 'zoe\nab c\n', r"train.tsv:3: entity 'ü' is not listed in 'entities.txt'"),
    ('relations.txt', 'likes\n', r"train.tsv:3: relation 'knows' is not listed in 'relations.txt'"),
    ('entities.txt', 'zoe\nü\n\nzoe\n', r"entities.txt:4: 'zoe' occurs twice .first in line 1"),
    ('entities.txt', '\n', r'entities.txt: the file is empty'),
])
def test_bad_labels(labels, name, content, match):
    (labels / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=match):
        MMKGFolder(labels)


def test_bad_openke(openke):
    (openke / 'valid2id.txt').write_text('0\n')
    with pytest.raises(ValueError, match=r"valid2id.txt: split 'val' is empty"):
        MMKGFolder(openke)
    (openke / 'valid2id.txt').unlink()
    with pytest.raises(FileNotFoundError, match="There is no file '.*valid2id.txt'"):
        MMKGFolder(openke)


@pytest.mark.parametrize('name', list(LABELS))
def test_missing_split(labels, name):
    (labels / name).unlink()
    stem = {'valid.tsv': 'val'}.get(name, name[:-4])
    with pytest.raises(FileNotFoundError, match=f"There is no file '.*/{stem}.tsv' .nor"):
        MMKGFolder(labels)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder '.*nowhere'"):
        MMKGFolder(tmp_path / 'nowhere')
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match="There is no folder '.*file'"):
        MMKGFolder(tmp_path / 'file')


@pytest.mark.real_data
def test_published_folder(mirror, tmp_path):
    for name in OPENKE:
        shutil.copy(mirror / 'MKG-Y' / name, tmp_path)
    dataset = MMKGFolder(tmp_path)
    assert (dataset.num_entities, dataset.num_relations) == (15000, 28)
    assert get_triples(dataset[0], 'test')[0].numel() == 2663
