import math

import pytest
import torch

from pyg_mmkgc.nn import ModalityExperts
from pyg_mmkgc.testing import NoSync

N, F_IN, F_OUT, K, R = 7, 5, 4, 3, 2


@pytest.fixture
def experts():
    torch.manual_seed(12345)
    out = ModalityExperts(F_IN, F_OUT, K, R)
    with torch.no_grad():
        for p in out.parameters():
            p.copy_(torch.randn_like(p))
    return out


@pytest.fixture
def x():
    return torch.randn(N, F_IN, generator=torch.Generator().manual_seed(1))


def softmax(logits):
    top = max(logits)
    exp = [math.exp(x - top) for x in logits]
    return [x / sum(exp) for x in exp]


def test_views(experts, x):
    views, _ = experts(x)
    assert views.shape == (N, K, F_OUT)
    weight = experts.weight.view(F_IN, K, F_OUT)
    bias = experts.bias.view(K, F_OUT)
    for e in range(N):
        for k in range(K):
            for c in range(F_OUT):
                expected = bias[k, c] + sum(x[e, i] * weight[i, k, c] for i in range(F_IN))
                torch.testing.assert_close(views[e, k, c], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('relation_bias', [True, False])
@torch.no_grad()
def test_gate(relation_bias, experts, x):
    experts.relation_bias = relation_bias
    _, logits = experts(x)
    assert logits.shape == (N, K)
    for e in range(N):
        raw = [sum(float(x[e, i] * experts.gate_weight[i, k]) for i in range(F_IN))
               for k in range(K)]
        out = experts.gate_logits(logits[e:e + 1]).softmax(dim=-1)[0]
        assert out.tolist() == pytest.approx(softmax(raw), abs=1e-5)
        for r in range(2 * R):
            sigma = 1 / (1 + math.exp(-float(experts.temperature_logit.weight[r])))
            a = experts.gate_bias.weight[r].tolist() if relation_bias else [0.0] * K
            expected = softmax([(raw[k] + a[k]) / sigma for k in range(K)])
            out = experts.gate_logits(logits[e:e + 1], torch.tensor([r])).softmax(dim=-1)[0]
            assert out.tolist() == pytest.approx(expected, abs=1e-4)


def test_gate_of_momok_is_a_temperature_alone(x):
    experts = ModalityExperts(F_IN, F_OUT, K, R, relation_bias=False)
    assert {n for n, _ in experts.named_parameters()} == {
        'weight', 'bias', 'gate_weight', 'temperature_logit.weight'}
    _, logits = experts(x)
    out = experts.gate_logits(logits, torch.full((N, ), 3))
    torch.testing.assert_close(out, logits / torch.tensor(2.0).sigmoid())


def test_noise_is_for_training_only(experts):
    experts.noise = 0.5
    logits, rel_type = torch.zeros(4000, K), torch.zeros(4000, dtype=torch.long)
    clean = experts.eval().gate_logits(logits, rel_type)
    assert clean.equal(clean[:1].expand_as(clean))
    sigma = experts.temperature_logit.weight[0].sigmoid().item()
    experts.train()
    noise = (experts.gate_logits(logits, rel_type) - clean) * sigma
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
    assert experts.gate_logits(logits).std().item() == pytest.approx(0.5, rel=0.05)
    experts.noise = 0.0
    assert experts.gate_logits(logits, rel_type).equal(clean)


def test_learned_noise(x):
    torch.manual_seed(0)
    experts = ModalityExperts(F_IN, F_OUT, K, R, noise=0.1, learned_noise=True)
    assert not experts.noise_weight.any()
    with torch.no_grad():
        experts.noise_weight.normal_()
    views, logits = experts(x)
    assert logits.shape == (N, 2 * K)
    many = logits[:1].expand(20000, -1)
    clean = experts.eval().gate_logits(logits)
    torch.testing.assert_close(clean, x @ experts.gate_weight)
    noise = experts.train().gate_logits(many) - clean[:1]
    expected = (x[0] @ experts.noise_weight).exp().log1p() + 0.1
    torch.testing.assert_close(noise.std(dim=0), expected, rtol=0.05, atol=0)
    experts.gate_logits(logits).softmax(dim=-1)[:, 0].sum().backward()
    assert experts.noise_weight.grad.abs().sum() > 0
    assert experts.gate_weight.grad.abs().sum() > 0


def test_dropout_is_for_training_only(experts):
    experts.dropout = 0.4
    x = torch.ones(500, F_IN)
    with torch.no_grad():
        experts.weight.copy_(torch.eye(F_IN, K * F_OUT))
        experts.bias.zero_()
    views, _ = experts.train()(x)
    kept = views.view(500, -1)[:, :F_IN]
    assert (kept == 0).float().mean().item() == pytest.approx(0.4, abs=0.05)
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / 0.6))
    assert experts.eval()(x)[0].view(500, -1)[:, :F_IN].equal(x)


def test_one_expert_has_no_gate(x):
    experts = ModalityExperts(F_IN, F_OUT, num_experts=1)
    assert {n for n, _ in experts.named_parameters()} == {'weight', 'bias'}
    views, logits = experts.train()(x)
    experts.noise = 1.0
    assert views.shape == (N, 1, F_OUT)
    for rel_type in (None, torch.ones(N, dtype=torch.long)):
        assert experts.gate_logits(logits, rel_type).softmax(dim=-1).equal(torch.ones(N, 1))


def test_gradients_reach_every_parameter(experts, x):
    views, logits = experts(x)
    gate = experts.gate_logits(logits, torch.arange(N) % (2 * R)).softmax(dim=-1)
    (views * gate.unsqueeze(-1)).sum(dim=1).square().sum().backward()
    assert len(list(experts.parameters())) == 5
    for p in experts.parameters():
        assert p.grad.abs().sum() > 0


def test_reset_parameters(experts):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        experts.reset_parameters()
        states.append({k: v.clone() for k, v in experts.state_dict().items()})
        with torch.no_grad():
            for p in experts.parameters():
                p.add_(1.0)
    assert all(states[0][k].equal(states[1][k]) for k in states[0])
    # Before anything is learned no relation prefers an expert:
    assert not states[0]['gate_bias.weight'].any()


def test_scale_of_an_expert_does_not_depend_on_their_number():
    torch.manual_seed(0)
    one, many = ModalityExperts(100, 50, 1), ModalityExperts(100, 50, 8)
    assert many.weight.std().item() == pytest.approx(one.weight.std().item(), rel=0.05)
    halves = many.weight.view(100, 8, 50)
    assert not halves[:, 0].equal(halves[:, 1])


def test_no_sync(experts, x):
    experts.train()
    experts.noise = experts.dropout = 0.1
    with NoSync():
        views, logits = experts(x)
        out = experts.gate_logits(logits, torch.arange(N) % 4)
        (views.sum() + out.sum()).backward()


@pytest.mark.parametrize('name', ['in_channels', 'out_channels', 'num_experts', 'num_relations'])
def test_invalid_sizes(name):
    sizes = {'in_channels': 2, 'out_channels': 2, 'num_experts': 2, 'num_relations': 2, name: 0}
    with pytest.raises(ValueError, match=rf"'{name}' needs to be at least 1 \(got 0\)"):
        ModalityExperts(**sizes)


@pytest.mark.parametrize('dropout', [-0.1, 1.0])
def test_invalid_expert_dropout(dropout):
    with pytest.raises(ValueError, match=rf"'dropout' needs to be in \[0, 1\) \(got {dropout}"):
        ModalityExperts(2, 2, dropout=dropout)


def test_experts_repr(experts):
    assert str(experts) == 'ModalityExperts(5, 4, num_experts=3, num_relations=2)'


def test_one_expert_may_see_the_feature_as_it_is():
    experts = ModalityExperts(4, 4, num_experts=1, dropout=0.5, project=False)
    assert not list(experts.parameters())
    x = torch.randn(5, 4)
    views, logits = experts.eval()(x)
    assert views.equal(x.unsqueeze(1))
    assert logits.equal(torch.zeros(5, 1))
    kept = experts.train()(torch.ones(100, 4))[0]
    assert set(kept.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize('kwargs', [{'num_experts': 2}, {'out_channels': 5}])
def test_what_is_not_projected_keeps_its_size(kwargs):
    with pytest.raises(ValueError, match=r"'project' may be False for one expert .*4 and [45]"):
        ModalityExperts(**{'in_channels': 4, 'out_channels': 4, 'num_experts': 1, **kwargs},
                        project=False)
