import numpy as np
import pytest
import torch

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.nn import CLUB, CMKF, ComplEx, InfoNCE, MoCME
from pyg_mmkgc.nn.decoders import ComplExDecoder, TuckERDecoder
from pyg_mmkgc.testing import FakeMMKG

N, R, C = 24, 3, 6
NAMES = ['image', 'structure', 'text']


@pytest.fixture(scope='module')
def graph():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, seed=1)


def make(graph, **kwargs):
    torch.manual_seed(0)
    model = MoCME.from_data(graph[0], **{'hidden_channels': C, 'num_references': 8,
                                         'init_scale': 0.5, **kwargs})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.train().encode()
    return model.eval()


def available(model):
    masks = {'image': model.mask_image, 'text': model.mask_text, 'structure': model.seen}
    return torch.stack([masks[m] for m in NAMES], dim=1)


@torch.no_grad()
@pytest.mark.parametrize('heads', [None, ['text'], []])
@pytest.mark.parametrize('with_relation', [True, False])
def test_modality_weights(with_relation, heads, graph):
    model = make(graph, heads=heads)
    heads = NAMES if heads is None else heads
    index = torch.arange(N)
    rel_type = index % (2 * R) if with_relation else None
    out = model.modality_weights(index, rel_type)
    assert out.shape == (N, 3)
    assert model.modalities == NAMES
    mask = available(model)
    for e in range(N):
        encoded = model.encode(torch.tensor([e]))
        r = rel_type[e:e + 1] if with_relation else None
        beta = model.conv.weights(encoded, r)[1][0]
        weight = model.decoder.weight
        if with_relation:
            weight = weight + model.decoder.relation_weight.weight[r[0]]
        lam = dict(zip(['joint', *heads], weight.exp().tolist(), strict=True))
        total = lam['joint'] * float(beta.sum()) + sum(
            lam[m] for i, m in enumerate(NAMES) if m in heads and mask[e, i])
        for i, m in enumerate(NAMES):
            expected = lam['joint'] * float(beta[i]) + (
                lam[m] if m in heads and mask[e, i] else 0.0)
            assert float(out[e, i]) == pytest.approx(expected / total if total else 0.0, abs=1e-5)
    assert (out[~mask] == 0).all()
    torch.testing.assert_close(out.sum(dim=1), mask.any(dim=1).float())


@torch.no_grad()
def test_an_entity_with_nothing_has_no_weights(graph):
    data = graph[0].clone()
    for m in ('image', 'text'):
        data['entity'][f'{m}_mask'][graph.test_only_entity] = False
    torch.manual_seed(0)
    model = MoCME.from_data(data, hidden_channels=C).eval()
    out = model.modality_weights(torch.tensor([graph.test_only_entity, 1]))
    assert out[0].equal(torch.zeros(3))
    assert float(out[1].sum()) == pytest.approx(1.0)


@torch.no_grad()
def test_entities_under_a_relation_and_as_candidates(graph):
    model = make(graph)
    encoded = model.encode()
    row, rel_type = torch.tensor([1, 1, 5]), torch.tensor([0, 4, 4])
    head, table = model.head_vectors(encoded, row, rel_type), model.candidate_vectors(encoded)
    assert head.shape == (3, 4 * C + 4)
    assert table.shape == (N, 4 * C + 4)
    torch.testing.assert_close(head[:, :C], model.conv.joint(encoded.select(row), rel_type))
    torch.testing.assert_close(table[:, :C], model.conv.joint(encoded))
    # The relation changes how an entity is seen, but not what it has:
    assert not torch.allclose(head[0, :C], head[1, :C])
    expected = torch.cat([torch.ones(N, 1), available(model).float()], dim=1)
    assert table[:, -4:].equal(expected)
    assert head[:, -4:].equal(expected[row])
    # What an entity lacks is zero:
    for i in range(3):
        missing = ~available(model)[:, i]
        assert missing.any()
        assert not table[missing, (i + 1) * C:(i + 2) * C].any()
        assert table[~missing, (i + 1) * C:(i + 2) * C].abs().sum(dim=1).min() > 0


@torch.no_grad()
def test_a_score_is_the_sum_of_its_heads(graph):
    model = make(graph)
    triples = get_triples(graph[0], 'val')
    head_index, rel_type, tail_index = triples
    encoded, mask = model.encode(), available(model)
    joint, views = model.conv.views(encoded.select(head_index), rel_type)
    candidate, candidates = model.conv.views(encoded)
    lam = (model.decoder.weight + model.decoder.relation_weight.weight[rel_type]).exp()
    decoders = model.decoder.decoders
    offset = model.decoder.offset + model.decoder.relation_offset.weight[rel_type]
    expected = lam[:, 0] * decoders['joint'](joint, rel_type, candidate[tail_index])
    of_head, common, offsets = lam[:, 0], lam[:, 0], offset[:, 0]
    for i, m in enumerate(NAMES):
        both = mask[head_index, i] & mask[tail_index, i]
        assert both.any()
        expected = expected + lam[:, i + 1] * both * decoders[m](views[m], rel_type,
                                                                 candidates[m][tail_index])
        of_head = of_head + lam[:, i + 1] * mask[head_index, i]
        common, offsets = common + lam[:, i + 1] * both, offsets + offset[:, i + 1] * both
    expected = expected * of_head / common + offsets
    torch.testing.assert_close(model(*triples), expected, rtol=1e-4, atol=1e-4)


def test_what_arguments_build(graph):
    model = make(graph)
    assert model.modality_dropout == {'image': 0.2, 'structure': 0.5, 'text': 0.2}
    assert {m: e.dropout for m, e in model.conv.experts.items()} == {
        'image': 0.2, 'structure': 0.0, 'text': 0.2}
    assert {m: e.num_experts for m, e in model.conv.experts.items()} == dict.fromkeys(NAMES, 3)
    assert list(model.decoder.decoders) == ['joint', *NAMES]
    assert isinstance(model.decoder.decoders['joint'], ComplExDecoder)
    assert isinstance(model.conv.fusion, CMKF)
    assert all(isinstance(e, InfoNCE) for e in model.conv.fusion.estimators())

    model = make(graph, num_experts={'text': 4}, dropout={'structure': 0.1, 'text': 0.3},
                 decoder='tucker', heads=['text', 'image'], estimator='club', inter=False,
                 temperature=0.5, modality_temperature=0.7, noise=0.2, max_samples=9,
                 structure_channels=7)
    assert {m: e.dropout for m, e in model.conv.experts.items()} == {
        'image': 0.0, 'structure': 0.1, 'text': 0.3}
    assert {m: e.num_experts for m, e in model.conv.experts.items()} == {
        'image': 1, 'structure': 1, 'text': 4}
    assert list(model.decoder.decoders) == ['joint', 'image', 'text']
    assert isinstance(model.decoder.decoders['text'], TuckERDecoder)
    fusion = model.conv.fusion
    assert [type(e) for e in fusion.estimators()] == [CLUB]
    assert (fusion.temperature, fusion.modality_temperature) == (0.5, 0.7)
    assert (fusion.num_references, fusion.max_samples) == (8, 9)
    assert all(e.noise == 0.2 for e in model.conv.experts.values())
    assert model.structure.weight.shape == (N, 7)
    assert make(graph, uniform=True).conv.fusion.uniform


def test_parts_of_the_loss(graph):
    triples = get_triples(graph[0], 'train')
    heads = {'softmax_joint', *(f'softmax_{m}' for m in NAMES), 'softmax_decision'}
    for kwargs, expected in [
        ({}, heads | {'information'}),
        ({'estimator': 'club'}, heads),
        ({'intra': False, 'inter': False}, heads),
        ({'redundancy_weight': 0.1, 'heads': []}, {'softmax', 'information', 'redundancy'}),
        ({'heads': ['text'], 'regularization': 0.1, 'uniform': True},
         {'softmax_joint', 'softmax_text', 'softmax_decision', 'regularization'}),
        ({'consistency': 0.1}, heads | {'information', 'consistency'}),
    ]:
        log = {}
        make(graph, **kwargs).loss(*triples, log=log)
        assert set(log) == expected


def test_auxiliary_losses(graph):
    model = make(graph, redundancy_weight=0.25)
    encoded = model.encode()
    parts = model.auxiliary_losses(encoded, torch.arange(3))
    fusion = model.conv.fusion
    torch.testing.assert_close(parts['information'], fusion.learning_loss(encoded.views))
    torch.testing.assert_close(parts['redundancy'], 0.25 * fusion.redundancy(encoded.views))
    assert parts['redundancy'].detach().abs() > 0


def test_club_alternates(graph):
    model = make(graph, estimator='club')
    own = {id(p) for e in model.conv.fusion.estimators() for p in e.parameters()}
    assert {id(p) for p in model.alternating_parameters()} == own
    assert len(own) == 16  # Three modalities and what lies between them, four tensors each.
    assert make(graph).alternating_parameters() == []
    encoded = model.encode()
    torch.testing.assert_close(model.alternating_loss(),
                               model.conv.fusion.learning_loss(encoded.views))


@torch.no_grad()
def test_modality_dropout_reaches_the_weights(graph):
    model = make(graph, modality_dropout={'text': 0.9}, noise=0.0, dropout=0.0).train()
    torch.manual_seed(0)
    encoded = model.encode()
    kept = encoded.views.kept[:, 2]
    assert int(kept.sum()) < 0.5 * int(model.mask_text.sum())
    _, beta = model.conv.weights(encoded)
    assert (beta[~kept, 2] == 0).all()


@torch.no_grad()
def test_unseen_entities_lack_structure(graph):
    model = make(graph)
    seen = seen_entities(graph[0])
    weights = model.modality_weights(torch.arange(N))
    assert (weights[~seen, 1] == 0).all()
    assert (weights[seen, 1] > 0).all()


@pytest.mark.parametrize('kwargs, match', [
    ({'decoder': 'conve'}, r"Unknown 'decoder' 'conve' .*'complex', 'distmult'"),
    ({'estimator': 'mine'}, r"Unknown 'estimator' 'mine' .*\['club', 'info_nce'\]"),
    ({'heads': ['audio']}, r"'heads' names the unknown modality 'audio' .*'image', 'structure'"),
    ({'heads': ['structure'], 'structure_channels': 0}, r"unknown modality 'structure'"),
    ({'num_experts': {'audio': 2}}, r"'num_experts' names the unknown modality 'audio'"),
    ({'dropout': {'audio': 0.2}}, r"'dropout' names the unknown modality 'audio'"),
    ({'num_experts': 0}, r"'num_experts' needs to be at least 1"),
    ({'hidden_channels': 5}, r"'channels' needs to be even"),
    ({'temperature': -1.0}, r"'temperature' needs to be positive"),
    ({'consistency': -0.5}, r"'consistency' needs to be at least 0, .* \(got -0.5\)"),
    ({'consistency': 1.0, 'structure_channels': 0}, r"'consistency' .* 0 without structure"),
    ({'train_structure': 'joint'}, r"Unknown 'train_structure' 'joint' .*\['all', 'head'\]"),
    ({'train_structure': 'head'}, r"'project_structure' is False .*, True, 0.0\)"),
    ({'train_structure': 'head', 'num_experts': 1, 'project_structure': False, 'heads': ['text']},
     r"'train_structure' may be 'head' if 'structure' is in 'heads', .* \(got \['text'\], False"),
    ({'train_structure': 'head', 'num_experts': 1, 'project_structure': False, 'consistency': 2.0},
     r"'consistency' is 0 \(got .*, False, 2.0\)"),
    ({'gate_dropout': 1.5}, r"'gate_dropout' needs to be in \[0, 1\] \(got 1.5\)"),
])
def test_invalid_arguments_of_mocme(kwargs, match, graph):
    with pytest.raises(ValueError, match=match):
        MoCME.from_data(graph[0], **kwargs)


def test_a_modality_must_not_be_called_joint():
    with pytest.raises(ValueError, match="'in_channels' must not name 'joint'"):
        MoCME(N, R, {'joint': 3})


def test_heads_keep_what_the_joint_view_drops(graph):
    model = make(graph, modality_dropout=0.9, dropout=0.0).train()
    torch.manual_seed(0)
    encoded = model.encode()
    dropped = encoded.views.mask & ~encoded.views.kept
    assert dropped.any()
    _, beta = model.conv.weights(encoded)
    assert not beta[dropped].any()
    _, views = model.conv.views(encoded)
    for i, m in enumerate(model.modalities):
        assert views[m][dropped[:, i]].abs().sum(dim=1).gt(0).all()
    model.eval()
    assert model.encode().views.kept.equal(encoded.views.mask)


@torch.no_grad()
def test_the_head_of_structure_is_a_plain_model(graph):
    model = make(graph, num_experts=1, project_structure=False)
    encoded = model.encode()
    _, views = model.conv.views(encoded)
    seen = seen_entities(graph[0])
    assert views['structure'][seen].equal(model.structure.weight[seen])
    assert not list(model.conv.experts['structure'].parameters())


PLAIN = {'num_experts': 1, 'project_structure': False, 'modality_dropout': 0.0, 'dropout': 0.0}


def test_structure_that_learns_from_its_head_alone(graph):
    models = {name: make(graph, **PLAIN, train_structure=name, objective='softmax',
                         regularization=0.1) for name in ('all', 'head')}
    head_index, rel_type, tail_index = get_triples(graph[0], 'train')
    grads = {}
    for name, model in models.items():
        model.train()
        model.held_out_gates = True
        torch.manual_seed(1)  # The same reference bank.
        model.loss(head_index, rel_type, tail_index).backward()
        grads[name] = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    # What is asked is the same, and so is what all else learns:
    torch.testing.assert_close(models['head'].eval()(head_index, rel_type, tail_index),
                               models['all'].eval()(head_index, rel_type, tail_index))
    assert set(grads['head']) == set(grads['all'])
    for key in set(grads['head']) - {'structure.weight'}:
        torch.testing.assert_close(grads['head'][key], grads['all'][key])
    # The table learns what it would in a model of structure alone:
    plain = ComplEx.from_data(graph[0], hidden_channels=C, regularization=0.1)
    with torch.no_grad():
        plain.structure.weight.copy_(models['head'].structure.weight)
        plain.decoder.rel_emb.weight.copy_(
            models['head'].decoder.decoders['structure'].rel_emb.weight)
    plain.train().loss(head_index, rel_type, tail_index).backward()
    torch.testing.assert_close(grads['head']['structure.weight'], plain.structure.weight.grad)
    assert not torch.allclose(grads['all']['structure.weight'], plain.structure.weight.grad)


@torch.no_grad()
def test_structure_apart_is_missing_where_it_is_not_there(graph):
    model = make(graph, **PLAIN, train_structure='head')
    seen = seen_entities(graph[0])
    assert not seen.all()
    views = model.candidate_views(model.encode())
    assert views['structure'][seen].equal(model.structure.weight[seen])
    assert not views['structure'][~seen].any()
    row = torch.tensor([3, 0, 3])
    assert model.encode().select(row).apart['structure'].equal(views['structure'][row])
    assert model.encode(row).apart['structure'].equal(views['structure'][row])


def keep(monkeypatch, kept):
    monkeypatch.setattr('pyg_mmkgc.nn.models.multi_modal.drop_modalities',
                        lambda mask, p: mask & kept)


def joint_by_hand(model, encoded, e, kept):
    # The softmax over the modalities that are left, in double precision.
    views, fusion = encoded.views, model.conv.fusion
    logits = (fusion.modality_weight.detach().double().numpy()
              - float(fusion.redundancy_scale.detach().exp()) / fusion.modality_temperature
              * views.modality_redundancy[e].double().numpy())
    weight = model.conv.weights(encoded)[0][e].detach().double().numpy()
    total, out = sum(np.exp(logits[i]) for i in kept), np.zeros(C)
    for i in kept:
        for k in range(3):
            view = views.views[e, 3 * i + k].detach().double().numpy()
            out += np.exp(logits[i]) / total * weight[3 * i + k] * view
    return out


def test_consistency_by_hand(graph, monkeypatch):
    model = make(graph, consistency=0.25)
    encoded = model.encode()
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(N, 3, generator=generator) < 0.5
    left[:, 1] = True  # Structure.
    keep(monkeypatch, left)
    error = norm = 0.0
    for e in seen_entities(graph[0]).nonzero().view(-1).tolist():
        has = [i for i in range(3) if encoded.views.mask[e, i]]
        whole = joint_by_hand(model, encoded, e, has)
        part = joint_by_hand(model, encoded, e, [i for i in has if left[e, i]])
        error, norm = error + ((part - whole)**2).sum(), norm + (whole**2).sum()
    out = model.consistency_loss(encoded)
    assert float(out.detach()) == pytest.approx(error / norm, rel=1e-4)
    assert error / norm > 0.01
    parts = model.auxiliary_losses(encoded, torch.arange(3))
    torch.testing.assert_close(parts['consistency'], 0.25 * out)
    keep(monkeypatch, torch.ones(N, 3, dtype=torch.bool))
    assert float(model.consistency_loss(encoded).detach()) == 0


def test_what_is_gone_learns_nothing_from_consistency(graph, monkeypatch):
    model = make(graph)
    left = torch.zeros(N, 3, dtype=torch.bool)
    left[:, 1] = True
    keep(monkeypatch, left)
    model.consistency_loss(model.encode()).backward()
    for m in ('image', 'text'):  # The whole is a constant.
        assert not model.conv.experts[m].weight.grad.any()
    grad = model.structure.weight.grad.abs().sum(dim=1)
    seen = seen_entities(graph[0])
    alone = ~(model.mask_image | model.mask_text)
    assert (grad[seen & ~alone] > 0).all()
    assert not grad[~seen | alone].any()


def test_entities_unseen_in_training_do_not_count_for_consistency(graph, monkeypatch):
    keep(monkeypatch, torch.tensor([[False, True, True]]).expand(N, 3))
    losses = []
    for factor in (1.0, 7.0):
        model = make(graph)
        model.x_image[~model.seen] *= factor
        losses.append(model.consistency_loss(model.encode()))
    assert losses[0].equal(losses[1])


def test_structure_learns_to_stand_in(graph):
    model = make(graph).train()
    optimizer = torch.optim.Adam([model.structure.weight], lr=0.05)
    losses = []
    for _ in range(150):
        loss = model.consistency_loss(model.eval().encode())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])


@torch.no_grad()
def test_gates_learn_from_entities_that_lack_modalities(graph):
    model, whole = make(graph, gate_dropout=1.0), make(graph)
    expected = whole.encode().views.mask
    torch.manual_seed(0)
    views = model.encode_for_gates().views
    gone = expected & ~views.mask
    assert 0.3 < float(gone[:, [0, 2]].sum() / expected[:, [0, 2]].sum()) < 0.6
    assert not gone[:, 1].any()
    assert not (views.mask & ~expected).any()
    assert views.mask.any(dim=1).equal(expected.any(dim=1))
    assert views.kept.equal(views.mask)  # From the heads of modalities, too.
    index = torch.tensor([3, 5])
    assert model.encode_for_gates(index).views.mask.size(0) == 2
    # Half of the steps see everything, and without it no random number is drawn.
    model.gate_dropout = 0.5
    full = sum(model.encode_for_gates().views.mask.equal(expected) for _ in range(100))
    assert 30 < full < 70
    state = torch.get_rng_state()
    assert whole.encode_for_gates().views.mask.equal(expected)
    assert torch.get_rng_state().equal(state)


def test_the_gate_loss_goes_through_what_gates_are_to_see(graph):
    model = make(graph, gate_dropout=1.0)
    triples = get_triples(graph[0], 'val')
    losses = {float(model.gate_loss(*triples).detach()) for _ in range(5)}
    assert len(losses) > 1
    model.gate_dropout = 0.0
    assert len({float(model.gate_loss(*triples).detach()) for _ in range(3)}) == 1
