r"""Entities that a model knows by features only."""
import copy

import pytest
import torch

from pyg_mmkgc.data import (
    EDGE,
    add_entities,
    build_data,
    get_triples,
    modality_dicts,
    seen_entities,
    split_names,
)
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate, predict
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoMoK, NearestNeighbour
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import TrainConfig, Trainer

MODELS = {
    'additive': (AdditiveComplEx, {'hidden_channels': 8}),
    'mocme': (MoCME, {'hidden_channels': 8, 'num_references': 8}),
    'mocme-club': (MoCME, {'hidden_channels': 8, 'num_references': 8, 'estimator': 'club'}),
    'momok': (MoMoK, {'hidden_channels': 8, 'num_experts': 2, 'tune_features': True}),
    'nearest': (NearestNeighbour, {'num_neighbours': 4}),
}


def with_last(data, entity):
    r"""The same graph with one entity's id moved to the end."""
    N = data['entity'].num_nodes
    order = torch.tensor([*range(entity), *range(entity + 1, N), entity])
    rank = order.argsort()
    x_dict, mask_dict = modality_dicts(data)
    splits = {}
    for split in split_names(data):
        h, r, t = get_triples(data, split)
        splits[split] = torch.stack([rank[h], r, rank[t]], dim=1)
    out = build_data(splits, [data['entity'].label[i] for i in order.tolist()],
                     list(data[EDGE].label), {m: (x_dict[m][order], mask_dict[m][order])
                                              for m in x_dict})
    out.candidates = data.candidates
    return out


def without_last(data):
    r"""The graph without its last entity and all triples of it, and the entity's features."""
    last = data['entity'].num_nodes - 1
    x_dict, mask_dict = modality_dicts(data)
    splits = {}
    for split in split_names(data):
        triples = torch.stack(get_triples(data, split), dim=1)
        splits[split] = triples[(triples[:, [0, 2]] != last).all(dim=1)]
    rest = build_data(splits, list(data['entity'].label)[:-1], list(data[EDGE].label),
                      {m: (x_dict[m][:-1], mask_dict[m][:-1]) for m in x_dict})
    rest.candidates = data.candidates
    has = [m for m in x_dict if bool(mask_dict[m][last])]
    return rest, {m: x_dict[m][last:] for m in has}


def trained_pair(cls, options, data, rest):
    r"""A trained model of the graph, and the same of the graph without its last entity."""
    torch.manual_seed(0)
    model = cls.from_data(data, **options)
    Trainer(TrainConfig(epochs=2, batch_size=256, select=None, device='cpu')).fit(model, data)
    smaller = cls.from_data(rest, **options).eval()
    shapes = {key: x.shape for key, x in smaller.state_dict().items()}
    smaller.load_state_dict({key: x if x.shape == shapes[key] else x[:-1]
                             for key, x in model.state_dict().items()})
    return model, smaller


@pytest.mark.parametrize('name', MODELS)
def test_new_is_what_it_would_be_in_the_data(name):
    dataset = FakeMMKG(inductive=True)
    data = with_last(dataset[0], dataset.held_out[0])
    last, label = data['entity'].num_nodes - 1, data['entity'].label[-1]
    assert not seen_entities(data)[last]
    rest, features = without_last(data)
    cls, options = MODELS[name]
    model, smaller = trained_pair(cls, options, data, rest)

    extended = smaller.extend(add_entities(rest, [label], features))
    h = torch.arange(last + 1).repeat_interleave(2 * model.num_relations)
    r = torch.arange(2 * model.num_relations).repeat(last + 1)
    with torch.no_grad():
        # Bit by bit: as head, as candidate, and of all others.
        assert torch.equal(extended.score_all(h, r), model.score_all(h, r))
    # So are all ranks, by the filter of the whole graph:
    expected = evaluate(model, data, 'inductive_test')
    found = evaluate(extended, data, 'inductive_test')
    for side in ('head', 'tail'):
        assert torch.equal(found.ranks[side].rank, expected.ranks[side].rank)

    for side in ('head', 'tail'):
        question = {side: label, 'relation': 1}
        answers = predict(smaller, rest, top=99, features=features, **question)
        expected = [a for a in predict(model, data, top=99, **question) if a['entity'] != label]
        assert [(a['entity'], a['score']) for a in answers] == [
            (a['entity'], a['score']) for a in expected]
    single = predict(smaller, rest, top=99, features={m: x[0] for m, x in features.items()},
                     **question)
    assert single == answers


@pytest.mark.parametrize('name', MODELS)
def test_embed_encodes_as_the_data_does(name):
    data = FakeMMKG(inductive=True)[0]
    cls, options = MODELS[name]
    model = cls.from_data(data, **options)
    Trainer(TrainConfig(epochs=1, select=None, device='cpu')).fit(model, data)
    model.train()  # It does not drop anything of what is embedded all the same.
    index = (~seen_entities(data)).nonzero().view(-1)
    x_dict, mask_dict = modality_dicts(data)
    encoded = model.embed({m: x[index] for m, x in x_dict.items()},
                          {m: mask[index] for m, mask in mask_dict.items()})
    assert model.training
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.candidate_vectors(encoded),
                                   model.candidate_vectors(model.encode(index)))
        rel_type, row = torch.zeros_like(index), torch.arange(index.numel())
        torch.testing.assert_close(model.head_vectors(encoded, row, rel_type),
                                   model.head_vectors(model.encode(index), row, rel_type))


def test_the_model_stays_as_it_was():
    data = FakeMMKG()[0]
    model = MoCME.from_data(data, hidden_channels=8, neg_sampling=EGNS(40, 4)).train()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    bigger = model.extend(add_entities(data, ['new'], {'text': torch.ones(1, 6)}))
    assert (bigger.num_entities, model.num_entities) == (41, 40)
    assert bigger.structure.weight.shape == (41, 8)
    assert model.structure.weight.shape == (40, 8)
    assert model.training
    assert not bigger.training
    assert model.known.num_entities == 40
    assert bigger.known.num_entities == 41
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    # All other weights are shared:
    assert bigger.decoder.weight is model.decoder.weight
    assert not bigger.seen[40]


def test_errors():
    data = FakeMMKG()[0]
    new = {'text': torch.ones(1, 6)}
    with pytest.raises(ValueError, match="'ComplEx' knows entities by structure only"):
        ComplEx.from_data(data, hidden_channels=4).extend(add_entities(data, ['new'], new))
    model = AdditiveComplEx.from_data(data, hidden_channels=4)
    with pytest.raises(ValueError, match=r"'data' has 16 entities \(expected the 40"):
        model.extend(FakeMMKG(16)[0])
    with pytest.raises(ValueError, match=r'needs floating-point features of shape \[1, 6\]'):
        model.embed({'text': torch.ones(1, 7)})
    with pytest.raises(ValueError, match="a new entity needs a name .got 3, and 'features'"):
        predict(model, data, head=3, relation=0, features=new)
    with pytest.raises(ValueError, match="new entity 'entity 3' is in the graph already"):
        predict(model, data, head='entity 3', relation=0, features=new)


@pytest.mark.parametrize('name', ['additive', 'nearest'])
def test_unseen_countries_of_atlas(name):
    r"""All countries that training never saw, each taken out of the data and embedded alone."""
    data = Atlas()[0]
    cls, options = MODELS[name]
    torch.manual_seed(0)
    model = cls.from_data(data, **options)
    Trainer(TrainConfig(epochs=3, batch_size=1024, select=None, device='cpu')).fit(model, data)
    expected = evaluate(model, data, 'inductive_test')

    # Only what is known by structure, or needed by others, stays:
    x_dict, mask_dict = modality_dicts(data)
    unseen = ~seen_entities(data)
    bare = copy.copy(data)
    for m in x_dict:
        bare['entity'][m] = torch.where(unseen.unsqueeze(1), 0.0, x_dict[m])
        bare['entity'][f'{m}_mask'] = mask_dict[m] & ~unseen
    model.attach(bare)
    index = unseen.nonzero().view(-1)
    labels = [f'new {data["entity"].label[i]}' for i in index.tolist()]
    grown = add_entities(bare, labels, {m: x[index] for m, x in x_dict.items()},
                         {m: mask[index] for m, mask in mask_dict.items()})
    extended = model.extend(grown)
    # Ask the same of the new ones, in the places of those that are bare now:
    place = torch.arange(grown['entity'].num_nodes)
    place[index] = torch.arange(len(index)) + data['entity'].num_nodes
    scorer = extended.scorer()

    def renamed(head_index, rel_type, start, stop):
        scores = scorer(place[head_index], rel_type, 0, extended.num_entities)
        return scores[:, place[start:stop]]

    with torch.no_grad():
        found = evaluate(renamed, data, 'inductive_test')
    assert found.mrr == pytest.approx(expected.mrr, abs=1e-4)
    assert found.mrr > 0.04  # By chance .007.
