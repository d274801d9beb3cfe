
import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples, seen_entities
from pyg_mmkgc.datasets import DB15K
from pyg_mmkgc.datasets.openke import read_names
from pyg_mmkgc.transforms import EncodeNumeric


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


def ones(texts):
    return torch.ones(len(texts), 1)


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
def test_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(DB15K, root, mirror)
    assert facts.sizes == (12842, 279)
    assert facts.lines == {'train': 79222, 'val': 9904, 'test': 9902}
    assert facts.distinct == {'train': 79222, 'val': 7481, 'test': 9902}
    assert facts.in_train == {'val': 6584, 'test': 0}
    assert facts.in_val_and_test == 824
    assert facts.unseen == {'val': 3, 'test': 77}
    assert facts.unseen_relations == [40, 124, 171, 194, 272, 274]
    assert facts.spent == ['val']
    data = facts.data
    assert data.candidates == 'all'
    assert int((~seen_entities(data)).sum()) == 12842 - 12785
    labels = data['entity'].label
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
    store = dataset[0]['entity']
    assert dataset.modalities == ['numeric', 'text']
    assert store.text.shape == (12842, 256)
    assert bool(store.text_mask.all())
    assert sum(text is not None for text in store.description_text) == 12303
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
def test_numbers_in_other_ways(mirror, root):
    numeric = EncodeNumeric(scaling='log', num_frequencies=2, min_count=100)
    dataset = DB15K(root, mirror=mirror, encoder=ones, numeric=numeric, description='modality')
    store = dataset[0]['entity']
    assert dataset.modalities == ['description', 'numeric', 'text']
    assert int(store.description_mask.sum()) == 12303
    num_columns = len(store.numeric_attribute)
    assert 20 < num_columns < 225
    # Value, two sines and two cosines each, then the indicators.
    assert store.numeric.shape == (12842, 6 * num_columns)
    indicator = store.numeric[:, -num_columns:]
    assert torch.equal(store.numeric_mask, indicator.any(dim=1))
    assert int(indicator.sum(dim=0).min()) >= 100


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
