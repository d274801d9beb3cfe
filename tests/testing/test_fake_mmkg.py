import time
from collections import Counter

import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples, modality_dicts, seen_entities, split_names
from pyg_mmkgc.testing import FakeMMKG


def rows(data, split):
    return [tuple(row) for row in torch.stack(get_triples(data, split), dim=1).tolist()]


def test_sizes():
    dataset = FakeMMKG(num_entities=50, num_relations=4, modalities={'audio': 3})
    data = dataset[0]
    assert str(dataset) == 'FakeMMKG()'
    assert len(dataset) == 1
    assert (dataset.num_entities, dataset.num_relations) == (50, 4)
    assert dataset.modalities == ['audio']
    assert dataset.split_names == split_names(data) == ['train', 'val', 'test']
    assert data['entity'].audio.shape == (50, 3)
    assert data.candidates == 'all'
    assert len(set(data['entity'].label)) == 50
    assert len(set(data[EDGE].label)) == 4


@pytest.mark.parametrize('inductive', [False, True])
@pytest.mark.parametrize('kwargs', [{}, {'num_entities': 16, 'num_relations': 3},
                                    {'num_triples': 20, 'seed': 7}])
def test_oddities(kwargs, inductive):
    dataset = FakeMMKG(inductive=inductive, **kwargs)
    data = dataset[0]
    train, val, test = (rows(data, split) for split in ['train', 'val', 'test'])
    everything = {e for split in split_names(data) for h, _, t in rows(data, split) for e in (h, t)}

    pairs = Counter((h, t) for h, _, t in set(train))
    assert max(pairs.values()) >= 2  # Parallel relations.
    assert any(h == t for h, _, t in train)  # Self-loops.
    for part in (train, val, test):
        assert len(set(part)) < len(part)  # Repeats within a split.
    assert set(train) & set(val)
    assert set(train) & set(test)
    assert set(val) & set(test)

    seen = seen_entities(data)
    in_train = {e for h, _, t in train for e in (h, t)}
    assert in_train == set(seen.nonzero().view(-1).tolist())
    special = {dataset.isolated_entity, dataset.test_only_entity, *dataset.twins}
    assert in_train == set(range(dataset.num_entities)) - special - set(dataset.held_out)
    assert dataset.bare_entity in in_train
    assert not {dataset.isolated_entity, *dataset.twins} & everything
    assert dataset.test_only_entity in {e for h, _, t in test for e in (h, t)}
    assert dataset.test_only_entity not in {e for h, _, t in train + val for e in (h, t)}
    assert dataset.unseen_relation not in {r for _, r, _ in train + val}
    assert dataset.unseen_relation in {r for _, r, _ in test}

    x_dict, mask_dict = modality_dicts(data)
    first, second = dataset.twins
    for name, x in x_dict.items():
        assert not mask_dict[name][dataset.bare_entity]
        assert mask_dict[name][dataset.isolated_entity]
        assert torch.equal(x[first], x[second])
        assert float(x[first].norm()) > 0
        assert 0 < int(mask_dict[name].sum()) < dataset.num_entities


def test_inductive():
    dataset = FakeMMKG(inductive=True)
    data = dataset[0]
    assert split_names(data) == ['train', 'val', 'test', 'inductive_test']
    new = set(dataset.held_out)
    assert len(new) == 4
    for split in ['train', 'val', 'test']:
        assert not new & {e for h, _, t in rows(data, split) for e in (h, t)}
    for h, _, t in rows(data, 'inductive_test'):
        assert h in new or t in new
    for mask in modality_dicts(data)[1].values():
        assert bool(mask[list(new)].all())
    assert FakeMMKG().held_out == ()


def test_clusters_can_be_learnt():
    dataset = FakeMMKG(num_entities=200, num_relations=3)
    data = dataset[0]
    triples = [t for t in rows(data, 'val') if t[0] != t[2]]
    right = sum((h + r + 1 - t) % 4 == 0 for h, r, t in triples)
    assert right >= len(triples) - 2
    x, mask = data['entity'].image, data['entity'].image_mask
    means = torch.stack([x[c::4][mask[c::4]].mean(dim=0) for c in range(4)])
    nearest = torch.cdist(x, means).argmin(dim=1)
    assert float((nearest == torch.arange(200) % 4)[mask].float().mean()) > 0.9


def test_seed():
    a, b, c = FakeMMKG(seed=1)[0], FakeMMKG(seed=1)[0], FakeMMKG(seed=2)[0]
    assert torch.equal(a[EDGE].edge_index, b[EDGE].edge_index)
    assert torch.equal(a['entity'].text, b['entity'].text)
    assert not torch.equal(a[EDGE].edge_index, c[EDGE].edge_index)
    assert not torch.equal(a['entity'].text, c['entity'].text)


def test_no_modality_and_coverage():
    assert modality_dicts(FakeMMKG(modalities={})[0]) == ({}, {})
    dataset = FakeMMKG(coverage=0.0)
    assert int(dataset[0]['entity'].text_mask.sum()) == 3  # The twins and the isolated one.


def test_fast():
    start = time.process_time()
    FakeMMKG()
    assert time.process_time() - start < 1


@pytest.mark.parametrize('kwargs,match', [
    ({'num_entities': 15}, "'num_entities' needs to be at least 16 .got 15"),
    ({'num_relations': 2}, "'num_relations' needs to be at least 3 .got 2"),
    ({'num_triples': 1}, "'num_triples' needs to be at least 20 .got 1"),
    ({'coverage': 1.5}, "'coverage' needs to be between 0 and 1 .got 1.5"),
])
def test_errors(kwargs, match):
    with pytest.raises(ValueError, match=match):
        FakeMMKG(**kwargs)
