r"""Graphs, batches and models at the ends of their ranges: they train, and their ranks hold."""
import time

import pytest
import torch

from pyg_mmkgc.data import build_data, build_index, get_triples
from pyg_mmkgc.evaluation import evaluate, rank, ranking
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoCMEConv, MoMoK
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import TrainConfig, Trainer

MODELS = {
    'complex': (ComplEx, {}),
    'additive': (AdditiveComplEx, {}),
    'mocme': (MoCME, {'num_references': 8, 'max_samples': 16}),
    'mocme_club': (MoCME, {'num_references': 8, 'max_samples': 16, 'estimator': 'club'}),
    'momok': (MoMoK, {'num_samples': 16}),
}
MULTI_MODAL = ['additive', 'mocme', 'mocme_club', 'momok']


def graph_of(train, num_entities, num_relations, modalities=None, test=None):
    test = train[:3] if test is None else test
    return build_data({'train': train, 'val': test, 'test': test},
                      [f'e{i}' for i in range(num_entities)],
                      [f'r{i}' for i in range(num_relations)], modalities or {})


def make(name, data, **kwargs):
    cls, options = MODELS[name]
    torch.manual_seed(0)
    return cls.from_data(data, **{'hidden_channels': 4, **options, **kwargs})


def check(model, data, batch_size=64, epochs=2):
    """Two epochs of training, in which all weights stay finite and some change, and ranks."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainConfig(epochs=epochs, batch_size=batch_size, eval_every=1, device='cpu')
    result = Trainer(config).fit(model, data)
    assert len(result.history) == epochs
    after = dict(model.named_parameters())
    assert all(bool(p.isfinite().all()) for p in after.values())
    assert any(not p.equal(before[name]) for name, p in after.items())
    out = evaluate(model, data, 'test')
    assert all(bool((r.optimistic >= 1).all()) and bool((r.pessimistic <= r.num_candidates).all())
               for r in out.ranks.values())
    return out


@pytest.mark.parametrize('name, objective', [*((name, 'softmax') for name in MODELS),
                                             ('complex', 'bce'), ('momok', 'bce'),
                                             ('complex', 'sampled'), ('mocme', 'sampled')])
def test_batch_of_one(name, objective):
    data = FakeMMKG(20, 3, {'image': 3, 'text': 2}, num_triples=20, seed=1)[0]
    sampler = EGNS(20, 1, known=build_index(data, ['train'])) if objective == 'sampled' else None
    model = make(name, data, objective=objective, neg_sampling=sampler)
    check(model, data, batch_size=1, epochs=1)
    # No query at all is left of a batch whose head or answer lacks what is asked about:
    triples = torch.tensor([[0], [0], [19]])  # The bare entity; an entity never seen.
    loss = model.train().loss(*triples)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('name', MODELS)
def test_one_relation_and_two_entities(name):
    x = torch.eye(2)
    data = graph_of(torch.tensor([[0, 0, 1]]), 2, 1, {'text': (x, None)},
                    test=torch.tensor([[0, 0, 1], [1, 0, 1]]))
    out = check(make(name, data), data)
    assert out.to_dict()['by_relation'].keys() == {'r0'}


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('objective', ['softmax', 'bce'])
def test_a_relation_with_every_entity_as_an_answer(name, objective):
    # (0, 0, ?) is answered by all: nothing is left to rank against, and nothing is false.
    num_entities = 30
    every = torch.arange(num_entities)
    train = torch.stack([torch.zeros_like(every), torch.zeros_like(every), every], dim=1)
    data = graph_of(train, num_entities, 1, {'text': (torch.randn(num_entities, 3), None)})
    model = make(name, data, objective=objective)
    out = check(model, data)
    assert out.ranks['tail'].rank.tolist() == [1.0] * 3
    assert out.ranks['tail'].num_candidates.tolist() == [1] * 3


def test_sampled_negatives_that_are_all_true():
    num_entities = 30
    every = torch.arange(num_entities)
    train = torch.stack([torch.zeros_like(every), torch.zeros_like(every), every], dim=1)
    data = graph_of(train, num_entities, 1)
    model = make('complex', data, objective='sampled',
                 neg_sampling=EGNS(num_entities, 4, known=build_index(data)))
    log = {}
    loss = model.loss(*get_triples(data, 'train'), log=log)
    score = model(*get_triples(data, 'train'))
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-score).mean())
    loss.backward()
    assert bool(model.structure.weight.grad.isfinite().all())
    assert bool(model.neg_sampling.running_entropy.isfinite().all())


@torch.no_grad()
@pytest.mark.parametrize('more', [-1, 0, 1])
def test_one_entity_more_than_a_chunk(more):
    chunk_size = 128
    num_entities = chunk_size + more
    data = FakeMMKG(num_entities, 3, {'text': 3}, num_triples=100, seed=1)[0]
    torch.manual_seed(0)
    table = torch.randint(9, (6, num_entities)).float()

    def scorer(head_index, rel_type, start, stop):
        return table[rel_type, start:stop]

    head_index, rel_type, _ = get_triples(data, 'test')
    known = build_index(data)
    for answer in (0, chunk_size - 2, num_entities - 1):
        batch = head_index, rel_type, torch.full_like(head_index, answer)
        ranks = [rank(scorer, *batch, known, num_entities=num_entities, chunk_size=size)
                 for size in (None, chunk_size, 1)]
        for other in ranks[1:]:
            assert torch.equal(other.optimistic, ranks[0].optimistic)
            assert torch.equal(other.pessimistic, ranks[0].pessimistic)
            assert torch.equal(other.num_candidates, ranks[0].num_candidates)


@pytest.fixture(scope='module')
def hub():
    # One entity that 100,000 others point to, by one relation.
    num_entities = 100_001
    others = torch.arange(1, num_entities)
    train = torch.stack([others, torch.zeros_like(others), torch.zeros_like(others)], dim=1)
    return graph_of(train, num_entities, 1, {'text': (torch.randn(num_entities, 2), None)})


def test_queries_that_ask_the_same_of_a_hub_need_its_answers_once(hub, monkeypatch):
    sizes, answers = [], ranking._answers_between

    def spy(*args):
        out = answers(*args)
        sizes.append(out[0].numel())
        return out

    monkeypatch.setattr(ranking, '_answers_between', spy)
    answer = torch.arange(1, 21)
    rank(lambda h, r, start, stop: torch.zeros(h.numel(), stop - start), torch.zeros_like(answer),
         torch.ones_like(answer), answer, build_index(hub), num_entities=100_001)
    # Its numbers are twice as wide as scores, and there are several of them:
    assert sum(sizes) == 20 * 100_000
    assert max(sizes) <= 20 * 100_001 / 8


def test_a_hub_with_100000_neighbours(hub):
    model = make('additive', hub, hidden_channels=4, objective='bce')
    assert model.train_known.answers(torch.tensor([0]), torch.tensor([1]))[0].numel() == 100_000
    # The heads of the hub: 100,000 answers, listed once; the tail of one of them: one.
    batch = torch.tensor([[0, 0, 7], [1, 1, 0], [7, 9, 0]])
    prepared = model.prepare(*batch)
    assert prepared.answers.entity.numel() == 100_001
    assert prepared.positives[0].numel() == 0
    loss = model.loss(*batch, prepared=prepared)
    loss.backward()
    assert bool(model.structure.weight.grad.isfinite().all())
    out = evaluate(model, hub, 'test', batch_size=2)
    assert out.ranks['head'].num_candidates.tolist() == [2] * 3  # The hub and the answer.
    assert out.ranks['tail'].num_candidates.tolist() == [100_001] * 3


@pytest.mark.parametrize('composition', ['mult', 'add'])
def test_a_hub_in_a_layer(hub, composition):
    torch.manual_seed(0)
    conv = MoCMEConv({'text': 2}, 4, num_relations=1, num_experts=1, composition=composition)
    (head_index, rel_type, tail_index), x = get_triples(hub, 'train'), hub['entity'].text
    out = conv({'text': x}, torch.stack([head_index, tail_index]), rel_type)
    out.square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in conv.parameters() if p.grad is not None)
    # A mean: as large as a message, in spite of 100,000 of them.
    encoded = conv.eval().encode({'text': x})
    joint, relation = conv.joint(encoded, torch.zeros(1, dtype=torch.long)), conv.relation.weight[0]
    message = joint[1:] * relation if composition == 'mult' else joint[1:] + relation
    out = conv({'text': x}, torch.stack([head_index, tail_index]), rel_type)
    torch.testing.assert_close(out[0], joint[0] + message.mean(dim=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name, kwargs', [('complex', {}), ('mocme', {}),
                                          ('mocme', {'decoder': 'tucker'}), ('momok', {})])
def test_10000_relations(name, kwargs):
    num_relations = 10_000
    generator = torch.Generator().manual_seed(0)
    triples = torch.stack([torch.randint(50, (num_relations, ), generator=generator),
                           torch.arange(num_relations),
                           torch.randint(50, (num_relations, ), generator=generator)], dim=1)
    data = graph_of(triples, 50, num_relations, {'text': (torch.randn(50, 3), None)},
                    test=triples[:2000])
    out = check(make(name, data, **kwargs), data, batch_size=4000, epochs=1)
    start = time.process_time()
    assert len(out.to_dict()['by_relation']) == 2000
    assert time.process_time() - start < 10


@pytest.mark.parametrize('name', MULTI_MODAL)
def test_a_modality_that_nobody_has(name):
    data = FakeMMKG(24, 3, {'image': 3, 'text': 2}, num_triples=30, seed=1)[0].clone()
    data['entity'].image_mask = torch.zeros(24, dtype=torch.bool)
    data['entity'].image = torch.zeros(24, 3)
    model = make(name, data)
    check(model, data)
    weights = model.modality_weights(torch.arange(24), torch.zeros(24, dtype=torch.long))
    if weights is not None:
        assert not weights[:, model.modalities.index('image')].any()
        assert bool(weights.isfinite().all())


@pytest.mark.parametrize('name', MULTI_MODAL)
@pytest.mark.parametrize('num_modalities', [0, 1, 12])
def test_few_and_many_modalities(name, num_modalities):
    # With structure that makes M = 1, 2 and 13; without it, M = 1 and M = 12.
    channels = {f'm{i:02d}': 2 + i % 3 for i in range(num_modalities)}
    data = FakeMMKG(24, 3, channels, num_triples=30, seed=1)[0]
    for structure_channels in (None, 0) if num_modalities > 0 else (None, ):
        model = make(name, data, structure_channels=structure_channels)
        assert len(model.modalities) == num_modalities + (structure_channels is None)
        check(model, data, epochs=1)


@pytest.mark.parametrize('num_experts', [1, 9])
@pytest.mark.parametrize('name', ['mocme', 'mocme_club', 'momok'])
def test_few_and_many_experts(name, num_experts):
    data = FakeMMKG(24, 3, {'image': 3, 'text': 2}, num_triples=30, seed=1)[0]
    check(make(name, data, num_experts=num_experts), data, epochs=1)


@pytest.mark.parametrize('name', MULTI_MODAL)
def test_features_of_10000_dimensions(name):
    data = FakeMMKG(24, 3, {'text': 10_000}, num_triples=30, seed=1)[0]
    model = make(name, data)
    check(model, data, epochs=1)
    assert bool(model.score_all(torch.tensor([1]), torch.tensor([0])).isfinite().all())
