import pytest
import torch

from pyg_mmkgc.data import get_triples, modality_dicts, seen_entities
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import NearestNeighbour
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, find_recipe


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(num_entities=24, inductive=True)[0]


def by_loops(model, data, k):
    r"""All scores by the formula, in plain Python."""
    x_dict, mask_dict = modality_dicts(data)
    N, R, seen = data['entity'].num_nodes, model.num_relations, seen_entities(data)
    vectors = []
    for e in range(N):
        parts = [x[e] / x[e].norm() if bool(mask_dict[m][e]) else torch.zeros(x.size(1))
                 for m, x in x_dict.items()]
        x = torch.cat(parts)
        vectors.append(x / x.norm() if float(x.norm()) > 0 else x)
    near = {}
    for e in range(N):
        cosine = {o: float(vectors[e] @ vectors[o]) for o in range(N) if o != e and seen[o]}
        near[e] = sorted(cosine.items(), key=lambda item: -item[1])[:k]
    facts = set(zip(*(x.tolist() for x in get_triples(data, 'train')), strict=True))
    facts |= {(t, r + R, h) for h, r, t in facts}
    weight = model.decoder.rel_emb.weight.detach().exp().tolist()
    return torch.tensor([[[
        sum(weight[r][0] * max(c, 0) for e, c in near[h] if (e, r, t) in facts) +
        sum(weight[r][1] * max(c, 0) for e, c in near[t] if (h, r, e) in facts)
        for t in range(N)] for r in range(2 * R)] for h in range(N)])


@pytest.mark.parametrize('k', [1, 3, 99])
def test_scores(data, k):
    torch.manual_seed(0)
    model = NearestNeighbour.from_data(data, num_neighbours=k)
    torch.nn.init.normal_(model.decoder.rel_emb.weight)
    N, R = model.num_entities, 2 * model.num_relations
    head_index, rel_type = (x.flatten() for x in torch.meshgrid(
        torch.arange(N), torch.arange(R), indexing='ij'))
    scores = model.score_all(head_index, rel_type).view(N, R, N)
    torch.testing.assert_close(scores, by_loops(model, data, k), rtol=1e-4, atol=1e-4)
    triples = head_index[::7], rel_type[::7], torch.arange(N).repeat(R)[::7]
    torch.testing.assert_close(model(*triples), scores[triples])
    part = model.scorer()(head_index[:5], rel_type[:5], 3, 9)
    torch.testing.assert_close(part, scores.view(-1, N)[:5, 3:9])


def test_no_fact_votes_for_itself(data):
    r"""A graph of one triple gives it no score."""
    head_index, rel_type, tail_index = (x[:1] for x in get_triples(data, 'train'))
    model = NearestNeighbour.from_data(data, num_neighbours=99)
    before = float(model(head_index, rel_type, tail_index))
    keys = model._train_known
    keys.keys = keys.keys[~torch.isin(keys.keys, torch.cat([
        keys._key(head_index, rel_type, tail_index),
        keys._key(tail_index, rel_type + model.num_relations, head_index)]))]
    assert float(model(head_index, rel_type, tail_index)) == pytest.approx(before)


def test_fit_and_evaluate(data):
    fit = Fit(find_recipe('nearest').override({'num_neighbours': 4}), data)
    result = fit()
    assert result.history[-1]['loss'] < result.history[0]['loss']
    assert torch.isfinite(fit.model.decoder.rel_emb.weight).all()
    # The clusters of features say which tails there are; by chance .15.
    assert evaluate(fit.model, data, 'inductive_test').mrr > 0.3
    assert str(fit.model) == 'NearestNeighbour(24, num_relations=5, hidden_channels=2)'


def test_gradients_reach_all_parameters(data):
    model = NearestNeighbour.from_data(data)
    model.loss(*get_triples(data, 'train')).backward()
    assert model.decoder.rel_emb.weight.grad.abs().sum() > 0


def test_errors(data):
    for kwargs, match in [({'num_neighbours': 0}, "'num_neighbours' needs to be at least 1"),
                          ({'objective': 'bce'}, "expected 'objective' to be 'softmax'"),
                          ({'modalities': []}, 'neither a modality nor structure')]:
        with pytest.raises(ValueError, match=match):
            NearestNeighbour.from_data(data, **kwargs)
    model = NearestNeighbour(4, 2, {'text': 3})
    with pytest.raises(ValueError, match='knows no graph to look neighbours up in'):
        model.scorer()
