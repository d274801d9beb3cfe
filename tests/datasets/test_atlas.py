import json
import time

import pytest
import torch
from torch_geometric.data import InMemoryDataset

from pyg_mmkgc.data import EDGE, build_index, get_triples, modality_names, seen_entities
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.datasets.atlas import FOLDER

SPLITS = ['train', 'val', 'test', 'inductive_test']


@pytest.fixture(scope='module')
def dataset():
    return Atlas()


def read(name):
    return [line.split('\t') for line in (FOLDER / name).read_text('utf-8').splitlines()]


def test_behaves_as_a_dataset(dataset):
    assert isinstance(dataset, InMemoryDataset)
    assert str(dataset) == 'Atlas()'
    assert len(dataset) == 1
    assert dataset.split_names == SPLITS
    assert dataset.num_entities == len(dataset[0]['entity'].label)
    assert dataset.num_relations == len(dataset[0][EDGE].label) == 11
    assert dataset.modalities == ['image', 'numeric', 'outline', 'text']
    dataset[0].validate()
    with pytest.raises(IndexError):
        dataset[1]


def test_transform():
    def transform(data):
        data.changed = True
        return data

    dataset = Atlas(transform=transform)
    assert dataset[0].changed
    assert 'changed' not in Atlas()[0]


def test_triples_are_those_of_the_files(dataset):
    data = dataset[0]
    entity, relation = data['entity'].label, data[EDGE].label
    for split in SPLITS:
        triples = zip(*(part.tolist() for part in get_triples(data, split)), strict=True)
        assert [[entity[h], relation[r], entity[t]] for h, r, t in triples] == read(f'{split}.tsv')


def test_facts(dataset):
    data = dataset[0]
    entity_id = {label: i for i, label in enumerate(data['entity'].label)}
    rel_id = {label: i for i, label in enumerate(data[EDGE].label)}
    index = build_index(data)

    def known(h, r, t):
        return bool(index.contains(*(torch.tensor([i])
                                     for i in (entity_id[h], rel_id[r], entity_id[t]))))

    assert known('France', 'official_language', 'French')
    assert known('France', 'borders', 'Spain')
    assert known('Japan', 'uses_currency', 'Japanese Yen')
    assert not known('France', 'borders', 'Japan')
    assert data['entity'].type[entity_id['France']] == 'country'
    assert data['entity'].code[entity_id['France']] == 'FR'
    assert len(data['entity'].type) == len(data['entity'].code) == dataset.num_entities
    assert len(data[EDGE].description) == 11


def test_splits(dataset):
    data = dataset[0]
    assert data.candidates == 'seen'
    seen = seen_entities(data)
    keys = []
    for split in SPLITS:
        head_index, rel_type, tail_index = get_triples(data, split)
        keys += list(zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(), strict=True))
        both = seen[head_index] & seen[tail_index]
        assert bool((~both if split == 'inductive_test' else both).all())
    assert len(set(keys)) == len(keys)


def test_modalities(dataset):
    data = dataset[0]
    country = torch.tensor([t == 'country' for t in data['entity'].type])
    for name in modality_names(data):
        x, mask = data['entity'][name], data['entity'][f'{name}_mask']
        assert x.dtype == torch.float32
        assert float(x[~mask].abs().sum()) == 0
        assert float(x[mask].abs().sum()) > 0
        assert bool(mask.all()) if name == 'text' else not bool(mask[~country].any())
    assert data['entity'].text.shape == (dataset.num_entities, 384)


def test_info(dataset):
    info = dataset.info
    assert sorted(info['modalities']) == dataset.modalities
    unseen = ~seen_entities(dataset[0])
    assert bool(unseen[info['held_out']].all())


@pytest.mark.parametrize('kind', ['image', 'outline'])
def test_thumbnail(dataset, kind):
    labels = dataset[0]['entity'].label
    png = dataset.thumbnail(labels.index('France'), kind)
    assert png.startswith(b'\x89PNG\r\n\x1a\n')
    assert png != dataset.thumbnail(labels.index('Spain'), kind)
    assert dataset.thumbnail(labels.index('French'), kind) is None


def test_thumbnail_errors(dataset):
    with pytest.raises(ValueError, match=r"Unknown kind 'flag' .*\['image', 'outline'\]"):
        dataset.thumbnail(0, 'flag')
    for entity in [-1, dataset.num_entities]:
        with pytest.raises(ValueError, match=f"'entity' needs to be an id .*got {entity}"):
            dataset.thumbnail(entity)


def test_fast_and_small():
    start = time.process_time()
    Atlas()
    assert time.process_time() - start < 1
    # Features and what encodes new ones; then triples, names and thumbnails as well.
    assert sum(p.stat().st_size for p in FOLDER.glob('*.safetensors')) <= 2 * 1024**2
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) <= 2.5 * 1024**2
    json.loads((FOLDER / 'modalities.json').read_text('utf-8'))
