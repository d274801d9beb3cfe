import math

import pytest
import torch

from pyg_mmkgc.nn import CLUB, CMKF, InfoNCE
from pyg_mmkgc.nn.information import MutualInformation
from pyg_mmkgc.testing import NoSync

N, C, R, BANK = 9, 4, 2, 5
EXPERTS = {'text': 3, 'image': 2, 'numeric': 1}
NAMES = sorted(EXPERTS)


class Dot(MutualInformation):
    """An estimate that a loop can follow: how far view j stands from the bank along view i."""
    alternating = False

    def __init__(self, num_views, channels):
        super().__init__(num_views, channels)
        self.scale = torch.nn.Parameter(torch.full((num_views, num_views), 0.5))

    def reset_parameters(self):
        torch.nn.init.constant_(self.scale, 0.5)

    def estimate(self, views, reference, reference_mask, apply, generator):
        count = reference_mask.sum(dim=0).clamp(min=1).unsqueeze(-1)
        mean = reference.sum(dim=0) / count
        return self.scale.detach() * torch.einsum('nic,njc->nij', views, views - mean)

    def learning_loss(self, views, reference, mask=None, reference_mask=None):
        return self.scale.square().sum()


def softmax(logits):
    top = max(logits)
    exp = [math.exp(x - top) for x in logits]
    return [x / sum(exp) for x in exp]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)
    return {m: torch.randn(N, k, C, generator=generator) for m, k in EXPERTS.items()}


@pytest.fixture
def mask():
    out = {m: torch.rand(N, generator=torch.Generator().manual_seed(i)) < 0.6
           for i, m in enumerate(EXPERTS)}
    for i, m in enumerate(EXPERTS):
        out[m][0] = False  # Nothing at all,
        out[m][1] = i == 1  # one modality,
        out[m][2] = True  # and all of them.
    return out


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(2)
    return {m: torch.randn(N, k, generator=generator) for m, k in EXPERTS.items()}


def make(estimator=Dot, num_experts=EXPERTS, **kwargs):
    torch.manual_seed(0)
    kwargs.setdefault('num_references', BANK)
    fusion = CMKF(num_experts, C, R, estimator, **kwargs).eval()
    with torch.no_grad():
        for p in fusion.parameters():
            p.add_(0.5 * torch.randn_like(p))
        for bank in (fusion.bank_views, fusion.bank_modality_views):
            bank.copy_(torch.randn_like(bank))
        fusion.bank_mask.copy_(torch.rand(fusion.bank_mask.shape) < 0.7)
        fusion.bank_mask[0] = True
    return fusion


def pointwise(scale, views, bank, available, bank_available, i, j):
    """The estimate of `Dot` for views of one entity, and zero where there is none."""
    rows = [row for row, has in zip(bank, bank_available, strict=True) if has[j]]
    if not (available[i] and available[j] and rows):
        return 0.0
    centre = [mean([row[j][c] for row in rows]) for c in range(C)]
    return float(scale[i][j]) * dot(views[i], [x - y for x, y in zip(views[j], centre,
                                                                     strict=True)])


def slow(fusion, views, mask, logits=None, rel_type=None, intra=True, inter=True):
    """All quantities of the docstring for each entity, in plain Python."""
    out = {key: [] for key in ('R_mk', 'h_bar', 'R_m', 'w', 'beta', 'h', 'h_m')}
    bank, bank_mask = fusion.bank_views.tolist(), fusion.bank_mask.tolist()
    offsets = {m: sum(EXPERTS[n] for n in NAMES[:i]) for i, m in enumerate(NAMES)}
    for e in range(N):
        R_mk, c, h_bar = {}, {}, []
        for i, m in enumerate(NAMES):
            has, K = bool(mask[m][e]), EXPERTS[m]
            v = views[m][e].tolist()
            rows = [row[offsets[m]:offsets[m] + K] for row in bank]
            R_mk[m] = [0.0] * K
            if intra and K > 1:
                scale = fusion.intra[m].scale
                R_mk[m] = [mean([pointwise(scale, v, rows, [has] * K,
                                           [[row[i]] * K for row in bank_mask], k, j)
                                 for j in range(K) if j != k]) for k in range(K)]
            c[m] = softmax([-x / fusion.temperature for x in R_mk[m]])
            h_bar.append([sum(c[m][k] * v[k][f] for k in range(K)) for f in range(C)])
        available = [bool(mask[m][e]) for m in NAMES]
        R_m = [0.0] * len(NAMES)
        if inter:
            R_m = [mean([pointwise(fusion.inter.scale, h_bar, fusion.bank_modality_views.tolist(),
                                   available, bank_mask, i, j)
                         for j in range(len(NAMES)) if j != i and available[i] and available[j]])
                   for i in range(len(NAMES))]
        out['R_mk'].append([x for m in NAMES for x in R_mk[m]])
        out['h_bar'].append(h_bar)
        out['R_m'].append(R_m)
        if logits is None:
            continue

        w = {}
        for m in NAMES:
            g = softmax(logits[m][e].tolist())
            product = [a * b for a, b in zip(g, c[m], strict=True)]
            w[m] = [x / sum(product) for x in product]
        theta = fusion.modality_weight.tolist()
        if rel_type is not None and fusion.relation_weight is not None:
            theta = [a + b for a, b in zip(
                theta, fusion.relation_weight.weight[int(rel_type[e])].tolist(), strict=True)]
        omega = float(fusion.redundancy_scale)
        there = [i for i, has in enumerate(available) if has]
        beta = [0.0] * len(NAMES)
        if there:
            share = softmax([-math.exp(omega) * R_m[i] / fusion.modality_temperature + theta[i]
                             for i in there])
            for i, x in zip(there, share, strict=True):
                beta[i] = x
        single = [[sum(w[m][k] * float(views[m][e, k, f]) for k in range(EXPERTS[m]))
                   if available[i] else 0.0 for f in range(C)] for i, m in enumerate(NAMES)]
        h = [sum(beta[i] * single[i][f] for i in there) for f in range(C)]
        out['w'].append([x for m in NAMES for x in w[m]])
        out['beta'].append(beta)
        out['h_m'].append(single)
        out['h'].append(h if there else fusion.missing.tolist())
    return {key: torch.tensor(value) for key, value in out.items() if value}


def close(out, expected):
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


# Formulas #######################################################################################


@torch.no_grad()
@pytest.mark.parametrize('with_relation', [True, False])
@pytest.mark.parametrize('kwargs', [
    {},
    {'temperature': 0.5, 'modality_temperature': 2.0},
    {'intra': False},
    {'inter': False},
    {'intra': False, 'inter': False},
    {'relation_weight': False},
], ids=str)
def test_cmkf_against_loops(kwargs, with_relation, views, mask, logits):
    fusion = make(**kwargs)
    rel_type = torch.arange(N) % (2 * R) if with_relation else None
    expected = slow(fusion, views, mask, logits, rel_type, kwargs.get('intra', True),
                    kwargs.get('inter', True))
    state = fusion(views, mask)
    close(state.view_redundancy, expected['R_mk'])
    close(state.modality_views, expected['h_bar'])
    close(state.modality_redundancy, expected['R_m'])
    assert state.mask.equal(torch.stack([mask[m] for m in NAMES], dim=1))
    assert state.views.equal(torch.cat([views[m] for m in NAMES], dim=1))
    assert bool(state.view_redundancy.any()) == kwargs.get('intra', True)
    assert bool(state.modality_redundancy.any()) == kwargs.get('inter', True)

    weight, beta = fusion.weights(state, logits, rel_type)
    close(weight, expected['w'])
    close(beta, expected['beta'])
    close(fusion.fuse(state, weight, beta), expected['h'])
    single = fusion.single(state, weight)
    assert list(single) == fusion.modalities == NAMES
    close(torch.stack(list(single.values()), dim=1), expected['h_m'])


@torch.no_grad()
def test_relations_change_weights_of_modalities(views, mask, logits):
    fusion = make()
    state = fusion(views, mask)
    weights = [fusion.weights(state, logits, torch.full((N, ), r))[1] for r in range(2 * R)]
    weights.append(fusion.weights(state, logits)[1])
    for i, a in enumerate(weights):
        for b in weights[:i]:
            assert (a[2] - b[2]).abs().max() > 0.01
            assert a[1].equal(b[1])  # One modality has all the weight whatever is asked.


@torch.no_grad()
def test_uniform_is_the_plain_mean(views, mask, logits):
    fusion = make(uniform=True)
    assert fusion.estimators() == []
    state = fusion(views, mask)
    weight, beta = fusion.weights(state, logits, torch.zeros(N, dtype=torch.long))
    out = fusion.fuse(state, weight, beta)
    for e in range(N):
        there = [m for m in NAMES if mask[m][e]]
        expected = (sum(views[m][e].mean(dim=0) for m in there) / len(there) if there
                    else fusion.missing)
        close(out[e], expected)


@torch.no_grad()
def test_redundant_views_weigh_less(views, mask, logits):
    fusion = make()
    state = fusion(views, mask)
    for p in fusion.gates():
        p.zero_()
    zero = {m: torch.zeros_like(x) for m, x in logits.items()}
    weight, beta = fusion.weights(state, zero)
    # With nothing else to go by, the order of weights is the reverse of that of redundancies:
    assert (weight[:, 3:].argsort(dim=1)
            == state.view_redundancy[:, 3:].argsort(dim=1, descending=True))[mask['text']].all()
    assert beta[2].argsort().equal(state.modality_redundancy[2].argsort(descending=True))
    fusion.redundancy_scale.fill_(-20.0)  # Redundancy no longer counts.
    _, beta = fusion.weights(state, zero)
    close(beta[2], torch.full((3, ), 1 / 3))


@torch.no_grad()
def test_weights_are_shares(views, mask, logits):
    fusion = make(InfoNCE)
    weight, beta = fusion.weights(fusion(views, mask), logits, torch.ones(N, dtype=torch.long))
    for w in weight.split([EXPERTS[m] for m in NAMES], dim=1):
        close(w.sum(dim=1), torch.ones(N))
    available = torch.stack([mask[m] for m in NAMES], dim=1)
    assert not available.any(dim=1).all()
    close(beta.sum(dim=1), available.any(dim=1).float())
    assert (beta > 0).equal(available)


# Missing ########################################################################################


@torch.no_grad()
@pytest.mark.parametrize('estimator', [Dot, InfoNCE, CLUB])
def test_a_missing_modality_does_not_matter(estimator, views, mask, logits):
    fusion = make(estimator)
    rel_type = torch.zeros(N, dtype=torch.long)

    def run(views):
        state = fusion(views, mask)
        weight, beta = fusion.weights(state, logits, rel_type)
        return (beta, fusion.fuse(state, weight, beta), state.modality_redundancy,
                *fusion.single(state, weight).values())

    other = {m: torch.where(mask[m].view(-1, 1, 1), x, 100.0) for m, x in views.items()}
    for out, expected in zip(run(other), run(views), strict=True):
        assert out.equal(expected)


@torch.no_grad()
def test_an_empty_bank_means_no_redundancy(views, mask, logits):
    for estimator in (Dot, InfoNCE, CLUB):
        fusion = make(estimator)
        fusion.reset_parameters()
        state = fusion(views, mask)
        assert not state.view_redundancy.any()
        assert not state.modality_redundancy.any()
        _, beta = fusion.weights(state, logits)
        close(beta[2], torch.full((3, ), 1 / 3))


@torch.no_grad()
def test_one_modality_and_one_expert():
    fusion = make(InfoNCE, {'text': 1})
    assert fusion.estimators() == []
    x = torch.randn(3, 1, C)
    mask = torch.tensor([True, True, False])
    state = fusion({'text': x}, {'text': mask})
    weight, beta = fusion.weights(state, {'text': torch.zeros(3, 1)}, torch.tensor([0, 1, 2]))
    assert weight.equal(torch.ones(3, 1))
    assert beta.equal(mask.float().unsqueeze(1))
    out = fusion.fuse(state, weight, beta)
    assert out.equal(torch.stack([x[0, 0], x[1, 0], fusion.missing]))
    assert fusion.learning_loss(state).equal(torch.zeros(()))
    assert fusion.redundancy(state).equal(torch.zeros(()))


@torch.no_grad()
def test_two_modalities_of_one_expert_each():
    fusion = make(Dot, {'image': 1, 'text': 1})
    assert fusion.estimators() == [fusion.inter]
    views = {m: torch.randn(3, 1, C) for m in ('image', 'text')}
    mask = {'image': torch.tensor([True, True, False]), 'text': torch.tensor([True, False, True])}
    state = fusion(views, mask)
    for i, (first, second) in enumerate([('image', 'text'), ('text', 'image')]):
        rows = fusion.bank_modality_views[fusion.bank_mask[:, 1 - i], 1 - i]
        expected = fusion.inter.scale[i, 1 - i] * (
            views[first][0, 0] @ (views[second][0, 0] - rows.mean(dim=0)))
        close(state.modality_redundancy[:, i], torch.stack([expected, *torch.zeros(2)]))


@torch.no_grad()
def test_one_channel():
    fusion = CMKF({'text': 2}, 1).eval()
    state = fusion({'text': torch.tensor([[[1.0], [3.0]]])}, {'text': torch.tensor([True])})
    assert state.modality_views.equal(torch.tensor([[[2.0]]]))


@torch.no_grad()
def test_what_is_not_kept_leaves_the_joint_view_alone(views, mask, logits):
    fusion = make()
    kept = {m: x.clone() for m, x in mask.items()}
    kept['text'][2] = False  # It has all three, and
    kept['image'][1] = False  # this one has nothing else.
    state, full = fusion(views, mask, kept=kept), fusion(views, mask)
    for name in ('views', 'modality_views', 'view_redundancy', 'modality_redundancy', 'mask'):
        assert getattr(state, name).equal(getattr(full, name))
    weight, beta = fusion.weights(state, logits)
    share = fusion.weights(full, logits)[1] * torch.stack([kept[m] for m in NAMES], dim=1)
    close(beta, share / share.sum(dim=1, keepdim=True).clamp(min=1e-9))
    single = fusion.single(state, weight)
    out = fusion.fuse(state, weight, beta)
    close(out[2], sum(beta[2, i] * single[m][2] for i, m in enumerate(NAMES)))
    assert not beta[1].any()
    assert out[1].equal(fusion.missing)
    for m, x in single.items():
        assert x.equal(fusion.single(full, weight)[m])
        only = fusion.single(state, weight, [m])
        assert list(only) == [m]
        assert only[m].equal(x)


# The reference bank #############################################################################


@torch.no_grad()
@pytest.mark.parametrize('estimator', [InfoNCE, CLUB])
def test_the_bank_is_kept_from_training(estimator, views, mask):
    fusion = make(estimator).train()
    fusion(views, mask)
    stacked = torch.cat([views[m] for m in NAMES], dim=1)
    rows = [int((stacked == row).flatten(1).all(dim=1).nonzero()) for row in fusion.bank_views]
    assert len(rows) == BANK
    assert len(set(rows)) > 1
    assert fusion.bank_mask.equal(torch.stack([mask[m] for m in NAMES], dim=1)[rows])
    kept = {k: v.clone() for k, v in fusion.state_dict().items()}
    state = fusion.eval()(views, mask)
    close(fusion.bank_modality_views, state.modality_views[rows])  # The same contrast as before.
    assert all(v.equal(kept[k]) for k, v in fusion.state_dict().items())  # Not in evaluation.
    fusion.train()(views, mask)
    assert not fusion.bank_views.equal(kept['bank_views'])
    assert {'bank_views', 'bank_modality_views', 'bank_mask'} <= set(kept)


@pytest.mark.parametrize('pool', [None, [1, 4, 7]])
def test_what_training_learns_of(pool, views, mask):
    fusion = make(num_references=200, max_samples=100).train()
    mask = {m: torch.ones(N, dtype=torch.bool) for m in mask}
    views = {m: x.requires_grad_() for m, x in views.items()}
    state = fusion(views, mask, None if pool is None else torch.tensor(pool))
    expected = set(range(N) if pool is None else pool)
    stacked = torch.cat([views[m] for m in NAMES], dim=1)
    same = (fusion.bank_views.unsqueeze(1) == stacked).flatten(2).all(dim=2)  # [200, N]
    assert set(same.nonzero()[:, 1].tolist()) == expected
    assert state.sample.shape == (100, )
    assert set(state.sample.tolist()) == expected
    fusion.redundancy(state).backward()
    for x in views.values():
        assert set(x.grad.flatten(1).any(dim=1).nonzero()[:, 0].tolist()) == expected


def test_training_draws_where_the_views_are(views, mask):
    # Another default device would be that of a tensor which is made without one.
    fusion = make(Dot).train()
    with torch.device('meta'):
        state = fusion(views, mask)
    assert state.sample.device == torch.device('cpu')


@torch.no_grad()
@pytest.mark.parametrize('estimator', [InfoNCE, CLUB])
def test_redundancies_do_not_depend_on_the_batch(estimator, views, mask):
    fusion = make(estimator)
    state = fusion(views, mask)
    for rows in ([4], [2, 7], [8, 2, 1, 0]):
        part = fusion({m: x[rows] for m, x in views.items()}, {m: x[rows] for m, x in mask.items()})
        for name in ('view_redundancy', 'modality_redundancy', 'modality_views'):
            close(getattr(part, name), getattr(state, name)[rows])


@torch.no_grad()
def test_the_order_of_a_dictionary_does_not_matter(views, mask, logits):
    backwards = dict(reversed(EXPERTS.items()))
    first, second = make(InfoNCE), make(InfoNCE, backwards)
    assert list(first.num_experts) == list(second.num_experts) == NAMES
    outs = []
    for fusion, order in ((first, list(EXPERTS)), (second, list(backwards))):
        state = fusion({m: views[m] for m in order}, {m: mask[m] for m in order})
        weight, beta = fusion.weights(state, {m: logits[m] for m in order}, torch.arange(N) % 4)
        outs.append((weight, beta, fusion.fuse(state, weight, beta)))
    for a, b in zip(*outs, strict=True):
        assert a.equal(b)


# Gradients ######################################################################################


@pytest.mark.parametrize('estimator', [InfoNCE, CLUB])
def test_gradients_of_the_joint_view(estimator, views, mask, logits):
    fusion = make(estimator).train()
    views = {m: x.requires_grad_() for m, x in views.items()}
    logits = {m: x.requires_grad_() for m, x in logits.items()}
    state = fusion(views, mask)
    weight, beta = fusion.weights(state, logits, torch.arange(N) % (2 * R))
    fusion.fuse(state, weight, beta).square().sum().backward()
    assert not state.view_redundancy.requires_grad
    assert not state.modality_redundancy.requires_grad
    for p in (*fusion.gates(), fusion.missing, *views.values()):
        assert p.grad.abs().sum() > 0
    for m, x in logits.items():
        assert bool(x.grad.any()) == (EXPERTS[m] > 1)
        assert not views[m].grad[~mask[m]].any()
    for module in fusion.estimators():
        assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize('estimator', [InfoNCE, CLUB])
def test_learning_loss_and_redundancy(estimator, views, mask):
    fusion = make(estimator).train()
    views = {m: x.requires_grad_() for m, x in views.items()}
    state = fusion(views, mask)
    fusion.learning_loss(state).backward()
    assert len(fusion.estimators()) == 3
    for module in fusion.estimators():
        for p in module.parameters():
            assert p.grad.abs().sum() > 0
    own = {id(p) for module in fusion.estimators() for p in module.parameters()}
    assert all(p.grad is None for p in fusion.parameters() if id(p) not in own)
    assert all(x.grad is None for x in views.values())

    fusion.zero_grad()
    fusion.redundancy(state).backward()
    assert all(p.grad is None for p in fusion.parameters())
    assert all(x.grad.abs().sum() > 0 for x in views.values())


@torch.no_grad()
def test_values_of_learning_loss_and_redundancy(views, mask):
    fusion = make()
    state = fusion(views, mask)
    expected = sum(float(module.scale.square().sum()) for module in fusion.estimators())
    assert float(fusion.learning_loss(state)) == pytest.approx(expected)

    intra = []
    for m in ('image', 'text'):
        start = sum(EXPERTS[n] for n in NAMES[:NAMES.index(m)])
        redundancy = state.view_redundancy[:, start:start + EXPERTS[m]]
        K = EXPERTS[m]
        intra.append(float(redundancy.sum()) * (K - 1) / (N * K * K))
    others = (state.mask.sum(dim=1, keepdim=True) - state.mask.long()).clamp(min=1)
    inter = float((state.modality_redundancy * others).sum()) / (N * 9)
    assert float(fusion.redundancy(state)) == pytest.approx((sum(intra) + inter) / 3, rel=1e-4)


# State and errors ###############################################################################


def test_cmkf_never_waits_for_the_host(views, mask, logits):
    fusion = make(InfoNCE).train()
    with NoSync():
        state = fusion(views, mask)
        weight, beta = fusion.weights(state, logits, torch.arange(N) % 4)
        loss = fusion.fuse(state, weight, beta).sum() + fusion.learning_loss(state)
        (loss + fusion.redundancy(state)).backward()


@pytest.mark.parametrize('estimator', [InfoNCE, CLUB])
def test_reset_restores_all_state(estimator, views, mask):
    fusion, states = make(estimator), []
    for _ in range(2):
        fusion.train()(views, mask)
        torch.manual_seed(3)
        fusion.reset_parameters()
        states.append({k: v.clone() for k, v in fusion.state_dict().items()})
        with torch.no_grad():
            for p in fusion.parameters():
                p.add_(1.0)
    assert all(states[0][k].equal(states[1][k]) for k in states[0])
    assert not states[0]['bank_mask'].any()
    assert not states[0]['modality_weight'].any()


@torch.no_grad()
def test_the_joint_view_is_as_narrow_as_its_parts(views, mask, logits):
    fusion = make()
    with torch.autocast('cpu', torch.bfloat16):
        state = fusion(views, mask)
        out = fusion.fuse(state, *fusion.weights(state, logits))
    assert out.dtype == torch.bfloat16
    close(out[0], fusion.missing.to(torch.bfloat16))


def test_what_weighs_modalities():
    # The modalities, how much redundancy counts, and relations with their inverses.
    assert [p.shape for p in make().gates()] == [(3, ), (), (2 * R, 3)]
    assert [p.shape for p in make(relation_weight=False).gates()] == [(3, ), ()]


def test_cmkf_defaults():
    fusion = CMKF({'text': 2}, 4)
    assert (fusion.num_relations, fusion.temperature, fusion.modality_temperature,
            fusion.num_references, fusion.max_samples) == (1, 1.0, 1.0, 256, 1024)


@pytest.mark.parametrize('name', ['temperature', 'modality_temperature'])
def test_invalid_temperature(name):
    with pytest.raises(ValueError, match=rf"'{name}' needs to be positive \(got 0.0\)"):
        CMKF({'text': 2}, 4, **{name: 0.0})


def test_no_modality_at_all():
    with pytest.raises(ValueError, match="'num_experts' names no modality"):
        CMKF({}, 4)


def test_cmkf_repr():
    assert str(CMKF({'text': 2, 'image': 1}, 4, 3)) == (
        "CMKF({'image': 1, 'text': 2}, channels=4, num_relations=3)")
