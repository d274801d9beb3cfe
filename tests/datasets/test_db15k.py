import json
import time

import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples, seen_entities
from pyg_mmkgc.datasets import DB15K
from pyg_mmkgc.datasets.openke import read_names


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


def test_unknown_splits(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown splits 'x' of DB15K .*one of \['official'\]"):
        DB15K(tmp_path, splits='x')


def test_labels():
    dataset = object.__new__(DB15K)
    assert dataset.entity_labels([
        '<http://dbpedia.org/resource/AC/DC>',
        '<http://dbpedia.org/resource/Lady_Gaga>',
        '<http://dbpedia.org/resource/S%C3%A3o_Paulo_(state)>',
    ]) == ['AC/DC', 'Lady Gaga', 'São Paulo (state)']
    assert dataset.relation_labels([
        '<http://dbpedia.org/ontology/birthPlace>',
        '<http://www.w3.org/2000/01/rdf-schema#seeAlso>',
        '<http://dbpedia.org/ontology/type>',
        '<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>',
    ]) == ['birthPlace', 'seeAlso', 'type', 'rdf:type']
    assert dataset.attribute_labels(['http://www.w3.org/2003/01/geo/wgs84_pos#lat']) == ['lat']


@pytest.mark.real_data
def test_declaration_agrees_with_the_sources(mirror):
    sources = json.loads((mirror / 'SOURCES.json').read_text())
    sources = {name: entry for name, entry in sources.items() if name.startswith('DB15K/')}
    assert {f'DB15K/{file.name}' for file in DB15K.files} == set(sources)
    for file in DB15K.files:
        entry = sources[f'DB15K/{file.name}']
        assert file.sha256 == entry['sha256']
        assert f'github {file.repo} @ {file.commit} : {file.path}' in entry['source']
        assert file.optional == ('joined' in entry['source'] or 'rewritten' in entry['source'])


@pytest.mark.real_data
def test_structure_only(mirror, root):
    start = time.perf_counter()
    dataset = DB15K(root, features=None, mirror=mirror)
    assert time.perf_counter() - start < 3
    start = time.perf_counter()
    DB15K(root, features=None)
    assert time.perf_counter() - start < 0.3

    data = dataset[0]
    assert (dataset.num_entities, dataset.num_relations) == (12842, 279)
    assert dataset.modalities == []
    assert [get_triples(data, split)[0].numel() for split in dataset.split_names] == [
        79222, 9904, 9902]
    assert data.candidates == 'all'
    assert int((~seen_entities(data)).sum()) == 12842 - 12785
    labels = data['entity'].label
    assert len(set(labels)) == 12842
    assert len(set(data[EDGE].label)) == 279
    assert not any('<' in label for label in [*labels, *data[EDGE].label])
    names = read_names(mirror / 'DB15K' / 'entity2id.txt')
    assert labels[names.index('<http://dbpedia.org/resource/New_York_City>')] == 'New York City'


@pytest.mark.real_data
def test_triples_in_words(mirror, root):
    data = DB15K(root, features=None, mirror=mirror)[0]
    entity, relation = data['entity'].label, data[EDGE].label
    triples = zip(*(part.tolist() for part in get_triples(data, 'train')), strict=True)
    words = {(entity[h], relation[r], entity[t]) for h, r, t in triples}
    assert ('Alabama', 'country', 'United States') in words


@pytest.mark.real_data
def test_features(mirror, root):
    dataset = DB15K(root, mirror=mirror)
    start = time.perf_counter()
    again = DB15K(root)
    assert time.perf_counter() - start < 0.3
    store = dataset[0]['entity']
    assert dataset.modalities == again.modalities == ['numeric', 'text']
    for key in ['text', 'text_mask', 'numeric', 'numeric_mask']:
        assert torch.equal(store[key], again[0]['entity'][key])

    assert store.text.shape == (12842, 256)
    assert bool(store.text_mask.all())
    assert sum(text is not None for text in store.description) == 12303
    assert len(store.numeric_attribute) == 225
    assert store.numeric.shape == (12842, 450)
    assert int(store.numeric_mask.sum()) == 10947
    value, indicator = store.numeric.split(225, dim=1)
    assert set(indicator.unique().tolist()) == {0.0, 1.0}
    assert int(indicator.sum()) == 47150
    assert float(value.abs().max()) <= 1
    assert float(value[indicator == 0].abs().sum()) == 0
    # Born later, larger; both are dates in the file.
    birth = store.numeric_attribute.index('birthDate')
    early, late = (store.label.index(name) for name in ['Alexander the Great', 'Lady Gaga'])
    assert indicator[[early, late], birth].tolist() == [1, 1]
    assert value[early, birth] < value[late, birth]


@pytest.mark.real_data
def test_neighbours_in_text_share_answers(mirror, root):
    # Of two entities with similar texts, the answers agree far more often than by chance.
    data = DB15K(root, mirror=mirror)[0]
    triples = torch.stack(get_triples(data, 'train'))
    agreement, chance = [], []
    for relation in range(279):
        head_index, _, tail_index = triples[:, triples[1] == relation][:, :1000]
        if head_index.numel() >= 150:
            x = data['entity'].text[head_index]
            score = x @ x.t()
            score[head_index.unsqueeze(0) == head_index.unsqueeze(1)] = -2
            agreement.append((tail_index[score.argmax(dim=1)] == tail_index).float().mean())
            chance.append((tail_index.unsqueeze(0) == tail_index.unsqueeze(1)).float().mean())
    assert len(agreement) > 50
    assert float(torch.stack(agreement).mean()) > 2.5 * float(torch.stack(chance).mean())
