import math

import pytest
import test_models as generic
import torch
import torch.nn.functional as F

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.nn import CLUB
from pyg_mmkgc.nn.models import momok
from pyg_mmkgc.nn.models.momok import MoMoK
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import TrainConfig, Trainer, recipe

N, R, C, K = 24, 3, 6, 3
NAMES = ['image', 'structure', 'text']
SMALL = {'hidden_channels': C, 'init_scale': 0.5, 'num_samples': 16}
CASES = {
    'momok': SMALL,
    'momok_one_expert': {**SMALL, 'num_experts': 1},
    'momok_some_experts': {**SMALL, 'num_experts': {'text': 2}, 'relation_channels': 4},
    'momok_structure_only': {**SMALL, 'modalities': []},
    'momok_one_modality': {**SMALL, 'modalities': ['text']},
    'momok_no_structure': {**SMALL, 'structure_channels': 0},
    'momok_wide_structure': {**SMALL, 'structure_channels': 10},
    'momok_plain_noise': {**SMALL, 'learned_noise': False, 'disentanglement_weight': 0.0},
}
TUNED = {**SMALL, 'tune_features': True}
SUFFIXES = ['_structure_only', '_one_modality']


@pytest.fixture(scope='module')
def graph():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, seed=1)


@pytest.fixture
def registered(monkeypatch):
    for name, kwargs in CASES.items():
        monkeypatch.setitem(generic.CASES, name, (MoMoK, kwargs))


def make(graph, seed=0, double=False, **kwargs):
    """A model with no zero left in it, in evaluation mode."""
    torch.manual_seed(seed)
    model = MoMoK.from_data(graph[0], **{**SMALL, **kwargs})
    if double:
        model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def without_dropout(**kwargs):
    return {'fusion_dropout': 0.0, 'input_dropout': 0.0, 'query_dropout': 0.0, 'noise': 0.0,
            'learned_noise': False, **kwargs}


@pytest.fixture
def train_batch(graph):
    head_index, rel_type, tail_index = get_triples(graph[0], 'train')
    return (torch.cat([head_index, tail_index]), torch.cat([rel_type, rel_type + R]),
            torch.cat([tail_index, head_index]))


# What holds for all models ######################################################################


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('check', [
    generic.test_score_all_equals_forward, generic.test_the_scorer_agrees_in_chunks,
    generic.test_no_score_depends_on_its_batch,
    generic.test_a_permutation_of_entities_permutes_scores, generic.test_twins_tie,
    generic.test_reset_parameters, generic.test_built_without_data,
    generic.test_tables_are_what_is_looked_up,
], ids=lambda check: check.__name__.removeprefix('test_'))
def test_as_all_models(check, name, graph, registered):
    check(name, graph)


@pytest.mark.parametrize('name', [n for n in CASES if 'structure_only' not in n])
@pytest.mark.parametrize('check', [
    generic.test_what_is_missing_cannot_change_a_score,
    generic.test_what_is_there_does_change_scores,
    generic.test_an_entity_with_nothing_has_finite_scores,
], ids=lambda check: check.__name__.removeprefix('test_'))
def test_as_multi_modal_models(check, name, graph, registered):
    check(name, graph)


def test_momok_is_saved_and_loaded(graph, tmp_path, registered):
    generic.test_save_and_load('momok', graph, tmp_path)


def test_the_order_of_modalities(graph, registered):
    generic.test_the_order_of_modalities_does_not_matter('momok', graph)


@pytest.mark.parametrize('protocol', ['all', 'seen'])
def test_the_verb_test_of_momok(protocol, graph, registered):
    generic.test_the_verb_test('momok', protocol, graph)


@pytest.mark.parametrize('objective', ['softmax', 'bce'])
def test_momok_does_not_look_at_unseen_entities(objective, registered, monkeypatch):
    # Without dropout, since what it draws depends on nothing else.
    monkeypatch.setitem(generic.CASES, 'momok', (MoMoK, {**SMALL, **without_dropout()}))
    generic.test_unseen_entities_are_no_negatives('momok', objective)


# Equations ######################################################################################


def slow_views(model, e, r=None):
    """`h_m(e | r)` of each modality that an entity has, and its joint view."""
    x_dict, mask_dict = model.inputs(torch.tensor([e]))
    views = {}
    for m, experts in model.experts.items():
        if not mask_dict[m][0]:
            continue
        x = x_dict[m][0]
        logits = []
        for k in range(K):
            logit = sum(x[i] * experts.gate_weight[i, k] for i in range(len(x)))
            if r is not None:
                logit = logit / (1 / (1 + torch.exp(-experts.temperature_logit.weight[r, 0])))
            logits.append(logit)
        total = sum(torch.exp(logit) for logit in logits)
        weight = experts.weight.view(len(x), K, C)
        views[m] = sum(torch.exp(logits[k]) / total
                       * (x @ weight[:, k] + experts.bias.view(K, C)[k]) for k in range(K))
    fusion, joint = model.fusion, torch.zeros(C, dtype=model.structure.weight.dtype)
    for b in range(fusion.num_branches):
        columns = slice(b * C, (b + 1) * C)
        mapped = {m: torch.relu(h @ fusion.weight[m][:, columns] + fusion.bias[m][columns])
                  for m, h in views.items()}
        attention = {m: torch.exp(u @ fusion.attention[:, 0]) for m, u in mapped.items()}
        for m, u in mapped.items():
            joint = joint + attention[m] / sum(attention.values()) * u
    return {'joint': joint, **views} if views else {}


def slow_logits(model, head, r, tail):
    """`s_v(h, r, t)` of each head that both entities have, from their views."""
    return {v: torch.einsum('kij,k,i,j->', d.core, d.rel_emb.weight[r], head[v], tail[v])
            + (0 if d.bias is None else d.bias[0])
            for v, d in model.decoder.decoders.items() if v in head and v in tail}


@torch.no_grad()
def test_a_score_is_the_mean_probability(graph):
    model = make(graph, double=True)
    head_index, rel_type, tail_index = get_triples(graph[0], 'val')
    out = model(head_index, rel_type, tail_index)
    sizes = set()
    for i, (h, r, t) in enumerate(zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(),
                                      strict=True)):
        logits = slow_logits(model, slow_views(model, h, r), r, slow_views(model, t))
        sizes.add(len(logits))
        expected = sum(torch.sigmoid(s) for s in logits.values()) / max(1, len(logits))
        torch.testing.assert_close(out[i], expected, rtol=1e-10, atol=1e-10)
    assert len(sizes) > 1
    assert list(model.decoder.decoders) == ['joint', *NAMES]


@torch.no_grad()
def test_an_entity_with_nothing_scores_zero(graph):
    data, nobody = graph[0].clone(), graph.test_only_entity
    for m in ('image', 'text'):
        data['entity'][f'{m}_mask'][nobody] = False
    model = MoMoK.from_data(data, **SMALL).eval()
    out = model.score_all(torch.tensor([nobody, 1]), torch.tensor([0, 0]))
    assert not out[0].any()
    assert out[1, nobody] == 0
    assert (out[1] > 0).sum() > N // 2
    weights = model.modality_weights(torch.tensor([nobody, 1]))
    assert not weights[0].any()
    assert float(weights[1].sum()) == pytest.approx(1.0)


@torch.no_grad()
def test_the_temperature_sharpens_and_is_for_heads_alone(graph):
    model = make(graph)
    encoded, row = model.encode(), torch.arange(N)
    found = model.experts_of(encoded)
    before = model.views(encoded), model.views(encoded, torch.zeros_like(row))
    entity = int((model.seen & model.mask_text).nonzero()[0, 0])
    for experts in model.experts.values():
        experts.temperature_logit.weight.fill_(-30.0)  # A temperature of nearly zero: the best.
    cold = model.views(encoded, torch.zeros_like(row))
    for m in NAMES:
        best = found[m][1][entity, :K].argmax()
        torch.testing.assert_close(cold[m][entity], found[m][0][entity, best])
        assert not torch.allclose(before[1][m][entity], cold[m][entity])
        assert model.views(encoded)[m].equal(before[0][m])
        model.experts[m].temperature_logit.weight.fill_(30.0)  # Of one: as without a relation.
    warm = model.views(encoded, torch.zeros_like(row))
    for m in NAMES:
        torch.testing.assert_close(warm[m], before[0][m])


@torch.no_grad()
def test_noise_is_learned_and_for_training_only(graph):
    model = make(graph, noise=0.05)
    experts = model.experts['text']
    x = torch.randn(1, 4)
    _, logits = experts(x)
    assert logits.shape == (1, 2 * K)
    many, rel_type = logits.expand(20000, -1), torch.full((20000, ), 2)
    clean = experts.gate_logits(logits, rel_type[:1])
    assert experts.gate_logits(many, rel_type).equal(clean.expand(20000, -1))
    sigma = float(experts.temperature_logit.weight[2].sigmoid())
    expected = (F.softplus(x @ experts.noise_weight) + 0.05) / sigma
    noise = experts.train().gate_logits(many, rel_type) - clean
    torch.testing.assert_close(noise.std(dim=0), expected[0], rtol=0.05, atol=0)
    assert noise.mean(dim=0).abs().max() < 0.05 * expected.max()


@torch.no_grad()
@pytest.mark.parametrize('with_relation', [True, False])
def test_modality_weights_of_momok(with_relation, graph):
    model = make(graph)
    index = torch.arange(N)
    rel_type = index % (2 * R) if with_relation else None
    out = model.modality_weights(index, rel_type)
    for e in range(N):
        views = slow_views(model, e, None if rel_type is None else int(rel_type[e]))
        views.pop('joint', None)
        share = dict.fromkeys(NAMES, 0.0)
        for b in range(2):
            columns = slice(b * C, (b + 1) * C)
            attention = {m: math.exp(torch.relu(
                h @ model.fusion.weight[m][:, columns] + model.fusion.bias[m][columns])
                @ model.fusion.attention[:, 0]) for m, h in views.items()}
            for m in views:
                share[m] += attention[m] / sum(attention.values()) / 2
        expected = [(share[m] + (m in views)) / (1 + len(views)) if views else 0.0 for m in NAMES]
        assert out[e].tolist() == pytest.approx(expected, abs=1e-5)


# Losses #########################################################################################


@pytest.mark.parametrize('mass', [None, 1.0])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_step_equals_one_by_one(smoothing, mass, graph, train_batch):
    model = make(graph, double=True, **without_dropout(
        label_smoothing=smoothing, smoothing_mass=mass, disentanglement_weight=0.0))
    model.train()
    batch = tuple(x[:12] for x in train_batch)
    truth = set(zip(*(x.tolist() for x in train_batch), strict=True))
    has = {'joint': model.seen | model.mask_image | model.mask_text, 'structure': model.seen,
           'image': model.mask_image, 'text': model.mask_text}

    tails = {e: slow_views(model, e) for e in range(N) if model.seen[e]}
    heads = {v: [] for v in model.decoder.decoders}
    for h, r, t in zip(*(x.tolist() for x in batch), strict=True):
        head = slow_views(model, h, r)
        logits = {e: slow_logits(model, head, r, tail) for e, tail in tails.items()}
        for v, terms in heads.items():
            allowed = [e for e in range(N) if model.seen[e] and has[v][e]]
            if not has[v][h] or t not in allowed:
                continue
            loss = 0.0
            for e in allowed:
                y = (1 - smoothing) * ((h, r, e) in truth)
                y = y + (smoothing if mass is None else mass) / N
                p = torch.sigmoid(logits[e][v])
                loss = loss - y * torch.log(p) - (1 - y) * torch.log(1 - p)
            terms.append(loss / len(allowed))
    expected = {f'bce_{v}': sum(terms) / len(terms) for v, terms in heads.items()}
    parameters = list(model.parameters())
    expected_grads = torch.autograd.grad(sum(expected.values()), parameters, allow_unused=True)

    log = {}
    loss = model.loss(*batch, log=log)
    assert set(log) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(log[name], value.detach(), rtol=1e-8, atol=1e-8)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert sum(grad is not None for grad in grads) > 20
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert (grad is None or not grad.any()) == (
            expected_grad is None or not expected_grad.any())
        if expected_grad is not None:
            torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-8)


def test_what_training_does_not_hold_is_true_if_asked(graph, train_batch):
    model = make(graph, disentanglement_weight=0.0)
    truth = set(zip(*(x.tolist() for x in train_batch), strict=True))
    head, rel = int(train_batch[0][0]), int(train_batch[1][0])
    tail = next(e for e in range(N) if model.seen[e] and (head, rel, e) not in truth)
    triple = torch.tensor([[head], [rel], [tail]])
    log = {}
    model.loss(*triple, log=log)
    encoded = model.encode()
    decoder = model.decoder.decoders['structure']
    query = decoder.query(model.views(encoded.select(triple[0]), triple[1])['structure'],
                          triple[1])
    score = decoder.score_all(query, model.views(encoded)['structure'])[0]
    target = torch.tensor([float((head, rel, e) in truth or e == tail) for e in range(N)])
    target = 0.9 * target + 0.1 / N
    expected = F.binary_cross_entropy_with_logits(score[model.seen], target[model.seen])
    torch.testing.assert_close(log['bce_structure'], expected.detach())


def test_softmax_of_each_head(graph, train_batch):
    model = make(graph, objective='softmax', label_smoothing=0.0)
    log = {}
    model.loss(*train_batch, log=log)
    assert set(log) == {f'softmax_{v}' for v in ('joint', *NAMES)} | {'disentanglement'}
    encoded = model.encode()
    decoder = model.decoder.decoders['structure']
    head_index, rel_type, tail_index = train_batch
    score = decoder.score_all(
        decoder.query(model.views(encoded.select(head_index), rel_type)['structure'], rel_type),
        model.views(encoded)['structure'])
    score = score.masked_fill(~model.seen, -math.inf)
    torch.testing.assert_close(log['softmax_structure'], F.cross_entropy(score, tail_index))


@pytest.mark.parametrize('kwargs', [{}, TUNED, {'num_experts': 1}, {'regularization': 0.1},
                                    {'structure_channels': 0}])
def test_momok_gradients_reach_every_parameter(kwargs, graph, train_batch):
    model = make(graph, **kwargs).train()
    model.loss(*train_batch).backward()
    own = {id(p) for p in model.alternating_parameters()}
    assert len(own) == 4 * len(model.estimators)
    for name, p in model.named_parameters():
        assert (p.grad is not None and p.grad.any()) == (id(p) not in own), name
    model.zero_grad()
    if own:
        model.alternating_loss().backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None and p.grad.any()) == (id(p) in own), name


@torch.no_grad()
def test_disentanglement_is_the_mean_of_clubs(graph):
    model = make(graph, num_experts={'text': 2, 'image': 3})
    assert set(model.estimators) == {'image', 'text'}
    assert all(isinstance(e, CLUB) for e in model.estimators.values())
    index = torch.arange(N)
    encoded = model.encode(index)
    found = model.experts_of(encoded)
    terms = []
    for m, mask in [('image', model.mask_image), ('text', model.mask_text)]:
        rows, k = found[m][0][mask], model.experts[m].num_experts
        out = model.estimators[m](rows, rows)
        terms.append(sum(out[:, i, j].mean() for i in range(k) for j in range(k) if i != j)
                     / (k * (k - 1)))
    torch.testing.assert_close(model.information(encoded), sum(terms) / 2)


def test_alternation_parts_correlated_experts(graph):
    # Experts that say the same have the most information in common; training the model on nothing
    # but the estimate, in turn with the estimator, has to lower it.
    torch.manual_seed(0)
    model = MoMoK.from_data(graph[0], **{**SMALL, 'num_experts': {'text': 2}, 'num_samples': 64,
                                         'learned_noise': False})
    experts = model.experts['text']
    with torch.no_grad():
        weight = experts.weight.view(4, 2, C)
        weight[:, 1] = weight[:, 0] + 0.1 * torch.randn(4, C)
        model.structure.weight.normal_()
    estimator = torch.optim.Adam(model.alternating_parameters(), lr=0.01)
    views = torch.optim.Adam([experts.weight, experts.bias], lr=0.01)

    def alternate(steps, train_views):
        for _ in range(steps):
            estimator.zero_grad()
            model.alternating_loss().backward()
            estimator.step()
            if train_views:
                views.zero_grad()
                model.information(model.encode(torch.arange(N))).backward()
                views.step()
        return float(model.information(model.encode(torch.arange(N))).detach())

    before = alternate(200, train_views=False)
    assert before > 1.0
    alternate(200, train_views=True)
    # The estimator has caught up, so that its view of things is no mistake of its own:
    assert alternate(200, train_views=False) < 0.5 * before


# Arguments ######################################################################################


@torch.no_grad()
def test_tuned_features(graph):
    model, tuned = make(graph, seed=3), MoMoK.from_data(graph[0], **TUNED).eval()
    assert {n for n, _ in tuned.named_parameters()} - {n for n, _ in model.named_parameters()} == {
        'shift.image.weight', 'shift.text.weight'}
    assert not any(table.weight.any() for table in tuned.shift.values())
    state = {**tuned.state_dict(), **model.state_dict()}
    tuned.load_state_dict(state)
    queries = generic.queries()
    expected = model.score_all(*queries)
    assert tuned.score_all(*queries).equal(expected)
    # Added to the feature, it is the feature:
    shift = torch.randn(N, 4)
    tuned.shift['text'].weight.copy_(shift)
    model.x_text = model.x_text + shift
    torch.testing.assert_close(tuned.score_all(*queries), model.score_all(*queries))
    assert not torch.allclose(tuned.score_all(*queries), expected)


@pytest.mark.parametrize('kwargs, match', [
    ({'objective': 'hinge'}, "Unknown 'objective' 'hinge'"),
    ({'objective': 'sampled'}, r"'MoMoK' trains each head over all entities \(expected "
                               "'neg_sampling' to be None and 'objective' 'bce' or 'softmax'"),
    ({'num_samples': 0}, r"'num_samples' needs to be at least 1 \(got 0\)"),
    ({'num_experts': {'audio': 2}}, "'num_experts' names the unknown modality 'audio'"),
    ({'num_branches': 0}, r"'num_branches' needs to be at least 1 \(got 0\)"),
    ({'fusion_dropout': 1.0}, r"'dropout' needs to be in \[0, 1\) \(got 1.0\)"),
    ({'query_dropout': -0.1}, "'hidden_dropout' needs to be in"),
    ({'label_smoothing': 1.0}, "'label_smoothing' needs to be in"),
])
def test_invalid_arguments_of_momok(kwargs, match, graph):
    with pytest.raises(ValueError, match=match):
        MoMoK.from_data(graph[0], **{**SMALL, **kwargs})


def test_no_modality_of_momok_is_called_joint():
    with pytest.raises(ValueError, match="'in_channels' must not name 'joint'"):
        MoMoK(N, R, {'joint': 3})


def test_bce_of_momok_needs_a_graph():
    model = MoMoK(N, R, {}, hidden_channels=4)
    with pytest.raises(ValueError, match=r"knows no graph to look answers up in for 'bce'"):
        model.loss(*torch.zeros(3, 1, dtype=torch.long))


def test_without_estimators_nothing_alternates(graph):
    model = make(graph, disentanglement_weight=0.0)
    assert model.alternating_parameters() == model.gates() == []
    with pytest.raises(NotImplementedError, match="'MoMoK' alternates nothing"):
        model.alternating_loss()


def test_recipes_of_momok(graph, monkeypatch):
    monkeypatch.setitem(recipe.MODELS, 'momok', MoMoK)
    for name in ('momok', 'momok-atlas', 'momok-as-released'):
        found = recipe.Recipe.from_file(recipe.FOLDER / f'{name}.yaml')
        assert found.model['name'] == 'momok'
        model = found.override(['model.hidden_channels=4']).build(graph[0])
        assert isinstance(model, MoMoK)
    assert (model.label_smoothing, model.smoothing_mass) == (0.1, 1.0)
    assert set(model.shift) == {'image', 'text'}
    with pytest.raises(ValueError, match="'MoMoK' trains each head over all entities"):
        found.override(['sampler=uniform']).build(graph[0])


def test_momok_learns(graph):
    torch.manual_seed(0)
    model = MoMoK.from_data(graph[0], hidden_channels=16, init_scale=0.5, label_smoothing=0.0,
                            input_dropout=0.0, query_dropout=0.0)
    triples = get_triples(graph[0], 'train')
    before = model.test(*triples, batch_size=64, log=False)[1]
    result = Trainer(TrainConfig(epochs=40, batch_size=64, select=None, device='cpu',
                                 optimizer='adam', lr=0.01, dense_lr=0.01)).fit(model, graph[0])
    losses = [entry['loss'] for entry in result.history]
    assert losses[-1] < 0.5 * losses[0]
    after = model.test(*triples, batch_size=64, log=False)[1]
    assert after > 0.6 > 2 * before


@torch.no_grad()
def test_unseen_entities_of_momok_lack_structure(graph):
    model = make(graph)
    seen = seen_entities(graph[0])
    weights = model.modality_weights(torch.arange(N))
    assert (weights[~seen, 1] == 0).all()
    assert (weights[seen, 1] > 0).all()


@pytest.mark.parametrize('rows', [1, 7, N - 1])
def test_views_of_some_candidates_at_a_time(graph, monkeypatch, rows):
    model = make(graph, double=True, **without_dropout(tune_features=True)).train()
    weight = torch.randn_like(model.candidate_vectors(model.encode()))

    def run():
        out = model.candidate_vectors(model.encode())
        grads = torch.autograd.grad((out * weight).sum(), list(model.parameters()),
                                    allow_unused=True)
        return [out, *(x for x in grads if x is not None)]

    whole = run()
    monkeypatch.setattr(momok, 'TRAINED_ROWS', rows)
    monkeypatch.setattr(momok, 'BLOCK_ROWS', rows)
    with torch.no_grad():
        torch.testing.assert_close(model.candidate_vectors(model.encode()), whole[0],
                                   rtol=0, atol=1e-12)
    for a, b in zip(run(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_views_that_are_made_again_have_the_same_noise(graph, monkeypatch):
    monkeypatch.setattr(momok, 'TRAINED_ROWS', N // 2)
    model = make(graph, double=True).train()
    weight = model.fusion.bias['text']

    def loss():
        torch.manual_seed(3)
        return model.candidate_vectors(model.encode()).square().sum()

    found, = torch.autograd.grad(loss(), weight)
    step = torch.zeros_like(weight)
    step[0] = 1e-6
    weight.data += step
    after = loss().item()
    weight.data -= 2 * step
    before = loss().item()
    assert found[0].item() == pytest.approx((after - before) / 2e-6, rel=1e-5)
    assert found[0] != 0
