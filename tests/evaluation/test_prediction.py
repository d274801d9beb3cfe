import pytest
import torch

from pyg_mmkgc.data import EDGE, build_data, get_triples, seen_entities, split_names
from pyg_mmkgc.evaluation import find_label, predict
from pyg_mmkgc.nn import ComplEx, MoCME
from pyg_mmkgc.testing import FakeMMKG

ENTITIES = ['France', 'Spain', 'Italy', 'spain', 'Monaco', 'Atlantis']
RELATIONS = ['borders', 'part of']
# Atlantis is in no training triple; Spain and spain differ by their case only.
SPLITS = {
    'train': [(0, 0, 1), (0, 0, 4), (1, 1, 3), (2, 0, 0)],
    'val': [(0, 0, 2), (0, 0, 1)],
    'test': [(0, 0, 3), (5, 1, 0)],
}
N, R = len(ENTITIES), len(RELATIONS)


@pytest.fixture
def data():
    return build_data({s: torch.tensor(t) for s, t in SPLITS.items()}, ENTITIES, RELATIONS)


class TableModel(torch.nn.Module):
    r"""Scores and modality weights that are known beforehand."""
    modalities = ('image', 'text')

    def __init__(self, weighted=True, objective='softmax'):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(N, 2 * R, N, generator=generator))
        self.dropout = torch.nn.Dropout(0.9)
        self.weighted = weighted
        self.objective = objective

    def scorer(self):
        return lambda head_index, rel_type, start, stop: self.dropout(
            self.table[head_index, rel_type, start:stop])

    def modality_weights(self, index, rel_type=None):
        if not self.weighted:
            return None
        first = 0.1 * index if rel_type is None else 0.01 * (10 * index + rel_type)
        return torch.stack([first, 1 - first], dim=-1)


def expected_answers(model, data, entity, rel_type, allowed):
    r"""The same by loops over plain numbers."""
    scores = {e: float(model.table.detach()[entity, rel_type, e]) for e in allowed}
    total = sum(torch.tensor(s, dtype=torch.double).exp().item() for s in scores.values())
    out = []
    for e in sorted(scores, key=lambda e: -scores[e]):
        triple = (entity, rel_type, e) if rel_type < R else (e, rel_type - R, entity)
        known = next((s for s, triples in SPLITS.items() if triple in triples), 'new')
        p = torch.tensor(scores[e], dtype=torch.double).exp().item() / total
        if model.objective != 'softmax':
            p = 1 / (1 + torch.tensor(-scores[e], dtype=torch.double).exp().item())
        out.append((ENTITIES[e], scores[e], p, known))
    return out


@pytest.mark.parametrize('objective', ['softmax', 'bce'])
@pytest.mark.parametrize('side', ['head', 'tail'])
def test_predict(data, side, objective):
    model = TableModel(objective=objective)
    for entity in range(N):
        for r, relation in enumerate(RELATIONS):
            answers = predict(model, data, relation=relation, top=99,
                              **{side: ENTITIES[entity]})
            rel_type = r if side == 'head' else r + R
            expected = expected_answers(model, data, entity, rel_type, range(N))
            assert [(a['entity'], a['known']) for a in answers] == [(e[0], e[3]) for e in expected]
            for answer, (label, score, probability, _) in zip(answers, expected, strict=True):
                assert answer['score'] == score
                assert answer['probability'] == pytest.approx(probability)
                query, own = answer['modality_weights']['query'], 0.1 * ENTITIES.index(label)
                assert query == pytest.approx({'image': 0.01 * (10 * entity + rel_type),
                                               'text': 1 - 0.01 * (10 * entity + rel_type)})
                assert answer['modality_weights']['answer'] == pytest.approx(
                    {'image': own, 'text': 1 - own})
    assert model.training  # As it was.
    assert model.dropout.training


def test_top(data):
    model = TableModel()
    everything = predict(model, data, head='France', relation='borders', top=N)
    assert len(everything) == N
    assert predict(model, data, head='France', relation='borders', top=2) == everything[:2]
    assert predict(model, data, head=0, relation=0, top=N) == everything


def test_model_without_weights(data):
    answers = predict(TableModel(weighted=False), data, head='France', relation='borders')
    assert [answer['modality_weights'] for answer in answers] == [None] * N


def test_candidates(data):
    model = TableModel()

    def asked(**kwargs):
        return {answer['entity'] for answer in predict(model, data, relation='borders', **kwargs)}

    data.candidates = 'seen'
    assert asked(head='France') == set(ENTITIES) - {'Atlantis'}
    assert asked(head='France', candidates='all') == set(ENTITIES)
    # What is asked about was not seen, so the model answers from features, for all:
    assert asked(head='Atlantis') == set(ENTITIES)
    assert asked(tail='Atlantis', candidates='seen') == set(ENTITIES) - {'Atlantis'}
    answers = predict(model, data, head='France', relation='borders')
    assert sum(answer['probability'] for answer in answers) == pytest.approx(1)


def test_exclude(data):
    model = TableModel()

    def asked(**kwargs):
        return {answer['entity'] for answer in predict(model, data, relation='borders', **kwargs)}

    assert asked(head='France', exclude=['train']) == set(ENTITIES) - {'Spain', 'Monaco'}
    assert asked(head='France', exclude=['train', 'val']) == {'France', 'spain', 'Atlantis'}
    assert asked(tail='France', exclude=['train']) == set(ENTITIES) - {'Italy'}


def test_nothing_left():
    data = build_data({'train': torch.tensor([(0, 0, 0), (0, 0, 1)])}, ['A', 'B'], ['r'])
    model = ComplEx.from_data(data, hidden_channels=4)
    assert predict(model, data, head='A', relation='r', exclude=['train']) == []


def test_ties_come_in_the_order_of_ids(data):
    model = TableModel()
    torch.nn.init.zeros_(model.table)
    answers = predict(model, data, head='France', relation='borders')
    assert [answer['entity'] for answer in answers] == ENTITIES


@pytest.mark.parametrize('cls', [ComplEx, MoCME])
def test_real_models(cls):
    data = FakeMMKG(inductive=True)[0]
    torch.manual_seed(0)
    model = cls.from_data(data, hidden_channels=8).eval()
    entity, rel_type = 7, 1
    answers = predict(model, data, tail=entity, relation=rel_type, top=100)
    with torch.no_grad():
        score = model.score_all(torch.tensor([entity]),
                                torch.tensor([rel_type + data[EDGE].num_relations]))[0]
    label = data['entity'].label
    assert [answer['entity'] for answer in answers] == [
        label[e] for e in score.argsort(descending=True, stable=True).tolist()]
    known = {}
    for split in reversed(split_names(data)):
        known.update({t: split for t in zip(*(x.tolist() for x in get_triples(data, split)),
                                            strict=True)})
    for answer in answers:
        triple = (label.index(answer['entity']), rel_type, entity)
        assert answer['known'] == known.get(triple, 'new')
        if cls is ComplEx:
            assert answer['modality_weights'] is None
            continue
        for weights in answer['modality_weights'].values():
            assert set(weights) == {'image', 'numeric', 'structure', 'text'}
            assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
        # What an entity lacks counts for nothing, structure of unseen ones included:
        e = label.index(answer['entity'])
        for name, weight in answer['modality_weights']['answer'].items():
            there = seen_entities(data)[e] if name == 'structure' else data['entity'][
                f'{name}_mask'][e]
            assert (weight > 0) == bool(there)


@pytest.mark.parametrize('label,index', [
    ('France', 0), ('france', 0), (' FRANCE ', 0), ('Spain', 1), ('spain', 3), (4, 4), (0, 0),
])
def test_find_label(label, index):
    assert find_label('entity', ENTITIES, label) == index


@pytest.mark.parametrize('label,message', [
    ('Frances', r"Unknown entity 'Frances' \(expected the label of one of 6; did you mean "
                r"'France'\?"),
    ('SPAIN', r"Entity 'SPAIN' is ambiguous: 'Spain' \(id 1\), 'spain' \(id 3\)"),
    ('lantis', "did you mean 'Atlantis'"),
    ('on', "did you mean 'Monaco'"),
    ('xyz', r"Unknown entity 'xyz' \(expected the label of one of 6\)"),
    ('', r"Unknown entity '' \(expected the label of one of 6\)"),
    (6, r'Unknown entity 6 \(expected an id from 0 to 5\)'),
    (-1, r'Unknown entity -1 \(expected an id from 0 to 5\)'),
])
def test_find_label_errors(label, message):
    with pytest.raises(ValueError, match=message):
        find_label('entity', ENTITIES, label)


@pytest.mark.parametrize('arguments,message', [
    ({'relation': 'borders'}, r"expected exactly one of 'head' and 'tail' \(got None and None\)"),
    ({'head': 'France', 'tail': 'Spain', 'relation': 'borders'},
     "expected exactly one of 'head' and 'tail'"),
    ({'head': 'France', 'relation': 'border'}, "Unknown relation 'border' .*'borders'"),
    ({'tail': 'Frankreich', 'relation': 'borders'}, "Unknown entity 'Frankreich'"),
    ({'head': 'France', 'relation': 'borders', 'top': 0}, r"'top' needs to be at least 1 \(got 0"),
    ({'head': 'France', 'relation': 'borders', 'candidates': 'some'},
     r"'candidates' needs to be 'seen' or 'all' \(got 'some'\)"),
    ({'head': 'France', 'relation': 'borders', 'exclude': ['dev']}, "Unknown split 'dev'"),
])
def test_predict_errors(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(TableModel(), data, **arguments)
