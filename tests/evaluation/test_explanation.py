import json

import pytest
import torch

from pyg_mmkgc.data import STRUCTURE, get_triples, seen_entities, set_modality
from pyg_mmkgc.evaluation import evaluate, explain, predict
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, LateFusion, MoCME, MoMoK, NearestNeighbour
from pyg_mmkgc.testing import FakeMMKG

SMALL = {
    ComplEx: {'hidden_channels': 8},
    AdditiveComplEx: {'hidden_channels': 8},
    LateFusion: {'hidden_channels': 8},
    MoCME: {'hidden_channels': 8, 'num_experts': 2},
    MoMoK: {'hidden_channels': 8, 'num_experts': 2},
    NearestNeighbour: {'num_neighbours': 4},
}
MULTI_MODAL = [cls for cls in SMALL if cls is not ComplEx]
JOINT = [LateFusion, MoCME, MoMoK]


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(inductive=True)[0]


def build(cls, data):
    torch.manual_seed(0)
    model = cls.from_data(data, **SMALL[cls])
    for p in model.parameters():  # Gates that are all equal would hide which of them is which.
        torch.nn.init.normal_(p, std=0.5)
    model.train()
    if isinstance(model, MoCME):
        model.encode()  # Fills the bank of references.
    return model


def triple(data, i, split='test'):
    return [int(x[i]) for x in get_triples(data, split)]


def tensors(*ids):
    return [torch.tensor([i]) for i in ids]


def full_triple(data, model):
    r"""A test triple whose entities differ and both have all modalities."""
    for i in range(get_triples(data, 'test')[1].numel()):
        h, r, t = triple(data, i)
        _, mask = model.inputs(torch.tensor([h, t]))
        if h != t and all(bool(x.all()) for x in mask.values()):
            return h, r, t
    raise AssertionError


@pytest.mark.parametrize('cls', SMALL)
def test_score_rank_and_probability(cls, data):
    model = build(cls, data)
    found = evaluate(model, data, 'test')
    for i in range(0, len(found.ranks['tail']), 11):
        h, r, t = triple(data, i)
        out = explain(model, data, h, r, t, temperature=0.7)
        assert out.rank == float(found.ranks['tail'].rank[i])
        assert out.head_rank == float(found.ranks['head'].rank[i])
        assert out.num_candidates == int(found.ranks['tail'].num_candidates[i])
        with torch.no_grad():
            model.eval()
            assert out.score == pytest.approx(float(model(*tensors(h, r, t))), rel=1e-4)
            model.train()
        answer, = [a for a in predict(model, data, head=h, relation=r, top=99, temperature=0.7)
                   if a['entity'] == data['entity'].label[t]]
        assert out.probability == pytest.approx(answer['probability'])
        assert (out.known, out.calibrated) == (answer['known'], True)
    assert model.training


def test_rank_among_entities_seen_in_training(data):
    data = data.clone()
    data.candidates = 'seen'
    model = build(MoCME, data)
    h, r, t = full_triple(data, model)
    out = explain(model, data, h, r, t)
    known = {(a, b, c) for split in ('train', 'val', 'test', 'inductive_test')
             for a, b, c in zip(*(x.tolist() for x in get_triples(data, split)), strict=True)}
    model.eval()
    score = model.score_all(*tensors(h, r))[0].tolist()
    rivals = [e for e in seen_entities(data).nonzero().view(-1).tolist()
              if e != t and (h, r, e) not in known]
    assert out.rank == 1 + sum(score[e] > score[t] for e in rivals)
    assert (out.num_candidates, out.candidates) == (1 + len(rivals), 'seen')
    new = FakeMMKG(inductive=True).held_out[0]
    assert explain(model, data, new, r, t).candidates == 'all'
    assert explain(model, data, h, r, new).candidates == 'all'


@pytest.mark.parametrize('cls', SMALL)
def test_without_temperature(cls, data):
    model = build(cls, data)
    h, r, t = triple(data, 3)
    out = explain(model, data, h, r, t)
    answer, = [a for a in predict(model, data, head=h, relation=r, top=99)
               if a['entity'] == data['entity'].label[t]]
    assert out.probability == pytest.approx(answer['probability'])
    assert not out.calibrated


@pytest.mark.parametrize('cls', JOINT)
def test_contributions_sum_to_the_score_where_views_are_missing(cls, data):
    model = build(cls, data).eval()
    triples = get_triples(data, 'test')
    with torch.no_grad():
        parts, score = model.contributions(*triples), model(*triples)
    assert torch.allclose(sum(parts.values()), score, rtol=1e-3, atol=1e-3)
    missing = ~data['entity'].text_mask[triples[2]]
    assert bool(missing.any())
    assert bool((parts['text'][missing] == 0).all())


@pytest.mark.parametrize('cls', JOINT)
def test_contributions_are_what_a_head_is_worth(cls, data):
    model = build(cls, data)
    h, r, t = full_triple(data, model)
    out = explain(model, data, h, r, t)
    assert sum(out.contributions.values()) == pytest.approx(out.score, rel=1e-4)
    assert list(out.contributions) == list(model.decoder.decoders)
    if cls is MoMoK:
        assert all(0 < part < 1 / len(out.contributions) + 1e-6
                   for part in out.contributions.values()), out.contributions
        return
    for i, part in enumerate(out.contributions.values()):
        other = build(cls, data)
        other.load_state_dict(model.state_dict())
        other.decoder.weight.data[i] = -1e9  # Its gate is zero then, and so is its offset.
        other.decoder.offset.data[i] = 0
        other.decoder.relation_offset.weight.data[:, i] = 0
        left = float(other.eval()(*tensors(h, r, t)).detach())
        assert out.score - left == pytest.approx(part, abs=1e-4)


@pytest.mark.parametrize('cls', MULTI_MODAL)
def test_removal_is_a_mask(cls, data):
    model = build(cls, data)
    h, r, t = full_triple(data, model)
    out = explain(model, data, h, r, t)
    assert {(x.modality, x.of) for x in out.removals} == {
        (m, of) for m in model.modalities for of in ('head', 'tail', 'both')}
    for removal in out.removals:
        entities = {'head': [h], 'tail': [t], 'both': [h, t]}[removal.of]
        changed = data.clone()
        if removal.modality != STRUCTURE:
            mask = data['entity'][f'{removal.modality}_mask'].clone()
            mask[entities] = False
            set_modality(changed, removal.modality, data['entity'][removal.modality], mask)
        other = build(cls, changed)
        other.load_state_dict(model.state_dict())
        if removal.modality == STRUCTURE:
            other.seen[entities] = False
        other.eval()
        score = other.score_all(*tensors(h, r))[0].detach()
        assert removal.score == pytest.approx(float(score[t]), rel=1e-4)
        expected = explain(other, data, h, r, t, top=0)
        assert removal.rank == expected.rank
    # Nothing of it stays in the model:
    assert explain(model, data, h, r, t) == out


def test_structure_is_removed_as_of_an_entity_that_training_never_saw(data):
    model = build(MoCME, data).eval()
    h, r, t = full_triple(data, model)
    features = {m: data['entity'][m][[t]] for m in model.in_channels}
    with torch.no_grad():
        head = model.head_vectors(model.encode(torch.tensor([h])), torch.tensor([0]),
                                  torch.tensor([r]))
        tail = model.candidate_vectors(model.embed(features))
        score = model.decoder.score(model.decoder.query(head, torch.tensor([r])), tail)
    removal, = [x for x in explain(model, data, h, r, t).removals
                if (x.modality, x.of) == (STRUCTURE, 'tail')]
    assert removal.score == pytest.approx(float(score), rel=1e-4)


def test_only_what_is_there_is_removed(data):
    dataset = FakeMMKG(inductive=True)
    model = build(MoCME, data)
    out = explain(model, data, dataset.bare_entity, 0, dataset.isolated_entity)
    assert {(x.modality, x.of) for x in out.removals} == {
        (STRUCTURE, 'head'), *((m, 'tail') for m in ('image', 'numeric', 'text'))}
    assert out.head.modalities == [STRUCTURE]
    assert out.tail.modalities == ['image', 'numeric', 'text']
    assert out.tail.modality_weights[STRUCTURE] == 0
    loop = explain(model, data, 3, 0, 3)
    assert {x.of for x in loop.removals} == {'both'}


@pytest.mark.parametrize('cls', [MoCME, MoMoK, LateFusion])
def test_weights(cls, data):
    model = build(cls, data)
    h, r, t = full_triple(data, model)
    out = explain(model, data, h, r, t)
    model.eval()
    for end, query in ((out.head, tensors(h, r)), (out.tail, tensors(t))):
        expected = model.modality_weights(*query)[0]
        assert list(end.modality_weights.values()) == expected.tolist()
        if cls is LateFusion:
            assert end.expert_weights is None
            assert not end.has_experts
            continue
        assert end.has_experts
        for m, weights in end.expert_weights.items():
            assert sum(weights) == pytest.approx(1)
            assert len(weights) == 2
            assert weights == model.expert_weights(*query)[m][0].tolist()


def test_expert_weights_of_momok_make_its_views(data):
    model = build(MoMoK, data).eval()
    h, r, _ = full_triple(data, model)
    encoded, rel_type = model.encode(torch.tensor([h])), torch.tensor([r])
    weights = explain(model, data, h, r, h).head.expert_weights
    for m, (views, _) in model.experts_of(encoded).items():
        expected = sum(w * views[0, k] for k, w in enumerate(weights[m]))
        assert torch.allclose(model.views(encoded, rel_type)[m][0], expected, atol=1e-5)


def test_redundancy(data):
    model = build(MoCME, data)
    h, r, t = full_triple(data, model)
    out = explain(model, data, h, r, t)
    model.eval()
    views = model.encode(torch.tensor([t])).views
    assert list(out.tail.modality_redundancy.values()) == views.modality_redundancy[0].tolist()
    assert [x for part in out.tail.view_redundancy.values() for x in part] == (
        views.view_redundancy[0].tolist())
    assert any(out.tail.modality_redundancy.values())
    assert explain(build(MoMoK, data), data, h, r, t).head.modality_redundancy is None


@pytest.mark.parametrize('cls', SMALL)
def test_similar_facts(cls, data):
    model = build(cls, data)
    h, r, t = triple(data, 2, 'train')
    out = explain(model, data, h, r, t, top=4)
    model.eval()

    def cosine(a, b, *relation):
        x, y = (model.joint_view(torch.tensor([e]), *relation)[0].double() for e in (a, b))
        norm = float(x.norm() * y.norm())
        return float(x @ y) / norm if norm > 0 else 0.0

    expected = {}
    for a, b, c in zip(*(x.tolist() for x in get_triples(data, 'train')), strict=True):
        if b == r and (a, c) != (h, t):
            sides = cosine(h, a, torch.tensor([r])), cosine(t, c)
            expected[data['entity'].label[a], data['entity'].label[c]] = sum(sides) / 2
    best = sorted(expected.values(), reverse=True)[:4]
    assert [fact.similarity for fact in out.similar] == pytest.approx(best, abs=1e-4)
    for fact in out.similar:
        assert fact.similarity == pytest.approx(expected[fact.head, fact.tail], abs=1e-4)
        assert fact.similarity == pytest.approx((fact.head_similarity + fact.tail_similarity) / 2)
    assert explain(model, data, h, r, t, top=0).similar == []


def test_relation_without_training_facts(data):
    out = explain(build(MoCME, data), data, 1, FakeMMKG().unseen_relation, 3)
    assert out.similar == []


def test_what_a_model_does_not_know(data):
    out = explain(build(ComplEx, data), data, 1, 0, 2)
    assert (out.modalities, out.contributions, out.removals) == (None, None, [])
    assert out.notes() == ['ComplEx knows entities by structure alone: it weighs no modality, and '
                           'none can be removed.']
    notes = explain(build(AdditiveComplEx, data), data, 1, 0, 2).notes()
    assert notes == ['AdditiveComplEx does not weigh modalities.',
                     'AdditiveComplEx has one score function, so no head has a share.',
                     'AdditiveComplEx does not estimate how complementary modalities are.']
    assert explain(build(MoCME, data), data, 1, 0, 2).notes() == []


def test_labels_and_json(data):
    out = explain(build(MoCME, data), data, 'entity 1', 'Relation 0', 'entity 2')
    values = json.loads(json.dumps(out.to_dict()))
    assert (values['head']['label'], values['relation'], values['tail']['entity']) == (
        'entity 1', 'relation 0', 2)
    first = out.removals[0]
    assert values['removals'][0] == {'modality': first.modality, 'of': first.of,
                                     'score': first.score, 'rank': first.rank}
    assert values['notes'] == []


@pytest.mark.parametrize('changes,message', [
    ({'head': 'entity x'}, "Unknown entity 'entity x'"),
    ({'relation': 'r'}, "Unknown relation 'r'"),
    ({'tail': 400}, 'Unknown entity 400'),
    ({'top': -1}, r"'top' needs to be at least 0 \(got -1\)"),
    ({'temperature': 0.0}, "'temperature' needs to be positive"),
])
def test_explain_errors(changes, message, data):
    arguments = {'head': 1, 'relation': 0, 'tail': 2, **changes}
    with pytest.raises(ValueError, match=message):
        explain(build(ComplEx, data), data, **arguments)


def test_without_unknown_modality(data):
    model = build(MoCME, data)
    with pytest.raises(ValueError, match=r"Unknown modality 'smell' \(expected one of \['image'"):
        model.without('smell', torch.tensor([0]))
