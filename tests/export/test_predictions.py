import re

import pytest
import torch

from pyg_mmkgc.data import EDGE, Labels, get_triples, split_names
from pyg_mmkgc.evaluation import predict
from pyg_mmkgc.export import predict_split, write_predictions
from pyg_mmkgc.nn import ComplEx, MoCME
from pyg_mmkgc.testing import FakeMMKG

COLUMNS = ['head', 'relation', 'tail', 'side', 'rank', 'score', 'probability', 'known']


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(inductive=True)[0]


def build(data, cls=ComplEx, **kwargs):
    torch.manual_seed(0)
    model = cls.from_data(data, hidden_channels=8, **kwargs)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def rows(predictions):
    return [dict(zip(predictions, values, strict=True))
            for values in zip(*predictions.values(), strict=True)]


@pytest.mark.parametrize('cls,options,candidates', [
    (ComplEx, {}, 'all'),
    (MoCME, {'temperature': 2.0, 'exclude': ['train', 'val', 'test', 'inductive_test']}, 'seen'),
    (ComplEx, {'temperature': 0.7, 'exclude': [], 'min_probability': 0.02}, 'seen'),
])
@pytest.mark.parametrize('split', ['test', 'inductive_test'])
def test_equals_one_question_at_a_time(cls, options, candidates, split, data, monkeypatch):
    monkeypatch.setattr('pyg_mmkgc.export.predictions.MAX_NUMEL', 40 * 7)  # Several batches.
    data = data.clone()
    data.candidates = candidates
    model = build(data, cls)
    predictions = predict_split(model, data, split, top=4, **options)
    assert list(predictions) == COLUMNS
    found = {}
    for row in rows(predictions):
        own, other = ('head', 'tail') if row['side'] == 'tail' else ('tail', 'head')
        found.setdefault((row['side'], row[own], row['relation']), []).append(
            (row['rank'], row[other], row['score'], row['probability'], row['known']))

    labels = data['entity'].label
    asked = set()
    for h, r, t in zip(*(x.tolist() for x in get_triples(data, split)), strict=True):
        relation = data[EDGE].label[r]
        asked |= {('tail', labels[h], relation), ('head', labels[t], relation)}
    assert set(found) <= asked
    for side, own, relation in sorted(asked):
        question = {'head' if side == 'tail' else 'tail': own, 'relation': relation}
        expected = predict(model, data, **question, top=4,
                           **{'exclude': ['train'], **options})
        answers = found.get((side, own, relation), [])
        assert [a[:2] for a in answers] == [(i, e['entity']) for i, e in enumerate(expected, 1)]
        assert [a[4] for a in answers] == [e['known'] for e in expected]
        for i, key in [(2, 'score'), (3, 'probability')]:
            assert [a[i] for a in answers] == pytest.approx([e[key] for e in expected], rel=1e-4)


def test_more_answers_than_entities(data):
    model = build(data)
    predictions = predict_split(model, data, top=1000, exclude=[])
    assert max(predictions['rank']) == 40
    assert {row['known'] for row in rows(predictions)} >= {'train', 'test', 'new'}


def test_errors(data):
    model = build(data)
    with pytest.raises(ValueError, match=r"'top' needs to be at least 1 \(got 0\)"):
        predict_split(model, data, top=0)
    with pytest.raises(ValueError, match=r"'min_probability' needs to be in \[0, 1\] \(got 2\)"):
        predict_split(model, data, min_probability=2)
    with pytest.raises(ValueError, match="Unknown split 'later'"):
        predict_split(model, data, 'later')
    wrong = data.clone()
    wrong.candidates = 'some'
    with pytest.raises(ValueError, match=r"'data.candidates' needs to be 'seen' or 'all'"):
        predict_split(model, wrong)


def test_parquet(data, tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    predictions = predict_split(build(data), data, top=3)
    assert write_predictions(predictions, tmp_path / 'x.parquet') == tmp_path / 'x.parquet'
    assert pq.read_table(tmp_path / 'x.parquet').to_pydict() == predictions
    with pytest.raises(FileExistsError, match=r"x.parquet' exists and is not overwritten"):
        write_predictions(predictions, tmp_path / 'x.parquet')
    with pytest.raises(ValueError, match=r"x.csv: expected a file of predictions, one of"):
        write_predictions(predictions, tmp_path / 'x.csv')


def test_abstains_from_everything(data, tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    predictions = predict_split(build(data), data, min_probability=1.0)
    assert predictions == {key: [] for key in COLUMNS}
    write_predictions(predictions, tmp_path / 'x.parquet')
    assert pq.read_table(tmp_path / 'x.parquet').column_names == COLUMNS
    assert write_predictions(predictions, tmp_path / 'x.nt').read_text() == ''


def test_n_triples(data, tmp_path):
    ox = pytest.importorskip('pyoxigraph')
    data = data.clone()
    names = list(data['entity'].label)
    names[:6] = ['http://example.org/a b', 'urn:x:1', 'é "quoted" <x>\n.', '#', '<> <> <> .\n',
                 'https://example.org/%C3%A9#x']
    data['entity'].label = Labels(names)
    predictions = predict_split(build(data), data, top=40, exclude=split_names(data))
    path = write_predictions(predictions, tmp_path / 'x.nt')
    quads = list(ox.parse(path=str(path)))
    expected = {tuple(row[key] for key in ('head', 'relation', 'tail'))
                for row in rows(predictions)}
    assert len(quads) == len(expected) == len(path.read_text().splitlines())
    assert {str(q.predicate.value) for q in quads} == {
        f'urn:pyg-mmkgc:relation:{quoted}' for quoted in {
            r.replace(' ', '%20') for _, r, _ in expected}}
    iris = {q.subject.value for q in quads} | {q.object.value for q in quads}
    assert {'http://example.org/a%20b', 'urn:x:1', 'urn:pyg-mmkgc:entity:%23',
            'urn:pyg-mmkgc:entity:%C3%A9%20%22quoted%22%20%3Cx%3E%0A.',
            'https://example.org/%C3%A9#x'} <= iris
    best = max(p for row, p in zip(rows(predictions), predictions['probability'], strict=True)
               if row['head'] == '#')
    comments = [float(re.search(r'\. # (.*)$', line)[1])
                for line in path.read_text().splitlines() if line.startswith(
                    '<urn:pyg-mmkgc:entity:%23>')]
    assert max(comments) == pytest.approx(best, rel=1e-3)


def test_known_triples_are_no_news(data, tmp_path):
    predictions = predict_split(build(data), data, top=40, exclude=[])
    path = write_predictions(predictions, tmp_path / 'x.nt')
    new = {tuple(row[key] for key in ('head', 'relation', 'tail'))
           for row in rows(predictions) if row['known'] == 'new'}
    assert 0 < len(new) < len(predictions['head'])
    assert len(path.read_text().splitlines()) == len(new)
