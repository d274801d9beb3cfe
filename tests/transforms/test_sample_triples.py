import pytest
import torch

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import SampleTriples


def triples(data, split='train'):
    return [tuple(row) for row in torch.stack(get_triples(data, split), dim=1).tolist()]


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 1.0])
def test_keeps_a_share_in_order(share):
    data = FakeMMKG()[0]
    before = triples(data)
    out = SampleTriples(share)(data)
    kept = triples(out)
    assert len(kept) == max(1, round(share * len(before)))
    position = iter(before)
    assert all(triple in position for triple in kept)  # A subsequence.
    assert triples(data) == before
    assert triples(out, 'test') == triples(data, 'test')


def test_a_larger_share_keeps_more():
    data = FakeMMKG()[0]
    parts = [triples(SampleTriples(share, seed=3)(data)) for share in (0.2, 0.6, 1.0)]
    for small, large in zip(parts, parts[1:], strict=False):
        assert all(small.count(triple) <= large.count(triple) for triple in small)
    assert parts[0] == triples(SampleTriples(0.2, seed=3)(data))
    assert parts[0] != triples(SampleTriples(0.2, seed=4)(data))


def test_candidates_are_all_where_an_entity_leaves_train():
    data = FakeMMKG()[0]
    data.candidates = 'seen'
    assert SampleTriples(1.0)(data).candidates == 'seen'
    out = SampleTriples(0.1)(data)
    assert seen_entities(out).sum() < seen_entities(data).sum()
    assert out.candidates == 'all'
    assert data.candidates == 'seen'


def test_repr_and_errors():
    assert str(SampleTriples(0.5, seed=2)) == 'SampleTriples(0.5, seed=2)'
    with pytest.raises(ValueError, match=r"'share' needs to be between 0 and 1 \(got 1.5\)"):
        SampleTriples(1.5)
