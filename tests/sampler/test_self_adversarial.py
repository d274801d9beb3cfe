import math

import pytest
import torch

from pyg_mmkgc.sampler import SelfAdversarial


def test_weight_against_formula():
    sampler = SelfAdversarial(10, 4, temperature=0.5)
    score = torch.tensor([[1.0, 0.0, -2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    mass = [math.exp(s / 0.5) for s in (1.0, 0.0, -2.0)]
    expected = [[3 * m / sum(mass) for m in mass] + [0.0], [1.0] * 4]
    weight = sampler.weight(score, mask)
    assert weight.tolist() == [pytest.approx(row) for row in expected]
    assert torch.equal(sampler.weight(score, torch.ones_like(mask)), sampler.weight(score))


def test_large_scores():
    sampler = SelfAdversarial(10, 3)
    score = torch.tensor([[1e4, -1e4, 1e4], [-1e30, -1e30, -1e30]])
    assert sampler.weight(score).tolist() == [[1.5, 0.0, 1.5], [1.0, 1.0, 1.0]]
    mask = torch.tensor([[False, True, True], [True, False, True]])
    assert sampler.weight(score, mask).tolist() == [[0.0, 0.0, 2.0], [1.0, 0.0, 1.0]]


def test_temperature_goes_to_uniform():
    score = torch.randn(5, 8)
    weight = SelfAdversarial(10, 8, temperature=1e6).weight(score)
    assert torch.allclose(weight, torch.ones(5, 8), atol=1e-4)


def test_self_adversarial_repr_and_error():
    assert str(SelfAdversarial(10, 4)) == 'SelfAdversarial(10, num_negatives=4, temperature=1.0)'
    for temperature in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match=r"'temperature' needs to be positive"):
            SelfAdversarial(10, temperature=temperature)
