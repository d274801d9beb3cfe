import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.datasets import MKGW


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


def test_labels(tmp_path):
    dataset = object.__new__(MKGW)
    dataset.root = str(tmp_path)
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'entity_links.tsv').write_text(
        'http://dbpedia.org/resource/AC/DC\thttp://www.wikidata.org/entity/Q2\n'
        'http://dbpedia.org/resource/Jim_Jones_(rapper)\thttp://www.wikidata.org/entity/Q1\n')
    (tmp_path / 'raw' / 'relation_labels.txt').write_text('cast member\nperformer\n')
    assert dataset.entity_labels(['http://www.wikidata.org/entity/Q1',
                                  'http://www.wikidata.org/entity/Q2']) == [
                                      'Jim Jones (rapper)', 'AC/DC']
    assert dataset.relation_labels(['P161', 'P175']) == ['cast member', 'performer']


@pytest.mark.real_data
def test_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(MKGW, root, mirror)
    assert facts.sizes == (15000, 169)
    assert facts.lines == facts.distinct == {'train': 34196, 'val': 4276, 'test': 4274}
    assert facts.in_train == {'val': 0, 'test': 0}
    assert facts.in_val_and_test == 0
    assert facts.unseen == {'val': 333, 'test': 306}
    assert facts.unseen_relations == [168]
    assert facts.spent == []


@pytest.mark.real_data
def test_words(mirror, root):
    data = MKGW(root, features=None, mirror=mirror)[0]
    entity, relation = data['entity'].label, data[EDGE].label
    assert len(set(entity)) == 15000
    assert relation[:3] == ['cast member', 'screenwriter', 'occupation']
    triples = zip(*(part.tolist() for part in get_triples(data, 'train')), strict=True)
    words = {(entity[h], relation[r], entity[t]) for h, r, t in triples}
    assert ("'71 (film)", 'distributed by', 'StudioCanal') in words


@pytest.mark.real_data
def test_descriptions(mirror, root):
    joined = MKGW(root, mirror=mirror)
    assert joined.modalities == ['text']
    assert bool(joined[0]['entity'].text_mask.all())
    apart = MKGW(root, mirror=mirror, description='modality')
    store = apart[0]['entity']
    assert apart.modalities == ['description', 'text']
    assert int(store.description_mask.sum()) == 2270
    assert store.description_mask.tolist() == [x is not None for x in store.description_text]
    assert not torch.equal(store.text, joined[0]['entity'].text)
