import pytest

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.datasets import MKGY


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


def test_labels():
    dataset = object.__new__(MKGY)
    assert dataset.entity_labels(['Clyde_Bruckman', 'Westbury,_New_York']) == [
        'Clyde Bruckman', 'Westbury, New York']
    assert dataset.relation_labels(['wasBornIn']) == ['wasBornIn']


@pytest.mark.real_data
def test_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(MKGY, root, mirror)
    assert facts.sizes == (15000, 28)
    assert facts.lines == facts.distinct == {'train': 21310, 'val': 2665, 'test': 2663}
    assert facts.in_train == {'val': 0, 'test': 0}
    assert facts.in_val_and_test == 0
    assert facts.unseen == {'val': 400, 'test': 388}
    assert facts.unseen_relations == []
    assert facts.spent == []


@pytest.mark.real_data
def test_words(mirror, root):
    data = MKGY(root, features=None, mirror=mirror)[0]
    entity, relation = data['entity'].label, data[EDGE].label
    assert len(set(entity)) == 15000
    triples = zip(*(part.tolist() for part in get_triples(data, 'train')), strict=True)
    words = {(entity[h], relation[r], entity[t]) for h, r, t in triples}
    assert ('Gilles Mbang Ondo', 'wasBornIn', 'Libreville') in words


@pytest.mark.real_data
def test_descriptions(mirror, root):
    dataset = MKGY(root, mirror=mirror, description='modality')
    assert dataset.modalities == ['description', 'text']
    assert int(dataset[0]['entity'].description_mask.sum()) == 1562
    assert bool(dataset[0]['entity'].text_mask.all())
