from collections import defaultdict

import pytest
import torch
from scipy.stats import binomtest

from pyg_mmkgc.sampler import Bernoulli


def reference(triples, relation):
    """Tails per head and heads per tail, by dictionaries."""
    tails, heads = defaultdict(set), defaultdict(set)
    for h, r, t in triples:
        if r == relation:
            tails[h].add(t)
            heads[t].add(h)
    if not tails:
        return 0.5
    tph = sum(map(len, tails.values())) / len(tails)
    hpt = sum(map(len, heads.values())) / len(heads)
    return tph / (tph + hpt)


def test_from_triples():
    generator = torch.Generator().manual_seed(0)
    head_index = torch.randint(4, (60, ), generator=generator)
    rel_type = torch.tensor([0, 1, 3]).repeat(20)  # Relation 2 has no triple.
    tail_index = torch.randint(20, (60, ), generator=generator)
    head_index = torch.cat([head_index, head_index[:10]])  # Repeats must not count.
    rel_type = torch.cat([rel_type, rel_type[:10]])
    tail_index = torch.cat([tail_index, tail_index[:10]])
    sampler = Bernoulli.from_triples(head_index, rel_type, tail_index, 20, 4, num_negatives=3,
                                     mode='binary')
    triples = list(zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(), strict=True))
    expected = [reference(triples, relation) for relation in range(4)]
    assert sampler.head_probability[:4].tolist() == pytest.approx(expected)
    assert sampler.head_probability[4:].tolist() == pytest.approx([1 - p for p in expected])
    assert expected[2] == 0.5
    assert expected[0] > 0.6
    assert sampler.num_negatives == 3
    assert sampler.is_binary()
    assert str(sampler) == 'Bernoulli(20, num_negatives=3, num_relations=4)'

    # The last relation without triples is no special case.
    longer = Bernoulli.from_triples(head_index, rel_type, tail_index, 20, 5)
    assert longer.head_probability[:5].tolist() == pytest.approx([*expected, 0.5])
    assert longer.num_negatives == 64
    assert Bernoulli(20, torch.tensor([0.25])).head_probability.dtype == torch.double

    # Counted on the inverse triples, the probabilities are those of the other end.
    inverse = Bernoulli.from_triples(tail_index, rel_type, head_index, 20, 4)
    assert torch.allclose(inverse.head_probability[:4], sampler.head_probability[4:])


def test_one_to_many_replaces_the_head():
    zero = torch.zeros(9, dtype=torch.long)
    sampler = Bernoulli.from_triples(zero, zero, torch.arange(1, 10), 10, 1)
    assert sampler.head_probability.tolist() == pytest.approx([0.9, 0.1])  # tph 9, hpt 1


def test_side_frequencies():
    probability = torch.tensor([0.0, 0.2, 0.7, 1.0])
    sampler = Bernoulli(50, probability, num_negatives=2,
                        generator=torch.Generator().manual_seed(3))
    for relation, p in enumerate([0.0, 0.2, 0.7, 1.0, 1.0, 0.8, 0.3, 0.0]):
        side = sampler.side(torch.full((4000, ), relation))
        assert side.dtype == torch.bool
        assert binomtest(int(side.sum()), 4000, p).pvalue > 1e-3


def test_corrupt_triples_follows_side():
    sampler = Bernoulli(50, torch.tensor([0.0, 1.0]), num_negatives=6)
    index, rel_type = torch.arange(20), torch.arange(20) % 2
    heads, _, tails, _ = sampler.corrupt_triples(index, rel_type, index)
    replaced = rel_type.bool().unsqueeze(-1).expand(20, 6)
    assert torch.equal(heads != index.unsqueeze(-1), replaced)
    assert torch.equal(tails == index.unsqueeze(-1), replaced)


def test_bernoulli_errors():
    with pytest.raises(ValueError, match=r'one value per relation \(got shape \[1, 2\]\)'):
        Bernoulli(5, torch.rand(1, 2))
    for bad in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match=r'values outside \[0, 1\]'):
            Bernoulli(5, torch.tensor([0.5, bad]))
    index = torch.tensor([0, 7])
    zero = torch.zeros(2, dtype=torch.long)
    for args, name in [((index, zero, zero), 'head_index'), ((zero, index, zero), 'rel_type'),
                       ((zero, zero, index), 'tail_index')]:
        with pytest.raises(ValueError, match=f"'{name}' holds id 7"):
            Bernoulli.from_triples(*args, 5, 3)
