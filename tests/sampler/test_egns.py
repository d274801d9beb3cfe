import math
import multiprocessing

import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.sampler.egns import MAX_ENTROPY
from pyg_mmkgc.testing.no_sync import NoSync

N = 10


def slow_entropy(score):
    """From the probability, in Python's double precision."""
    p = 1 / (1 + math.exp(-score))
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def slow_probability(sampler):
    """The stated drawing probability of each entity."""
    mass = [math.exp(h / sampler.temperature) for h in sampler.running_entropy.tolist()]
    return [(1 - sampler.exploration) * m / sum(mass) + sampler.exploration / N for m in mass]


def steered(seed=0, entropy=None, **kwargs):
    """A sampler whose entities have different running entropies."""
    generator = torch.Generator().manual_seed(seed)
    sampler = EGNS(N, generator=generator, **kwargs)
    sampler.running_entropy.copy_(torch.linspace(0, MAX_ENTROPY, N) if entropy is None else entropy)
    sampler.refresh()
    return sampler


# Entropy and classes #########################################################


def test_entropy_against_formula():
    score = torch.linspace(-30, 30, 601, dtype=torch.double)
    expected = torch.tensor([slow_entropy(s) for s in score.tolist()], dtype=torch.double)
    assert torch.allclose(EGNS.entropy(score), expected, rtol=1e-9, atol=1e-13)
    # Far out the probability rounds to one in the reference, so take it from the negative side.
    assert EGNS.entropy(torch.tensor([-50., 50.]).double()).tolist() == pytest.approx(
        [51 * math.exp(-50)] * 2, rel=1e-9)
    assert torch.allclose(EGNS.entropy(score.float()).double(), expected, rtol=1e-5, atol=1e-12)


def test_entropy_of_extreme_scores():
    inf = math.inf
    for dtype in (torch.float, torch.double):
        score = torch.tensor([0., 1e-8, 88, -88, 1e4, -1e4, 1e30, -1e30, inf, -inf], dtype=dtype)
        entropy = EGNS.entropy(score)
        assert torch.isfinite(entropy).all()
        assert entropy[0].item() == pytest.approx(math.log(2), rel=1e-6)
        assert (entropy[4:] == 0).all()
        assert ((entropy >= 0) & (entropy <= MAX_ENTROPY)).all()
        assert entropy[2] == entropy[3]
        assert entropy[2].item() == pytest.approx(89 * math.exp(-88), rel=1e-3, abs=1e-45)
    assert EGNS.entropy(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize('dtype', [torch.float, torch.double])
def test_class_borders(dtype):
    score = torch.tensor([-6., -5, -3, -2, -1, 0], dtype=dtype)
    entropy = EGNS.entropy(score).tolist()
    assert entropy == sorted(entropy)
    # A border itself belongs to the class above it.
    sampler = EGNS(N, thresholds=(entropy[2], entropy[4]))
    assert sampler.classify(score).tolist() == [0, 0, 1, 1, 2, 2]
    assert sampler.classify(score).dtype == torch.int8
    sampler = EGNS(N, thresholds=(entropy[2], entropy[4]), class_weights=(0, 1, 2),
                   normalize=False)
    assert sampler.weight(score).tolist() == [0, 0, 1, 1, 2, 2]
    above = math.nextafter(entropy[2], 1) if dtype == torch.double else entropy[2] * (1 + 2e-7)
    sampler = EGNS(N, thresholds=(above, entropy[4] * (1 + 2e-7)))
    assert sampler.classify(score).tolist() == [0, 0, 0, 1, 1, 2]

    assert EGNS(N, thresholds=(0, 0)).classify(score).tolist() == [2] * 6
    sampler = EGNS(N, thresholds=(0, MAX_ENTROPY))
    assert sampler.classify(score).tolist() == [1, 1, 1, 1, 1, 2]


def test_default_thresholds_are_what_they_say():
    probability = torch.tensor([0.045, 0.055, 0.19, 0.21])
    assert EGNS(N).classify(probability.logit()).tolist() == [0, 1, 1, 2]


def test_weights():
    score = torch.tensor([[-9., -9, -2, 0], [-9, -9, -9, -9]])  # Classes 0, 0, 1, 2 and 0.
    weights = (0.1, 0.7, 1.9)
    sampler = EGNS(N, class_weights=weights, normalize=False)
    expected = torch.tensor([weights])[0][sampler.classify(score).long()]
    assert torch.equal(sampler.weight(score), expected)
    assert expected[0].tolist() == pytest.approx([0.1, 0.1, 0.7, 1.9])

    mask = torch.tensor([[False, True, True, True], [True, True, True, False]])
    assert torch.equal(sampler.weight(score, mask), expected * mask)
    mean = (0.1 + 0.7 + 1.9 + 3 * 0.1) / 6
    sampler = EGNS(N, class_weights=weights)
    assert torch.allclose(sampler.weight(score, mask), expected * mask / mean)


def test_weight_zero_for_easy():
    score = torch.tensor([[-9., -9], [-9, 0]])
    sampler = EGNS(N, class_weights=(0, 0, 1))
    assert sampler.weight(score).tolist() == [[0, 0], [0, 4]]
    assert sampler.weight(score[:1]).tolist() == [[0, 0]]  # Nothing to normalise by.


def test_confident_options():
    # Just below and above p = 0.9, then far above. The entropy at 0.9 is ambiguous.
    probability = torch.tensor([[0.899, 0.901, 0.99999]])
    score = probability.logit()
    samplers = {c: EGNS(N, confident=c, normalize=False) for c in ('hard', 'drop', 'entropy')}
    classes = {c: s.classify(score)[0].tolist() for c, s in samplers.items()}
    assert classes == {'hard': [1, 2, 2], 'drop': [1, 1, 0], 'entropy': [1, 1, 0]}
    weights = {c: s.weight(score)[0].tolist() for c, s in samplers.items()}
    assert weights == {'hard': [1, 2, 2], 'drop': [1, 0, 0], 'entropy': [1, 1, 0.5]}

    neg_index = torch.tensor([[0, 1, 2]])
    for sampler in samplers.values():
        sampler.update(neg_index, score)
    moved = {c: (s.running_entropy < MAX_ENTROPY - 1e-6)[:3].tolist() for c, s in samplers.items()}
    assert moved == {'hard': [True, False, False], 'drop': [True, False, False],
                     'entropy': [True, True, True]}
    counts = {c: s.count[:3].tolist() for c, s in samplers.items()}
    assert counts == {'hard': [1, 1, 1], 'drop': [1, 0, 0], 'entropy': [1, 1, 1]}

    # A dropped negative does not enter the mean of normalised weights either.
    assert EGNS(N, confident='drop').weight(score).tolist() == [[1, 0, 0]]
    assert EGNS(N, confident='drop').weight(score[:, 1:]).tolist() == [[0, 0]]
    # The bound is an option, and it looks at one side only.
    sampler = EGNS(N, confident_bound=0.99, normalize=False)
    assert sampler.weight(score)[0].tolist() == [1, 1, 2]
    assert EGNS(N, normalize=False).weight(-score)[0].tolist() == [1, 1, 0.5]
    sampler = EGNS(N, confident='drop', confident_bound=0.5, normalize=False)
    assert sampler.weight(torch.tensor([[0.0, 0.1]])).tolist() == [[2, 0]]  # One half is not above.


# Statistics ##################################################################


@pytest.mark.parametrize('confident', ['hard', 'drop', 'entropy'])
def test_running_entropy_against_slow_loop(confident):
    generator = torch.Generator().manual_seed(1)
    sampler = EGNS(N, 6, momentum=0.3, confident=confident)
    running, counts = [math.log(2)] * N, [0] * N
    for _ in range(5):
        neg_index = torch.randint(N - 1, (7, 6), generator=generator)  # The last is never drawn.
        score = 4 * torch.randn(7, 6, generator=generator)
        mask = torch.rand(7, 6, generator=generator) < 0.6
        sampler.update(neg_index, score, mask)

        found = {}
        for e, s, m in zip(neg_index.view(-1).tolist(), score.view(-1).tolist(),
                           mask.view(-1).tolist(), strict=True):
            confidently = 1 / (1 + math.exp(-s)) > 0.9
            if m and not (confidently and confident == 'drop'):
                value = math.log(2) if confidently and confident == 'hard' else slow_entropy(s)
                found.setdefault(e, []).append(value)
        for e, values in found.items():
            running[e] = 0.7 * running[e] + 0.3 * sum(values) / len(values)
            counts[e] += len(values)
    assert sampler.running_entropy.tolist() == pytest.approx(running, abs=1e-6)
    assert sampler.count.tolist() == counts
    assert counts[-1] == 0
    assert sampler.num_updates == 5


def test_update_without_mask():
    first, second = EGNS(N, quantiles=(0.2, 0.8)), EGNS(N, quantiles=(0.2, 0.8))
    neg_index, score = torch.randint(N, (5, 4)), torch.randn(5, 4)
    first.update(neg_index, score)
    second.update(neg_index, score, torch.ones(5, 4, dtype=torch.bool))
    assert not torch.equal(first.running_entropy, EGNS(N).running_entropy)
    assert torch.equal(first.running_entropy, second.running_entropy)
    assert torch.equal(first.threshold, second.threshold)


def test_update_makes_nothing_of_the_size_of_the_graph():
    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            state = {x.data_ptr() for x in (sampler.running_entropy, sampler.count, sampler._sums)}
            if isinstance(out, torch.Tensor) and out.data_ptr() not in state:
                sizes.append(out.numel())
            return out

    sampler, sizes = EGNS(10**4, quantiles=(0.2, 0.8)), []
    neg_index = torch.randint(10**4, (5, 4))
    with Sizes():
        sampler.update(neg_index, torch.randn(5, 4))
    assert len(sizes) > 10
    assert max(sizes) == 5 * 4 * 2  # Sum and number for each negative.
    assert sampler._sums.count_nonzero() == 0


def test_update_leaves_masked_and_broken_scores_out():
    sampler = EGNS(N, quantiles=(0.5, 0.5), refresh_every=1)
    neg_index = torch.tensor([[0, 0, 1, 2]])
    score = torch.tensor([[-1., math.nan, math.nan, 5.]])
    sampler.update(neg_index, score, torch.tensor([[True, True, True, False]]))
    entropy = slow_entropy(-1)
    assert sampler.running_entropy[0].item() == pytest.approx(0.9 * math.log(2) + 0.1 * entropy)
    assert sampler.running_entropy[1:].tolist() == pytest.approx([math.log(2)] * (N - 1))
    assert sampler.threshold.tolist() == pytest.approx([entropy] * 2)
    assert torch.isfinite(sampler.node_weight).all()

    state = sampler.state_dict()
    sampler.update(neg_index, score, torch.zeros(1, 4, dtype=torch.bool))  # Nothing is left.
    for name in ('running_entropy', 'count', 'threshold', 'node_weight'):
        assert torch.equal(getattr(sampler, name), state[name])


def test_statistics_after_a_move():
    sampler, moved = EGNS(N), EGNS(N).to('cpu')
    for each in (sampler, moved):
        each.update(torch.tensor([[1, 2]]), torch.tensor([[3.0, -1.0]]))
    assert moved.running_entropy.equal(sampler.running_entropy)
    assert moved.count.sum() == 2


def test_quantiles_of_one_negative():
    sampler, score = EGNS(N, quantiles=(0.2, 0.8)), torch.tensor([[2.0]])
    sampler.update(torch.tensor([[1]]), score)
    assert sampler.threshold.tolist() == pytest.approx([sampler.entropy(score).item()] * 2)


def test_quantiles():
    generator = torch.Generator().manual_seed(2)
    sampler = EGNS(N, thresholds=(0.1, 0.6), quantiles=(0.25, 0.9), momentum=0.2,
                   confident='entropy')
    assert sampler.threshold.tolist() == [0.1, 0.6]  # Until the first update.
    expected = None
    for _ in range(4):
        score = 3 * torch.randn(9, 5, generator=generator)
        mask = torch.rand(9, 5, generator=generator) < 0.7
        # The weights of a batch come from earlier batches.
        before = sampler.threshold.clone()
        sampler.weight(score, mask)
        assert torch.equal(sampler.threshold, before)
        sampler.update(torch.randint(N, (9, 5), generator=generator), score, mask)
        q = torch.quantile(EGNS.entropy(score[mask]).double(), torch.tensor([0.25, 0.9]).double())
        expected = q if expected is None else 0.8 * expected + 0.2 * q
        assert torch.allclose(sampler.threshold, expected, atol=1e-6)

    # On one batch the classes have the sizes that the quantiles ask for.
    sampler = EGNS(N, quantiles=(0.5, 0.8), confident='entropy')
    score = -torch.rand(20, 50, generator=generator) * 8
    sampler.update(torch.randint(N, (20, 50), generator=generator), score)
    count = torch.bincount(sampler.classify(score).view(-1).long(), minlength=3)
    assert count.tolist() == [500, 300, 200]


def test_quantile_threshold_stays_reachable():
    sampler = EGNS(N, quantiles=(0.5, 1.0), momentum=0.37)
    for _ in range(20):
        sampler.update(torch.randint(N, (4, 4)), torch.zeros(4, 4))
        assert (sampler.classify(torch.zeros(4, 4)) == 2).all()


# Drawing #####################################################################


def test_node_weights_are_the_stated_probabilities():
    sampler = steered(exploration=0.3, temperature=0.15)
    assert sampler.node_weight.tolist() == pytest.approx(slow_probability(sampler))
    assert sampler.src_weight is sampler.dst_weight is sampler.node_weight
    assert sampler.node_weight.sum().item() == pytest.approx(1)
    assert sampler.node_weight.min() >= 0.3 / N
    assert sampler.cumulative.dtype == torch.double
    assert EGNS(N).node_weight.tolist() == pytest.approx([1 / N] * N)  # Uniform at first.


def test_refresh_every():
    sampler = EGNS(N, refresh_every=3)
    before = sampler.node_weight.clone()
    for step in range(1, 7):
        sampler.update(torch.tensor([[1, 2]]), torch.tensor([[-8., -step]]))
        assert torch.equal(sampler.node_weight, before) == (step % 3 != 0)
        if step % 3 == 0:
            assert sampler.node_weight.tolist() == pytest.approx(slow_probability(sampler))
            before = sampler.node_weight.clone()
    assert sampler.node_weight[1] < sampler.node_weight[2] < sampler.node_weight[0]


def test_sample_frequencies():
    sampler = steered()
    count = torch.bincount(sampler.sample(40000, 'dst', N), minlength=N)
    expected = torch.tensor(slow_probability(sampler)) * 40000
    assert chisquare(count, expected).pvalue > 1e-3
    assert (count > 0).all()
    assert chisquare(count).pvalue < 1e-6  # The test would notice uniform draws.


@pytest.mark.parametrize('endpoint', ['dst', 'src'])
def test_corrupt_frequencies(endpoint):
    sampler = steered(num_negatives=20000)
    index, other = torch.arange(N), torch.zeros(N, dtype=torch.long)
    triple = (other, other, index) if endpoint == 'dst' else (index, other, other)
    neg_index, _ = sampler.corrupt(*triple, endpoint=endpoint)
    probability = slow_probability(sampler)
    for entity in range(N):
        count = torch.bincount(neg_index[entity], minlength=N).tolist()
        assert count.pop(entity) == 0
        expected = [p / (1 - probability[entity]) * 20000 for p in probability]
        expected.pop(entity)
        assert chisquare(count, expected).pvalue > 1e-3
        assert min(count) > 0


def test_candidate_frequencies():
    candidates = torch.tensor([0, 4, 9])
    sampler = steered(num_negatives=20000, candidates=candidates)
    mass = [math.exp(sampler.running_entropy[c].item() / 0.2) for c in (0, 4, 9)]
    probability = [0.9 * m / sum(mass) + 0.1 / 3 for m in mass]
    assert sampler.node_weight[candidates].tolist() == pytest.approx(probability)
    assert sampler.node_weight.sum().item() == pytest.approx(1)
    index = torch.tensor([4, 5])
    neg_index, _ = sampler.corrupt(index, index * 0, index)
    count = torch.bincount(neg_index[0], minlength=N)[[0, 9]]
    rest = probability[0] + probability[2]
    assert chisquare(count, [20000 * probability[0] / rest, 20000 * probability[2] / rest]
                     ).pvalue > 1e-3
    count = torch.bincount(neg_index[1], minlength=N)[candidates]
    assert chisquare(count, [20000 * p for p in probability]).pvalue > 1e-3


def test_one_entity_has_nearly_all_the_mass():
    entropy = torch.zeros(N)
    entropy[3] = MAX_ENTROPY
    sampler = steered(entropy=entropy, temperature=0.01, exploration=1e-9, num_negatives=9000)
    assert sampler.node_weight[3] > 1 - 1e-8
    index = torch.tensor([3, 0])
    neg_index, _ = sampler.corrupt(index, index * 0, index)
    count = torch.bincount(neg_index[0], minlength=N).tolist()
    assert count.pop(3) == 0
    assert chisquare(count).pvalue > 1e-3  # What is left of the original is uniform.
    assert (neg_index[1] == 3).all()


@pytest.mark.parametrize('candidates', [None, torch.tensor([2, 5, 8])])
@pytest.mark.parametrize('kind', ['uniform', 'rising', 'falling', 'random'])
def test_no_original_at_the_edges_of_a_draw(kind, candidates, monkeypatch):
    entropy = {
        'uniform': torch.ones(N),
        'rising': torch.linspace(0, MAX_ENTROPY, N),
        'falling': torch.linspace(MAX_ENTROPY, 0, N),
        'random': torch.rand(N, generator=torch.Generator().manual_seed(0)),
    }[kind]
    # Draws that stand on, just below and just above each border, where rounding could slip.
    for temperature in (0.01, 0.2, 3):
        sampler = steered(entropy=entropy, temperature=temperature, candidates=candidates)
        border = torch.cat([sampler.cumulative, sampler.cumulative / sampler.cumulative[-1]])
        left = 1 - sampler.node_weight
        border = torch.cat([border, (sampler.cumulative / left.unsqueeze(-1)).view(-1)])
        edges = torch.cat([border, border.nextafter(torch.tensor(0.).double()),
                           border.nextafter(torch.tensor(2.).double())])
        edges = torch.cat([edges, torch.tensor([0, 1 - 2**-53]).double()])
        edges = edges[(edges >= 0) & (edges < 1)]
        sampler.num_negatives = edges.numel()
        monkeypatch.setattr(torch, 'rand', lambda size, edges=edges, **kwargs: edges.expand(size))
        index = torch.arange(N)
        neg_index, _ = sampler.corrupt(index, index * 0, index)
        drawn = sampler.sample(edges.numel(), 'dst')
        monkeypatch.undo()
        assert not (neg_index == index.unsqueeze(-1)).any()
        allowed = set(range(N)) if candidates is None else set(candidates.tolist())
        assert set(neg_index.view(-1).tolist()) == set(drawn.tolist()) == allowed


def test_steering_prefers_uncertain_entities():
    sampler = EGNS(N, 50, generator=torch.Generator().manual_seed(4), refresh_every=1)
    index = torch.zeros(20, dtype=torch.long)
    for _ in range(30):
        neg_index, mask = sampler.corrupt(index, index, index)
        sampler.update(neg_index, torch.where(neg_index == 7, 0.0, -9.0), mask)
    count = torch.bincount(sampler.sample(4000, 'dst'), minlength=N)
    assert count[7] > 1500
    assert (count > 0).all()


# State #######################################################################


def test_reset_parameters():
    sampler = EGNS(N, quantiles=(0.1, 0.5), refresh_every=1)
    fresh = sampler.state_dict()
    sampler.update(torch.randint(N, (5, 5)), torch.randn(5, 5))
    assert not torch.equal(sampler.node_weight, fresh['node_weight'])
    sampler.reset_parameters()
    assert all(torch.equal(value, fresh[name]) for name, value in sampler.state_dict().items())


def test_state_is_rewritten_in_place():
    sampler = EGNS(N, quantiles=(0.1, 0.5), refresh_every=1)
    pointers = {name: getattr(sampler, name).data_ptr() for name in sampler._state}
    sampler.update(torch.randint(N, (5, 5)), torch.randn(5, 5))
    sampler.load_state_dict(sampler.state_dict())
    sampler.reset_parameters()
    assert pointers == {name: getattr(sampler, name).data_ptr() for name in sampler._state}


def _draw_in_process(sampler, go, queue):
    torch.set_num_threads(1)  # A fork has no thread pool; waiting for it would never end.
    go.wait(20)
    queue.put(sampler.sample(500, 'dst').tolist())


def test_share_memory():
    sampler = EGNS(N, temperature=0.01, exploration=1e-6, refresh_every=1, momentum=1)
    assert sampler.share_memory_() is sampler
    assert all(getattr(sampler, name).is_shared() for name in sampler._state)
    assert sampler.src_weight.is_shared()
    context = multiprocessing.get_context('fork')
    go, queue = context.Event(), context.Queue()
    process = context.Process(target=_draw_in_process, args=(sampler, go, queue), daemon=True)
    process.start()
    score = torch.full((1, N), -20.)
    score[0, 6] = 0
    sampler.update(torch.arange(N).unsqueeze(0), score)  # After the process has its copy.
    go.set()
    draws = queue.get(timeout=20)
    process.join(20)
    assert draws.count(6) > 490


def test_to_moves_everything():
    sampler = EGNS(N, candidates=torch.arange(5))
    sampler.to('meta')
    for name in (*sampler._state, 'src_weight', 'dst_weight', 'candidates'):
        assert getattr(sampler, name).is_meta
    sampler = EGNS(N)
    assert sampler.to('cpu') is sampler
    assert sampler.src_weight is sampler.node_weight


def test_training_step_without_sync():
    sampler = EGNS(N, 8, quantiles=(0.3, 0.7), refresh_every=1, confident='drop')
    table = torch.nn.Parameter(torch.randn(N, 4))
    index = torch.arange(N)
    with NoSync():
        for _ in range(2):
            neg_index, mask = sampler.corrupt(index, index * 0, index.flip(0))
            score = (table[index].unsqueeze(1) * table[neg_index]).sum(dim=-1)
            weight = sampler.weight(score, mask)
            (weight * torch.nn.functional.softplus(score)).sum().backward()
            sampler.update(neg_index, score, mask)
            sampler.classify(score)
    assert table.grad.abs().sum() > 0
    assert sampler.num_updates == 2


def test_egns_repr():
    assert str(EGNS(N, 8)) == ("EGNS(10, num_negatives=8, thresholds=(0.2, 0.5), "
                               "class_weights=(0.5, 1.0, 2.0), confident='hard')")
    assert 'quantiles=(0.1, 0.5)' in str(EGNS(N, quantiles=(0.1, 0.5)))


def test_egns_defaults():
    sampler = EGNS(N)
    assert (sampler.momentum, sampler.temperature, sampler.exploration) == (0.1, 0.2, 0.1)
    assert (sampler.refresh_every, sampler.confident_bound, sampler.normalize) == (10, 0.9, True)


@pytest.mark.parametrize('name, value', [
    ('quantiles', (0, 1)), ('class_weights', (1, 1, 1)), ('confident_bound', 0.5),
    ('exploration', 1), ('momentum', 1),
])
def test_ends_of_ranges_are_allowed(name, value):
    assert getattr(EGNS(N, **{name: value}), name) == value


@pytest.mark.parametrize('name, bad, match', [
    ('thresholds', (0.5, 0.2), r"'thresholds' needs two rising values .*\(got \(0\.5, 0\.2\)\)"),
    ('thresholds', (0.5, 0.7), "'thresholds' needs two rising values"),
    ('thresholds', (-0.1, 0.5), "'thresholds' needs two rising values"),
    ('thresholds', (0.1, ), "'thresholds' needs two rising values"),
    ('quantiles', (0.6, 0.2), "'quantiles' needs two rising values"),
    ('quantiles', (0.6, 1.2), "'quantiles' needs two rising values"),
    ('quantiles', (0.1, 0.2, 0.3), "'quantiles' needs two rising values"),
    ('class_weights', (1, 0.5, 2), r"'class_weights' needs three .*\(got \(1, 0\.5, 2\)\)"),
    ('class_weights', (-1, 0.5, 2), "'class_weights' needs three weights"),
    ('class_weights', (0, 0, 0), "'class_weights' needs three weights"),
    ('class_weights', (0, math.nan, 1), "'class_weights' needs three weights"),
    ('class_weights', (0, 1, math.inf), "'class_weights' needs three weights"),
    ('class_weights', (1, 2), "'class_weights' needs three weights"),
    ('confident', 'keep', "Unknown 'confident' 'keep'"),
    ('confident_bound', 0.4, r"'confident_bound' needs to be in \[0.5, 1\) \(got 0.4\)"),
    ('confident_bound', 1.0, "'confident_bound'"),
    ('momentum', 0.0, r"'momentum' needs to be in \(0, 1\] \(got 0.0\)"),
    ('momentum', 1.1, "'momentum'"),
    ('temperature', 0.0, r"'temperature' needs to be positive \(got 0.0\)"),
    ('exploration', 0.0, r"'exploration' needs to be in \(0, 1\].*\(got 0.0\)"),
    ('exploration', 1.5, "'exploration'"),
    ('refresh_every', 0, r"'refresh_every' needs to be positive \(got 0\)"),
])
def test_egns_errors(name, bad, match):
    with pytest.raises(ValueError, match=match):
        EGNS(N, **{name: bad})
