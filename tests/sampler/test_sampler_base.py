import copy
import io
import pickle

import pytest
import torch
from scipy.stats import chisquare
from torch_geometric.sampler import NegativeSampling

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.sampler import EGNS, Bernoulli, SelfAdversarial, TripleNegativeSampling, Uniform
from pyg_mmkgc.testing.no_sync import NoSync

N, R, B, K = 12, 3, 40, 9


def triples(seed=0):
    generator = torch.Generator().manual_seed(seed)
    head_index, tail_index = torch.randint(N, (2, B), generator=generator)
    return head_index, torch.randint(R, (B, ), generator=generator), tail_index


def make(cls, num_negatives=K, seed=1, **kwargs):
    kwargs.setdefault('generator', torch.Generator().manual_seed(seed))
    if cls is Bernoulli:
        return Bernoulli(N, torch.tensor([0.1, 0.5, 0.8]), num_negatives, **kwargs)
    if cls is EGNS:
        kwargs = {'refresh_every': 2, 'quantiles': (0.3, 0.8), 'exploration': 0.2, **kwargs}
    return cls(N, num_negatives, **kwargs)


CLASSES = [Uniform, Bernoulli, SelfAdversarial, EGNS]
all_samplers = pytest.mark.parametrize('cls', CLASSES)


def train(sampler, steps, seed=5):
    """A few steps with scores that depend on nothing but the seed."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for step in range(steps):
        head_index, rel_type, tail_index = triples(step)
        neg_index, mask = sampler.corrupt(head_index, rel_type, tail_index)
        score = 3 * torch.randn(neg_index.size(), generator=generator) + neg_index - 6
        out += [neg_index, mask, sampler.weight(score, mask)]
        sampler.update(neg_index, score, mask)
        out += sampler.corrupt_triples(head_index, rel_type, tail_index)
        out.append(sampler.sample(7, 'src', N))
    return out


@all_samplers
def test_is_pyg_negative_sampling(cls):
    sampler = make(cls, mode='binary', amount=2.5)
    assert isinstance(sampler, TripleNegativeSampling)
    assert isinstance(sampler, NegativeSampling)
    assert NegativeSampling.cast(sampler) is sampler
    assert sampler.is_binary()
    assert not sampler.is_triplet()
    assert sampler.amount == 2.5
    assert make(cls).is_triplet()
    assert make(cls).amount == 1
    assert sampler == sampler
    assert sampler != make(cls, mode='binary', amount=2.5)
    assert len({sampler, sampler}) == 1
    with pytest.raises(ValueError, match="'amount' needs to be"):
        make(cls, amount=1.5)


@all_samplers
def test_number_of_negatives(cls):
    kwargs = {'head_probability': torch.tensor([0.5])} if cls is Bernoulli else {}
    assert cls(N, **kwargs).num_negatives == 64
    neg_index, _ = make(cls, num_negatives=1).corrupt(*triples())
    assert neg_index.size() == (B, 1)


@all_samplers
def test_all_is_made_where_the_triples_are(cls):
    # Another default device would be that of a tensor which is made without one.
    head_index, rel_type, tail_index = triples()
    score = torch.randn(B, K)
    for candidates in (None, torch.arange(0, N, 2)):
        sampler = make(cls, candidates=candidates)
        with torch.device('meta'):
            out = [*sampler.corrupt(head_index, rel_type, tail_index),
                   *sampler.corrupt_triples(head_index, rel_type, tail_index),
                   sampler.side(rel_type), sampler.sample(5, 'dst'), sampler.weight(score)]
            sampler.update(out[0], score, out[1])
        assert all(x.device.type == 'cpu' for x in [*out, *sampler.state_dict().values()])


@all_samplers
@pytest.mark.parametrize('endpoint', ['dst', 'src'])
def test_never_the_original(cls, endpoint):
    sampler = make(cls, num_negatives=2000)
    train(sampler, 4)  # EGNS steers by now.
    head_index, rel_type, tail_index = torch.arange(N), torch.arange(N) % R, torch.arange(N).flip(0)
    neg_index, mask = sampler.corrupt(head_index, rel_type, tail_index, endpoint=endpoint)
    original = tail_index if endpoint == 'dst' else head_index
    assert neg_index.size() == mask.size() == (N, 2000)
    assert neg_index.dtype == torch.long
    assert mask.dtype == torch.bool
    assert mask.all()
    assert not (neg_index == original.unsqueeze(-1)).any()
    for entity, row in zip(original.tolist(), neg_index.tolist(), strict=True):
        assert set(row) == set(range(N)) - {entity}  # All others, the first and last included.


@all_samplers
def test_two_entities_leave_no_choice(cls):
    kwargs = {'head_probability': torch.tensor([0.5])} if cls is Bernoulli else {}
    sampler = cls(2, num_negatives=5, **kwargs)
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 0])
    neg_index, _ = sampler.corrupt(zero, zero, one)
    assert neg_index.tolist() == [[0] * 5, [1] * 5]


@all_samplers
def test_empty_batch(cls):
    sampler = make(cls)
    empty = torch.empty(0, dtype=torch.long)
    neg_index, mask = sampler.corrupt(empty, empty, empty)
    assert neg_index.size() == mask.size() == (0, K)
    score = torch.empty(0, K)
    assert sampler.weight(score, mask).size() == (0, K)
    sampler.update(neg_index, score, mask)


@all_samplers
def test_filter_against_brute_force(cls):
    head_index, rel_type, tail_index = triples(3)
    known = TripleIndex(head_index, rel_type, tail_index, N, R)
    true = set(zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(), strict=True))
    true |= {(t, r + R, h) for h, r, t in true}
    sampler = make(cls, known=known, num_negatives=30)

    # Both directions at once, so that inverse relations are asked for, too.
    heads, rels, tails = (torch.cat([head_index, tail_index]), torch.cat([rel_type, rel_type + R]),
                          torch.cat([tail_index, head_index]))
    for endpoint in ['dst', 'src']:
        neg_index, mask = sampler.corrupt(heads, rels, tails, endpoint=endpoint)
        expected = [[((h, r, e) if endpoint == 'dst' else (e, r, t)) not in true for e in row]
                    for h, r, t, row in zip(heads.tolist(), rels.tolist(), tails.tolist(),
                                            neg_index.tolist(), strict=True)]
        assert mask.tolist() == expected
        assert 0 < (~mask).sum() < mask.numel()

    heads, rels, tails, mask = sampler.corrupt_triples(heads, rels, tails)
    expected = [triple not in true for triple in
                zip(heads.reshape(-1).tolist(), rels.reshape(-1).tolist(),
                    tails.reshape(-1).tolist(), strict=True)]
    assert mask.view(-1).tolist() == expected
    assert not all(expected)


@all_samplers
def test_masked_negatives_have_weight_zero(cls):
    sampler = make(cls)
    score = torch.randn(B, K, requires_grad=True)
    mask = torch.rand(B, K) < 0.7
    mask[0] = False  # A row without any negative left.
    weight = sampler.weight(score, mask)
    assert not weight.requires_grad
    assert weight.size() == (B, K)
    assert (weight[~mask] == 0).all()
    assert (weight[mask] > 0).all()
    assert weight[mask].mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(weight).all()
    assert not sampler.weight(score, torch.zeros_like(mask)).any()
    assert sampler.weight(score).mean().item() == pytest.approx(1, abs=1e-5)


@all_samplers
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float, torch.double])
def test_weight_dtype(cls, dtype):
    weight = make(cls).weight(torch.randn(B, K).to(dtype))
    assert weight.dtype == (torch.double if dtype == torch.double else torch.float)


@all_samplers
def test_corrupt_triples_replaces_one_end(cls):
    sampler = make(cls, num_negatives=20)
    head_index, rel_type, tail_index = triples()
    heads, rels, tails, mask = sampler.corrupt_triples(head_index, rel_type, tail_index)
    assert heads.size() == rels.size() == tails.size() == mask.size() == (B, 20)
    assert torch.equal(rels, rel_type.unsqueeze(-1).expand(B, 20))
    new_head = heads != head_index.unsqueeze(-1)
    new_tail = tails != tail_index.unsqueeze(-1)
    assert (new_head ^ new_tail).all()
    assert torch.equal(new_head.all(dim=-1), new_head.any(dim=-1))  # One end per triple.
    assert 0 < new_head[:, 0].sum() < B


@all_samplers
def test_same_seed_same_draws(cls):
    first, second, other = (train(make(cls, seed=seed), 3) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@all_samplers
def test_state_dict_round_trip(cls):
    sampler = make(cls)
    train(sampler, 3)  # Between two refreshes of EGNS.
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())

    other = make(cls, seed=77)
    other.load_state_dict(state)
    first, second = train(sampler, 4, seed=6), train(other, 4, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # The state is a copy, not a view on what goes on changing.
    assert all(torch.equal(value, torch.load(io.BytesIO(file.getvalue()), weights_only=True)[name])
               for name, value in state.items())


@all_samplers
def test_pickle_and_copy(cls):
    sampler = make(cls)
    train(sampler, 3)
    for other in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        state = sampler.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
        assert torch.equal(other.sample(50, 'dst'), copy.deepcopy(sampler).sample(50, 'dst'))


@all_samplers
def test_no_sync(cls):
    head_index, rel_type, tail_index = triples()
    known = TripleIndex(head_index, rel_type, tail_index, N, R)
    for kwargs in ({}, {'known': known, 'candidates': torch.arange(0, N, 2)}):
        sampler = make(cls, **kwargs)
        score = torch.randn(B, K, requires_grad=True)
        with NoSync():
            for endpoint in ['dst', 'src'] * 2:
                neg_index, mask = sampler.corrupt(head_index, rel_type, tail_index, endpoint)
                loss = (sampler.weight(score, mask) * score).sum()
                loss.backward()
                sampler.update(neg_index, score, mask)
            sampler.corrupt_triples(head_index, rel_type, tail_index)


@all_samplers
def test_candidates(cls):
    candidates = torch.tensor([9, 1, 4, 5, 1])  # Neither sorted nor unique.
    sampler = make(cls, candidates=candidates, num_negatives=100)
    assert sampler.num_candidates == 4
    train(sampler, 4)
    index = torch.arange(N)
    neg_index, _ = sampler.corrupt(index, torch.zeros_like(index), index)
    for entity in range(N):  # Those that may not be drawn stand in triples all the same.
        assert set(neg_index[entity].tolist()) == {1, 4, 5, 9} - {entity}
    assert set(sampler.sample(500, 'dst').tolist()) == {1, 4, 5, 9}

    mask = torch.zeros(N, dtype=torch.bool)
    mask[candidates] = True
    first, second = (make(cls, candidates=c, seed=4).sample(50, 'dst') for c in (candidates, mask))
    assert torch.equal(first, second)


@all_samplers
def test_two_candidates(cls):
    sampler = make(cls, candidates=torch.tensor([3, 11]))
    index = torch.tensor([3, 11])
    neg_index, _ = sampler.corrupt(index, torch.zeros_like(index), index)
    assert neg_index.tolist() == [[11] * K, [3] * K]


@all_samplers
def test_without_generator_uses_global_seed(cls):
    draws = []
    for _ in range(2):
        torch.manual_seed(12)
        sampler = make(cls, generator=None)
        assert 'generator' not in sampler.state_dict()
        draws.append(torch.cat([sampler.sample(20, 'dst'), sampler.corrupt(*triples())[0][0]]))
    assert torch.equal(*draws)


@all_samplers
def test_errors_of_calls(cls):
    sampler = make(cls)
    head_index, rel_type, tail_index = triples()
    with pytest.raises(ValueError, match=r"'num_nodes' is 13, but .* for 12 entities"):
        sampler.sample(3, 'dst', 13)
    with pytest.raises(ValueError, match="Unknown endpoint 'tail'"):
        sampler.sample(3, 'tail')
    with pytest.raises(ValueError, match="Unknown endpoint 'tail'"):
        sampler.corrupt(head_index, rel_type, tail_index, endpoint='tail')
    with pytest.raises(ValueError, match=r'same shape \[B\] \(got \[40\], \[40\] and \[39\]\)'):
        sampler.corrupt(head_index, rel_type, tail_index[1:])
    with pytest.raises(ValueError, match=r'same shape \[B\]'):
        sampler.corrupt_triples(head_index, rel_type[1:], tail_index)


@all_samplers
def test_errors_of_state(cls):
    sampler = make(cls)
    with pytest.raises(ValueError, match=rf"state of {cls.__name__} holds .* \(expected .*'gen"):
        sampler.load_state_dict({'unknown': torch.zeros(1)})
    before = sampler.state_dict()
    for name in sampler._state:
        state = {**before, name: torch.zeros(3, 3)}
        with pytest.raises(ValueError, match=rf"'{name}' in the state .* shape \[3, 3\]"):
            sampler.load_state_dict(state)


@all_samplers
def test_wrong_device(cls):
    sampler = make(cls)
    index = torch.zeros(4, dtype=torch.long, device='meta')
    with pytest.raises(ValueError, match="on 'meta'"):
        sampler.corrupt(index, index, index)


@all_samplers
def test_errors_of_construction(cls):
    with pytest.raises(ValueError, match=r"'num_negatives' needs to be positive \(got 0\)"):
        make(cls, num_negatives=0)
    index = torch.tensor([0])
    with pytest.raises(ValueError, match=r"'known' holds triples of 5 entities \(expected 12\)"):
        make(cls, known=TripleIndex(index, index, index, 5, R))
    with pytest.raises(ValueError, match=r"'candidates' holds id 12 at position 1"):
        make(cls, candidates=torch.tensor([3, 12]))
    with pytest.raises(ValueError, match=r"mask needs shape \[12\] \(got \[3\]\)"):
        make(cls, candidates=torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match=r"needs at least 2 entities \(got 1\)"):
        make(cls, candidates=torch.tensor([3, 3]))
    kwargs = {'head_probability': torch.tensor([0.5])} if cls is Bernoulli else {}
    with pytest.raises(ValueError, match=r"'num_entities' needs to be at least 2.*\(got 1\)"):
        cls(1, **kwargs)


@all_samplers
def test_to(cls):
    head_index, rel_type, tail_index = triples()
    known = TripleIndex(head_index, rel_type, tail_index, N, R)
    sampler = make(cls, known=known, candidates=torch.arange(5))
    assert sampler.to('meta') is sampler
    assert sampler.known.keys.is_meta
    assert sampler.candidates.is_meta
    assert all(getattr(sampler, name).is_meta for name in sampler._state)
    assert not known.keys.is_meta  # It may be somebody else's.


def test_uniform_frequencies():
    sampler = Uniform(N, 5000, generator=torch.Generator().manual_seed(0))
    index = torch.arange(N)
    neg_index, _ = sampler.corrupt(index, index * 0, index)
    for entity in range(N):
        count = torch.bincount(neg_index[entity], minlength=N)
        assert count[entity] == 0
        count = count[torch.arange(N) != entity]
        assert chisquare(count).pvalue > 1e-3
    count = torch.bincount(sampler.sample(20000, 'src', N), minlength=N)
    assert chisquare(count).pvalue > 1e-3
    side = sampler.side(torch.zeros(10000, dtype=torch.long)).long()
    assert chisquare(torch.bincount(side, minlength=2)).pvalue > 1e-3


def test_any_of_many_entities_can_be_drawn():
    # Single precision would draw multiples of 64 alone, and the number of entities itself.
    sampler = Uniform(2**30, 500, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, dtype=torch.long)
    for index in (sampler.sample(500, 'dst'), sampler.corrupt(zero, zero, zero)[0][0]):
        assert chisquare(torch.bincount(index % 64, minlength=64)).pvalue > 1e-3


def test_uniform_frequencies_over_candidates():
    candidates = torch.tensor([2, 3, 7, 10])
    sampler = Uniform(N, 5000, candidates=candidates, generator=torch.Generator().manual_seed(0))
    index = torch.arange(N)
    neg_index, _ = sampler.corrupt(index, index * 0, index)
    for entity in range(N):
        allowed = [c for c in candidates.tolist() if c != entity]
        count = torch.bincount(neg_index[entity], minlength=N)
        assert count[allowed].sum() == 5000
        assert chisquare(count[allowed]).pvalue > 1e-3


def test_uniform_repr():
    assert repr(Uniform(N, 3)) == 'Uniform(12, num_negatives=3)'
    assert Uniform(N).state_dict() == {}
