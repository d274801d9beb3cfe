import json

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import (
    MemoryMapped,
    add_entities,
    get_triples,
    memory_map,
    modality_dicts,
    read_features,
    seen_entities,
    split_names,
)
from pyg_mmkgc.testing import FakeMMKG

CHANNELS = {'image': 8, 'numeric': 4, 'text': 6}


@pytest.fixture
def data():
    return FakeMMKG()[0]


def test_add_entities(data):
    features = {'text': torch.ones(2, 6), 'image': torch.full((2, 8), 2.0)}
    masks = {'image': torch.tensor([False, True])}
    data['entity'].code = type(data['entity'].label)(f'c{i}' for i in range(40))
    data['entity'].degree = torch.zeros(40)
    before = {m: x.clone() for m, x in modality_dicts(data)[0].items()}
    out = add_entities(data, ['new', 'newer'], features, masks)
    assert data['entity'].num_nodes == 40
    assert len(data['entity'].label) == 40
    assert out['entity'].num_nodes == 42
    assert out['entity'].label[38:] == ['entity 38', 'entity 39', 'new', 'newer']
    assert out['entity'].code[39:] == ['c39', None, None]
    assert 'degree' not in out['entity']
    x_dict, mask_dict = modality_dicts(out)
    for m, x in before.items():
        assert torch.equal(x_dict[m][:40], x)
        assert torch.equal(modality_dicts(data)[0][m], x)
    assert x_dict['image'][40:].tolist() == [[0.0] * 8, [2.0] * 8]
    assert mask_dict['image'][40:].tolist() == [False, True]
    assert mask_dict['text'][40:].all()
    assert not mask_dict['numeric'][40:].any()
    assert not seen_entities(out)[40:].any()
    for split in split_names(data):
        assert all(map(torch.equal, get_triples(out, split), get_triples(data, split)))


def test_add_entities_to_features_in_a_file(data, tmp_path):
    np.save(tmp_path / 'x.npy', data['entity'].text.numpy())
    expected = data['entity'].text
    data['entity'].text = memory_map(tmp_path / 'x.npy')
    out = add_entities(data, ['new'], {'text': torch.ones(1, 6)})
    assert torch.equal(out['entity'].text[:40], expected)
    assert isinstance(data['entity'].text, MemoryMapped)


@pytest.mark.parametrize('labels, features, masks, match', [
    (['entity 3'], {'text': torch.ones(1, 6)}, None, "new entity 'entity 3' is in the graph"),
    (['a', 'a'], {'text': torch.ones(2, 6)}, None, "new entity 'a' is in the graph already"),
    (['a', 'b'], {'text': torch.ones(1, 6)}, None, r"is of 1 entities \(expected 2"),
    (['a'], {}, None, r"'features' is empty \(expected some of \['image', 'numeric', 'text'\]\)"),
    (['a'], {'img': torch.ones(1, 6)}, None, "Unknown modality 'img' of a new entity .expected"),
    (['a'], {'text': torch.ones(1, 6)}, {'image': torch.ones(1) > 0}, "Unknown modality 'image'"),
    (['a'], {'text': torch.ones(6)}, None, r"shape \[n, 6\] \(got torch.float32, \[6\]\)"),
    (['a'], {'text': torch.ones(1, 5)}, None, r"shape \[1, 6\] \(got torch.float32, \[1, 5\]\)"),
    (['a'], {'text': torch.ones(1, 6).long()}, None, r"'text' of new .* \(got torch.int64"),
    (['a'], {'text': torch.ones(1, 6), 'image': torch.ones(2, 8)}, None, r"shape \[1, 8\]"),
    (['a'], {'text': torch.ones(1, 6)}, {'text': torch.ones(1)}, 'mask .* to be boolean of shape'),
    (['a'], {'text': torch.full((1, 6), float('nan'))}, None, 'NaN or infinite'),
])
def test_what_does_not_fit(data, labels, features, masks, match):
    with pytest.raises(ValueError, match=match):
        add_entities(data, labels, features, masks)


@pytest.mark.parametrize('suffix', ['.npz', '.json', '.csv'])
def test_read_features(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    if suffix == '.npz':
        np.savez(path, text=np.array([1, 2.5]), image=np.array([[3.0]]))
    elif suffix == '.json':
        path.write_text(json.dumps({'text': [1, 2.5], 'image': [[3]]}))
    else:
        path.write_text('text,1,2.5\n\nimage, 3\n')
    out = read_features(path)
    assert {m: x.tolist() for m, x in out.items()} == {'text': [[1, 2.5]], 'image': [[3]]}
    assert all(x.dtype == torch.float32 for x in out.values())


@pytest.mark.parametrize('name, content, match', [
    ('x.txt', '', r"x.txt: expected a file of features, one of \['.csv', '.json', '.npz'\]"),
    ('x.npz', 'no', 'x.npz: damaged or no npz archive'),
    ('x.json', '{', 'x.json: expected JSON'),
    ('x.json', '[1]', r'x.json: expected a mapping from modalities .* \(got list\)'),
    ('x.json', '{"a": "b"}', "x.json: expected numbers of modality 'a'"),
    ('x.json', '{"a": [[1, 2], [3, 4]]}', r"one vector of modality 'a' \(got shape \[2, 2\]\)"),
    ('x.json', '{}', 'x.json: expected at least one modality'),
    ('x.csv', 'a,1\nb,x\n', "x.csv:2: expected numbers of modality 'b'"),
    ('x.csv', 'a,1\na,2\n', "x.csv:2: modality 'a' occurs twice"),
    ('x.csv', 'a\n', r"x.csv:1: expected one vector of modality 'a' \(got shape \[0\]\)"),
])
def test_unreadable_features(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=match):
        read_features(tmp_path / name)


def test_pickled_features_are_refused(tmp_path):
    np.savez(tmp_path / 'x.npz', text=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match='x.npz: damaged or no npz archive'):
        read_features(tmp_path / 'x.npz')
    with pytest.raises(FileNotFoundError, match='There is no file'):
        read_features(tmp_path / 'y.npz')
