import math

import pytest
import torch

from pyg_mmkgc.nn.fusion.adaptive_fusion import AdaptiveFusion
from pyg_mmkgc.testing import NoSync

N, C, B, NAMES = 9, 4, 3, ['image', 'text']


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    out = AdaptiveFusion(NAMES, C, B)
    with torch.no_grad():
        for p in out.parameters():
            p.copy_(torch.randn_like(p))
    return out.eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    views = {m: torch.randn(N, C, generator=generator) for m in NAMES}
    mask = {'image': torch.arange(N) % 2 == 0, 'text': torch.arange(N) % 3 == 0}
    assert not (mask['image'] | mask['text']).all()
    return views, mask


@torch.no_grad()
def test_attention(fusion, inputs):
    views, mask = inputs
    out, weight = fusion(views, mask)
    for e in range(N):
        there = [m for m in NAMES if mask[m][e]]
        joint, share = [0.0] * C, dict.fromkeys(NAMES, 0.0)
        for b in range(B):
            mapped = {m: [max(0.0, float(fusion.bias[m][b * C + c] + sum(
                views[m][e, i] * fusion.weight[m][i, b * C + c] for i in range(C))))
                for c in range(C)] for m in there}
            score = {m: math.exp(sum(mapped[m][c] * float(fusion.attention[c]) for c in range(C)))
                     for m in there}
            for m in there:
                alpha = score[m] / sum(score.values())
                share[m] += alpha / B
                joint = [j + alpha * u for j, u in zip(joint, mapped[m], strict=True)]
        assert out[e].tolist() == pytest.approx(joint, rel=1e-4, abs=1e-5)
        assert weight[e].tolist() == pytest.approx(list(share.values()), rel=1e-4, abs=1e-6)


@torch.no_grad()
def test_what_is_missing_has_no_weight(fusion, inputs):
    views, mask = inputs
    expected, weight = fusion(views, mask)
    for i, m in enumerate(NAMES):
        assert not weight[~mask[m], i].any()
        views[m][~mask[m]] = 1e3
    assert fusion(views, mask)[0].equal(expected)
    assert not expected[~(mask['image'] | mask['text'])].any()


@torch.no_grad()
def test_smallest_fusion():
    fusion = AdaptiveFusion(['text'], 1, 1, dropout=0.0)
    fusion.weight['text'].fill_(2.0)
    fusion.bias['text'].fill_(1.0)
    out, weight = fusion({'text': torch.tensor([[3.0], [-3.0]])},
                         {'text': torch.tensor([True, True])})
    assert out.tolist() == [[7.0], [0.0]]
    assert weight.tolist() == [[1.0], [1.0]]


def test_each_branch_starts_as_a_layer_of_its_own():
    # Glorot's bound is that of a matrix [64, 64], not of all branches together.
    torch.manual_seed(0)
    weight = AdaptiveFusion(['text'], 64, 3).weight['text']
    for branch in weight.detach().split(64, dim=1):
        assert float(branch.abs().max()) == pytest.approx((6 / 128)**0.5, rel=0.01)


def test_fusion_gradients_reach_every_parameter(fusion, inputs):
    with NoSync():
        fusion.train()(*inputs)[0].square().sum().backward()
    for name, p in fusion.named_parameters():
        assert p.grad.isfinite().all()
        assert p.grad.abs().sum() > 0, name


def test_fusion_dropout_is_for_training_only(fusion, inputs):
    assert fusion(*inputs)[0].equal(fusion(*inputs)[0])
    fusion.train()
    assert not fusion(*inputs)[0].equal(fusion(*inputs)[0])


def test_fusion_reset_parameters(fusion):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        fusion.reset_parameters()
        states.append({k: v.clone() for k, v in fusion.state_dict().items()})
        with torch.no_grad():
            for p in fusion.parameters():
                p.add_(1.0)
    assert all(states[0][k].equal(states[1][k]) for k in states[0])


@pytest.mark.parametrize('kwargs, match', [
    ({'modalities': []}, r"'modalities' is empty \(expected at least one\)"),
    ({'channels': 0}, r"'channels' needs to be at least 1 \(got 0\)"),
    ({'num_branches': 0}, r"'num_branches' needs to be at least 1 \(got 0\)"),
    ({'dropout': 1.0}, r"'dropout' needs to be in \[0, 1\) \(got 1.0\)"),
])
def test_invalid_fusion(kwargs, match):
    with pytest.raises(ValueError, match=match):
        AdaptiveFusion(**{'modalities': NAMES, 'channels': C, **kwargs})


def test_fusion_repr(fusion):
    assert str(fusion) == "AdaptiveFusion(['image', 'text'], channels=4, num_branches=3)"
    assert str(AdaptiveFusion(['text'], 4)) == (
        "AdaptiveFusion(['text'], channels=4, num_branches=2)")
