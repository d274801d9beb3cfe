import json
import sys

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import EDGE, Labels
from pyg_mmkgc.export import FORMATS, entity_vectors, neighbours, relation_vectors, write_vectors
from pyg_mmkgc.export.vectors import unique_tokens
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training.recipe import MODELS

MODALITIES = ['image', 'numeric', 'structure', 'text']
VIEWS = {'late_fusion': MODALITIES, 'mocme': ['joint', *MODALITIES],
         'momok': ['joint', *MODALITIES]}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG()[0]


def build(name, data):
    torch.manual_seed(0)
    model = MODELS[name].from_data(data, **({} if name == 'nearest' else {'hidden_channels': 8}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope='module')
def views(data):
    model = build('mocme', data)
    return {'entities': entity_vectors(model, data), 'relations': relation_vectors(model, data)}


@pytest.mark.parametrize('name', sorted(MODELS))
def test_entities(name, data):
    model = build(name, data)
    found = entity_vectors(model, data)
    assert list(found) == VIEWS.get(name, ['joint'])
    assert model.training  # As it was.
    for vectors in found.values():
        assert vectors.labels == list(data['entity'].label)
        assert vectors.x.shape[0] == 40
        assert not vectors.x[~vectors.mask].any()
        assert vectors.x[vectors.mask].any(dim=1).all()
        assert vectors.x.isfinite().all()


def test_entities_are_what_scores_compare(data):
    # The score of a plain product is that of the vectors.
    model = build('distmult', data).eval()
    x, r = entity_vectors(model, data)['joint'].x, relation_vectors(model, data)['joint'].x
    assert torch.equal(x[model.seen], model.structure.weight[model.seen])
    expected = torch.tensor([(x[3] * r[2] * x[t]).sum() for t in range(40)])
    score = model.score_all(torch.tensor([3]), torch.tensor([2]))[0]
    torch.testing.assert_close(score[model.seen], expected[model.seen])


def test_views_of_a_model_are_those_of_its_heads(data):
    model = build('mocme', data).eval()
    table = model.candidate_vectors(model.encode())
    names = list(model.decoder.decoders)
    for i, name in enumerate(names):
        vectors = entity_vectors(model, data)[name]
        part = table[:, 8 * i:8 * (i + 1)]
        torch.testing.assert_close(vectors.x[vectors.mask], part[vectors.mask])


def test_masks(data, views):
    found = views['entities']
    for m in ('image', 'numeric', 'text'):
        assert torch.equal(found[m].mask, data['entity'][f'{m}_mask'])
    seen = torch.zeros(40, dtype=torch.bool)
    seen[data[EDGE].edge_index.flatten()] = True
    assert torch.equal(found['structure'].mask, seen)
    assert torch.equal(found['joint'].mask, torch.stack(
        [found[m].mask for m in MODALITIES]).any(dim=0))


def test_views_without_heads(data):
    model = MODELS['mocme'].from_data(data, hidden_channels=8, heads=[])
    assert list(entity_vectors(model, data)) == ['joint', *MODALITIES]
    assert list(relation_vectors(model, data)) == ['joint']


def test_in_chunks(data, monkeypatch):
    model = build('mocme', data)
    whole = entity_vectors(model, data)
    monkeypatch.setattr('pyg_mmkgc.export.vectors.ENCODE_CHUNK', 7)
    for name, vectors in entity_vectors(model, data).items():
        torch.testing.assert_close(vectors.x, whole[name].x)
        assert torch.equal(vectors.mask, whole[name].mask)


@pytest.mark.parametrize('name', sorted(MODELS))
def test_relations(name, data):
    model = build(name, data)
    for vectors in relation_vectors(model, data).values():
        assert vectors.labels == ([f'relation {i}' for i in range(5)]
                                  + [f'relation {i} (inverse)' for i in range(5)])
        assert vectors.x.size(0) == 10
        assert vectors.mask.all()


# Neighbours


@pytest.mark.parametrize('view', ['joint', 'image', 'structure'])
def test_neighbours(view, data):
    model = build('mocme', data)
    vectors = entity_vectors(model, data)[view]
    query = int(vectors.mask.nonzero()[0])
    x = vectors.x.double().numpy()
    cosine = {i: float(x[i] @ x[query] / np.linalg.norm(x[i]) / np.linalg.norm(x[query]))
              for i in range(40) if vectors.mask[i] and i != query}
    # The twins are tied, and come in the order of ids.
    expected = sorted(cosine, key=lambda i: (-round(cosine[i], 6), i))
    found = neighbours(model, data, f'entity {query}', view, top=100)
    assert [n['entity'] for n in found] == [f'entity {i}' for i in expected]
    assert [n['similarity'] for n in found] == pytest.approx([cosine[i] for i in expected],
                                                            abs=1e-5)
    assert neighbours(model, data, query, view, top=3) == found[:3]


def test_neighbours_errors(data):
    model = build('late_fusion', data)
    with pytest.raises(ValueError, match=r"Unknown view 'joint' of LateFusion \(expected one of "
                                         r"\['image', "):
        neighbours(model, data, 'entity 1')
    with pytest.raises(ValueError, match="entity 'entity 0' has no vector of view 'image'"):
        neighbours(model, data, 'entity 0', 'image')
    with pytest.raises(ValueError, match="Unknown entity 'entity x'"):
        neighbours(model, data, 'entity x', 'image')
    with pytest.raises(ValueError, match=r"'top' needs to be at least 1 \(got 0\)"):
        neighbours(model, data, 'entity 1', 'image', top=0)


# Files


def test_parquet(views, tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    assert write_vectors(views, tmp_path / 'out', 'parquet') == tmp_path / 'out'
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'entities.parquet', 'relations.parquet'}
    for what, by_name in views.items():
        table = pq.read_table(tmp_path / 'out' / f'{what}.parquet')
        assert table.column_names == ['id', 'label', *by_name]
        assert table['id'].to_pylist() == list(range(table.num_rows))
        for name, vectors in by_name.items():
            assert table['label'].to_pylist() == vectors.labels
            for found, x, has in zip(table[name].to_pylist(), vectors.x.tolist(), vectors.mask,
                                     strict=True):
                assert found == (x if has else None)


def test_npy(views, tmp_path):
    write_vectors(views, tmp_path / 'out', 'npy')
    for what, by_name in views.items():
        for name, vectors in by_name.items():
            path = tmp_path / 'out' / f'{what}-{name}'
            assert (np.load(f'{path}.npy', allow_pickle=False) == vectors.x.numpy()).all()
            assert (np.load(f'{path}-mask.npy', allow_pickle=False) == vectors.mask.numpy()).all()
            labels = json.loads((tmp_path / 'out' / f'{what}.json').read_text())
            assert labels == vectors.labels


def test_word2vec(views, tmp_path):
    write_vectors({'entities': views['entities']}, tmp_path / 'out', 'word2vec')
    assert len(list((tmp_path / 'out').iterdir())) == 5
    for name, vectors in views['entities'].items():
        lines = (tmp_path / 'out' / f'entities-{name}.txt').read_text().split('\n')
        assert lines.pop() == ''
        assert lines[0] == f'{int(vectors.mask.sum())} 8'
        rows = vectors.mask.nonzero().view(-1).tolist()
        assert [line.split(' ')[0] for line in lines[1:]] == [f'entity_{i}' for i in rows]
        x = torch.tensor([list(map(float, line.split(' ')[1:])) for line in lines[1:]])
        assert torch.equal(x, vectors.x[rows])


@pytest.mark.parametrize('labels,tokens', [
    (['New York', 'a\tb\u00a0c\n'], ['New_York', 'a_b_c_']),
    (['a b', 'a_b', 'c'], ['a_b#0', 'a_b#1', 'c']),
    (['', ' '], ['#0', '_']),
    (['x y', 'x_y', 'x_y#0'], ['x_y#0', 'x_y#1', 'x_y#0#2']),
])
def test_tokens(labels, tokens):
    found = unique_tokens(labels)
    assert len(set(found)) == len(labels)
    assert not any(not token or any(c.isspace() for c in token) for token in found)
    assert found == tokens


def test_faiss(views, tmp_path):
    faiss = pytest.importorskip('faiss')
    write_vectors(views, tmp_path / 'out', 'faiss')
    vectors = views['entities']['image']
    index = faiss.read_index(str(tmp_path / 'out' / 'entities-image.faiss'))
    assert index.ntotal == int(vectors.mask.sum())
    x = torch.nn.functional.normalize(vectors.x, dim=1)
    query = int(vectors.mask.nonzero()[0])
    similarity, ids = index.search(x[query:query + 1].numpy(), 6)
    expected = (x @ x[query]).masked_fill(~vectors.mask, -2).topk(6)
    assert ids[0].tolist()[0] == query
    assert similarity[0] == pytest.approx(expected.values.numpy(), abs=1e-5)
    labels = json.loads((tmp_path / 'out' / 'entities.json').read_text())
    assert labels[query] == f'entity {query}'
    assert faiss.read_index(str(tmp_path / 'out' / 'relations-joint.faiss')).ntotal == 10


def test_faiss_is_missing(views, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ImportError, match=r"pip install 'pyg-mmkgc\[faiss\]'"):
        write_vectors(views, tmp_path / 'out', 'faiss')
    assert not list(tmp_path.iterdir())


def test_errors(views, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown 'file_format' 'csv' \(expected one of"):
        write_vectors(views, tmp_path / 'out', 'csv')
    assert list(FORMATS) == ['parquet', 'npy', 'word2vec', 'faiss']
    (tmp_path / 'out').write_text('mine')
    with pytest.raises(FileExistsError, match="out' exists and is not overwritten"):
        write_vectors(views, tmp_path / 'out', 'npy')
    assert (tmp_path / 'out').read_text() == 'mine'


def test_labels_that_are_missing(data):
    data = data.clone()
    data['entity'].label = Labels([None, *list(data['entity'].label)[1:]])
    del data[EDGE].label
    model = MODELS['complex'].from_data(data, hidden_channels=8)
    assert entity_vectors(model, data)['joint'].labels[:2] == ['0', 'entity 1']
    assert relation_vectors(model, data)['joint'].labels[:2] == ['0', '1']
