import math

import pytest
import torch

from pyg_mmkgc.data import EDGE, build_index, get_triples
from pyg_mmkgc.evaluation import (
    Reliability,
    evaluate,
    fit_temperature,
    log_probability,
    predict,
    predict_triples,
    reliability,
)
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.testing import FakeMMKG


class Table(torch.nn.Module):
    r"""Scores that are known beforehand."""
    objective = 'softmax'

    def __init__(self, data, factor=1.0, seed=0):
        super().__init__()
        N, R = data['entity'].num_nodes, data[EDGE].num_relations
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(2 * factor * torch.randn(N, 2 * R, N, generator=generator))

    def scorer(self):
        return lambda head_index, rel_type, start, stop: self.table[head_index, rel_type,
                                                                    start:stop]

    def forward(self, head_index, rel_type, tail_index):
        return self.table[head_index, rel_type, tail_index]

    def modality_weights(self, index, rel_type=None):
        return None


@pytest.fixture
def data():
    return FakeMMKG()[0]


def queries(data, split):
    h, r, t = get_triples(data, split)
    return torch.cat([h, t]), torch.cat([r, r + data[EDGE].num_relations]), torch.cat([t, h])


def by_loops(model, data, split, temperature, splits=('train', 'val')):
    r"""The filtered log-probability of each answer, and whether it is the best."""
    known, R = set(), data[EDGE].num_relations
    for name in {*splits, split}:
        for h, r, t in zip(*(x.tolist() for x in get_triples(data, name)), strict=True):
            known |= {(h, r, t), (t, r + R, h)}
    out = []
    for h, r, t in zip(*(x.tolist() for x in queries(data, split)), strict=True):
        row = model.table[h, r].detach().double()
        scores = [float(row[c]) / temperature for c in range(row.numel())
                  if c == t or (h, r, c) not in known]
        total = math.log(sum(map(math.exp, scores)))
        own = float(row[t]) / temperature
        out.append((own - total, max(scores) - total, own == max(scores)))
    return out


def test_log_probability(data):
    model = Table(data)
    for temperature in (0.7, 3.0):
        found = log_probability(model.scorer(), *queries(data, 'val'),
                                build_index(data, ['train', 'val']), num_entities=40,
                                temperature=temperature)
        expected = [row[0] for row in by_loops(model, data, 'val', temperature)]
        torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.double),
                                   rtol=1e-4, atol=1e-4)
    candidates = torch.zeros(40, dtype=torch.bool)
    alone = log_probability(model.scorer(), *queries(data, 'val'), build_index(data),
                            num_entities=40, candidates=candidates)
    assert alone.abs().max() < 1e-6  # Without any competitor.


def draw_answers(data, model, temperature, num=1500):
    r"""Validation triples whose tails are drawn by the model's own probabilities."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randint(40, (num, ), generator=generator)
    r = torch.randint(data[EDGE].num_relations, (num, ), generator=generator)
    p = (model.table[h, r].detach() / temperature).softmax(dim=1)
    t = torch.multinomial(p, 1, generator=generator).view(-1)
    return h, r, t


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_the_temperature_that_answers_were_drawn_with_is_found(data, temperature, monkeypatch):
    from pyg_mmkgc.evaluation import calibration
    model = Table(data)
    h, r, t = draw_answers(data, model, temperature)
    none = build_index(data, ['val']).to('cpu')
    none.keys = none.keys[:0]

    def scores(*args):
        yield from calibration.filtered_scores(model.scorer(), h, r, t, none, 40)

    monkeypatch.setattr(calibration, '_scores', scores)
    found = fit_temperature(model, data)
    assert found == pytest.approx(temperature, rel=0.1)
    before, after = (reliability(model, data, 'val', T).ece for T in (temperature / 4, found))
    assert after < 0.05 < before
    # It is the maximum of the likelihood:
    def likelihood(T):
        return float(log_probability(model.scorer(), h, r, t, none, num_entities=40,
                                     temperature=T).double().mean())
    assert likelihood(found) > max(likelihood(0.9 * found), likelihood(1.1 * found))


def test_scaled_scores_scale_the_temperature(data):
    assert fit_temperature(Table(data, 3.0), data) == pytest.approx(
        3 * fit_temperature(Table(data), data), rel=1e-3)


def test_test_triples_are_not_looked_at(data):
    model = Table(data)
    before = fit_temperature(model, data)
    h, r, t = get_triples(data, 'test')
    data[EDGE].test_edge_label_index = torch.stack([t, h])
    assert fit_temperature(model, data) == before


def test_reliability(data):
    model = Table(data)
    rows = by_loops(model, data, 'val', 2.0)
    bins = {}
    for _, best, right in rows:
        confidence = math.exp(best)
        bins.setdefault(min(int(confidence * 5), 4), []).append((confidence, right))
    found = reliability(model, data, 'val', 2.0, num_bins=5)
    assert found.count == [len(bins[b]) for b in sorted(bins)]
    assert found.confidence == pytest.approx(
        [sum(c for c, _ in bins[b]) / len(bins[b]) for b in sorted(bins)], rel=1e-4)
    assert found.accuracy == pytest.approx(
        [sum(x for _, x in bins[b]) / len(bins[b]) for b in sorted(bins)])
    assert found.ece == pytest.approx(sum(
        abs(sum(c - x for c, x in part)) for part in bins.values()) / len(rows), rel=1e-4)
    assert found.to_dict()['ece'] == found.ece
    sampled = reliability(model, data, 'val', 2.0, max_queries=10)
    assert sum(sampled.count) == 10
    assert Reliability([0.2, 0.8], [0.3, 0.4], [1, 3]).ece == pytest.approx(0.325)


def test_ties_at_the_top_count_their_share(data):
    model = Table(data, 0.0)
    found = reliability(model, data, 'val')
    assert len(found.count) == 1
    assert found.accuracy == pytest.approx(found.confidence, rel=1e-4)


@pytest.mark.parametrize('call, match', [
    (lambda m, d: reliability(m, d, 'val', 0.0), r"'temperature' needs to be positive \(got 0.0"),
    (lambda m, d: reliability(m, d, 'val', num_bins=0), "'num_bins' needs to be at least 1"),
    (lambda m, d: fit_temperature(m, d, 'no'), "Unknown split 'no'"),
    (lambda m, d: fit_temperature(m, d, candidates='some'), "'candidates' needs to be"),
    (lambda m, d: predict(m, d, head=1, relation=0, temperature=-1.0), "'temperature' needs to be"),
    (lambda m, d: predict(m, d, head=1, relation=0, min_probability=2.0),
     r"'min_probability' needs to be in \[0, 1\] \(got 2.0"),
])
def test_errors(data, call, match):
    with pytest.raises(ValueError, match=match):
        call(Table(data), data)


def test_calibrated_predictions(data):
    r"""The probability of an answer is the one by which the temperature was fitted."""
    model, R = Table(data), data[EDGE].num_relations
    answers = predict(model, data, head=5, relation=1, top=40, temperature=1.7)
    known = build_index(data, ['train', 'val'])
    for answer in answers:
        t = torch.tensor([data['entity'].label.index(answer['entity'])
                          if hasattr(data['entity'].label, 'index') else
                          list(data['entity'].label).index(answer['entity'])])
        expected = log_probability(model.scorer(), torch.tensor([5]), torch.tensor([1]), t, known,
                                   num_entities=40, temperature=1.7)
        assert answer['probability'] == pytest.approx(math.exp(float(expected)), rel=1e-4)
    assert any(a['known'] == 'train' for a in answers)
    level = sorted(a['probability'] for a in answers)[20]
    sure = predict(model, data, head=5, relation=1, top=40, temperature=1.7, min_probability=level)
    assert sure == [a for a in answers if a['probability'] >= level] != answers
    assert predict(model, data, head=5, relation=1, temperature=1e3, min_probability=0.9) == []
    assert R == 5


def test_predict_triples(data):
    model = Table(data)
    triples = get_triples(data, 'test')
    known = build_index(data)
    found = predict_triples(model, *triples, known, temperature=1.3)
    ranks = evaluate(model, data, 'test').ranks
    assert torch.equal(found.head_rank, ranks['head'].rank)
    assert torch.equal(found.tail_rank, ranks['tail'].rank)
    assert torch.equal(found.score, model(*triples).detach())
    splits = ('train', 'val', 'test')
    logs = torch.tensor([row[0] for row in by_loops(model, data, 'test', 1.3, splits)],
                        dtype=torch.double)
    tail, head = logs.chunk(2)
    torch.testing.assert_close(found.probability.double(), ((tail + head) / 2).exp(), rtol=1e-4,
                               atol=1e-6)


def test_predict_triples_of_a_model(data):
    torch.manual_seed(0)
    model = ComplEx.from_data(data, hidden_channels=8, init_scale=0.5)
    triples = get_triples(data, 'test')
    found = model.predict_triples(*triples)
    assert torch.equal(found.probability, predict_triples(model, *triples,
                                                          model.known).probability)
    with pytest.raises(ValueError, match='knows no graph to filter by'):
        ComplEx(4, 2, 8).predict_triples(*triples)
    with pytest.raises(ValueError, match="'head_index' holds id 40"):
        model.predict_triples(torch.tensor([40]), torch.tensor([0]), torch.tensor([0]))
