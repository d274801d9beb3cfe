import itertools
import math

import pytest
import torch

from pyg_mmkgc.evaluation import paired_bootstrap


def draw(size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_large_samples_have_the_interval_of_the_normal_distribution():
    first, second = draw(4000), draw(4000, 1)
    difference = first - second
    error = float(difference.std(correction=0)) / math.sqrt(4000)
    for level, z in [(0.95, 1.959964), (0.5, 0.674490)]:
        found = paired_bootstrap(first, second, level=level)
        assert found.mean == pytest.approx(float(difference.mean()), abs=1e-12)
        assert found.low == pytest.approx(found.mean - z * error, abs=0.06 * error)
        assert found.high == pytest.approx(found.mean + z * error, abs=0.06 * error)


def test_small_samples_have_the_quantiles_of_all_resamples():
    first, second = torch.tensor([0.9, 0.1, 0.5, 0.0]), torch.tensor([0.2, 0.3, 0.5, 1.0])
    difference = (first - second).double()
    means = torch.tensor([float(difference[list(rows)].mean())
                          for rows in itertools.product(range(4), repeat=4)]).double()
    # Levels whose quantiles do not stand on a step of the distribution:
    for level in (0.9, 0.6):
        found = paired_bootstrap(first, second, level=level, num_samples=100_000)
        expected = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2]).double())
        assert [found.low, found.high] == pytest.approx(expected.tolist(), abs=0.05)


def test_what_is_hard_for_both_cancels():
    hard = 10 * draw(300)
    found = paired_bootstrap(hard + 0.25, hard)
    assert found == pytest.approx((0.25, 0.25, 0.25))
    assert paired_bootstrap(hard, hard) == (0, 0, 0)


def test_the_other_way_round():
    first, second = draw(50), draw(50, 1)
    there, back = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_seed_and_blocks(monkeypatch):
    first, second = draw(50), draw(50, 1)
    found = paired_bootstrap(first, second, num_samples=1000)
    assert paired_bootstrap(first, second, num_samples=1000) == found
    assert paired_bootstrap(first, second, num_samples=1000, seed=1) != found
    monkeypatch.setattr('pyg_mmkgc.evaluation.bootstrap.BLOCK', 170)
    blocks = paired_bootstrap(first, second, num_samples=1000)
    assert blocks.low == pytest.approx(found.low, abs=0.02)
    assert blocks.low < blocks.mean < blocks.high


@pytest.mark.parametrize('first,second,kwargs,message', [
    (torch.ones(3), torch.ones(2), {}, r'vectors of one size, not empty \(got \[3\] and \[2\]\)'),
    (torch.ones(0), torch.ones(0), {}, 'not empty'),
    (torch.ones(2, 2), torch.ones(2, 2), {}, 'vectors'),
    (torch.ones(2), torch.ones(2), {'num_samples': 0}, "'num_samples' needs to be at least 1"),
    (torch.ones(2), torch.ones(2), {'level': 1.0}, "'level' needs to be between 0 and 1"),
])
def test_bad_input(first, second, kwargs, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second, **kwargs)
