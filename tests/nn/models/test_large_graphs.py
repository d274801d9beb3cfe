"""What a sampled step of a large graph may look at, and what it must not."""
import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.data.memmap import MemoryMapped, memory_map
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME
from pyg_mmkgc.nn.models import base
from pyg_mmkgc.sampler import EGNS, Uniform
from pyg_mmkgc.testing import FakeMMKG, NoSync
from pyg_mmkgc.training import Recipe, TrainConfig, Trainer, trainer

N, R = 60, 4
MODELS = {
    'complex': (ComplEx, {'hidden_channels': 16}),
    'additive': (AdditiveComplEx, {'hidden_channels': 16}),
    'mocme': (MoCME, {'hidden_channels': 8, 'num_references': 8, 'max_samples': 16}),
    'mocme_club': (MoCME, {'hidden_channels': 8, 'num_references': 8, 'max_samples': 16,
                           'estimator': 'club'}),
}


@pytest.fixture(scope='module')
def graph():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, inductive=True, seed=2)


@pytest.fixture(scope='module')
def data(graph):
    return graph[0]


@pytest.fixture(scope='module')
def mapped(data, tmp_path_factory):
    """The same graph, its features in half precision in files."""
    folder = tmp_path_factory.mktemp('features')
    out = copy.copy(data)
    for m in ('image', 'text'):
        np.save(folder / f'{m}.npy', data['entity'][m].half().numpy())
        out['entity'][m] = memory_map(folder / f'{m}.npy')
    return out


def make(name, data, sampler=Uniform, **kwargs):
    torch.manual_seed(0)
    cls, options = MODELS[name]
    return cls.from_data(data, **{
        'objective': 'sampled', **options,
        'neg_sampling': sampler(data['entity'].num_nodes, 3, candidates=seen_entities(data)),
        **kwargs})


def steps_of(model, **kwargs):
    fabric = trainer.Fabric(accelerator='cpu', devices=1)
    model.train()
    return trainer._Steps(fabric, model, TrainConfig(**kwargs))


def batch_of(data, size=10):
    return tuple(x[:size] for x in get_triples(data, 'train'))


def fit(model, data, **kwargs):
    config = TrainConfig(**{'epochs': 3, 'batch_size': 64, 'device': 'cpu', 'select': None,
                            **kwargs})
    return Trainer(config).fit(model, data)


# Sparse rows ####################################################################################


@pytest.mark.parametrize('optimizer', ['adagrad', 'sgd'])
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme'])
def test_sparse_rows_train_as_dense_gradients_do(name, optimizer, data):
    sparse, dense = make(name, data, EGNS), make(name, data, EGNS)
    dense.entity_tables = lambda: []
    losses = [[entry['loss'] for entry in fit(model, data, optimizer=optimizer).history]
              for model in (sparse, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # Adagrad's first steps are signs of gradients, also of those that are zero but for rounding, so
    # that a few numbers elsewhere may go another way.
    difference = (sparse.structure.weight - dense.structure.weight).abs()
    assert float((difference > 1e-4).float().mean()) < 0.01
    if optimizer == 'sgd':
        for key, value in dense.state_dict().items():
            torch.testing.assert_close(sparse.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert not sparse.structure.sparse  # Left as it was found.


@pytest.mark.parametrize('name', MODELS)
def test_a_step_changes_the_rows_of_its_batch_alone(name, data):
    model = make(name, data, **({} if name == 'complex' else {'modality_dropout': 0.0}))
    steps = steps_of(model)
    batch = batch_of(data, 4)
    prepared = model.prepare(*batch)
    before = model.structure.weight.detach().clone()
    steps(batch, prepared)
    changed = (model.structure.weight != before).any(dim=1).nonzero().view(-1)
    assert model.structure.weight.grad.is_sparse
    assert set(changed.tolist()) <= set(prepared.entities.tolist())
    assert changed.numel() > 0.6 * prepared.entities.numel()
    assert prepared.entities.numel() < N // 2


@pytest.mark.parametrize('name', MODELS)
def test_a_step_waits_for_nobody(name, mapped):
    model = make(name, mapped, EGNS)
    steps = steps_of(model)
    batch = batch_of(mapped)
    prepared = model.prepare(*batch)
    with NoSync(allow=['aten::_local_scalar_dense']):  # Adam counts its steps on the host.
        steps(batch, prepared)


@pytest.mark.parametrize('name', MODELS)
def test_a_step_makes_nothing_of_the_size_of_the_graph(name):
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not out.is_sparse and out.data_ptr() not in known:
                self.size = max(self.size, out.untyped_storage().nbytes())
            return out

    largest = []
    for size in (200, 2000):
        data = FakeMMKG(size, R, {'image': 5, 'text': 4}, num_triples=400)[0]
        model = make(name, data)
        steps = steps_of(model)
        batch = batch_of(data, 3)
        steps(batch, model.prepare(*batch))  # Optimisers make their state.
        prepared = model.prepare(*batch)
        known = {x.data_ptr() for x in [*model.parameters(), *model.buffers()]}
        known |= {x.data_ptr() for optimizer in steps.main
                  for state in optimizer.state.values() for x in state.values()}
        with Largest() as mode:
            steps(batch, prepared)
        largest.append(mode.size)
    # One entity more or less is in the batch:
    assert largest[1] < 1.5 * largest[0]
    assert largest[1] < 2000 * model.structure.weight.size(1) * 4


def test_clipping_counts_sparse_rows(data):
    norms = []
    for make_dense in (False, True):
        model = make('mocme', data)
        if make_dense:
            model.entity_tables = lambda: []
        start = model.structure.weight.detach().clone()
        fit(model, data, epochs=1, batch_size=10**4, optimizer='sgd', grad_clip=1e-3, lr=1.0)
        norms.append((model.structure.weight - start).norm().item())
    assert 0 < norms[0] < 1e-3
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', ['complex', 'mocme'])
def test_tables_in_half_precision(name, dtype, data):
    model, other = make(name, data, table_dtype=dtype), make(name, data)
    assert model.structure.weight.dtype == getattr(torch, dtype)
    losses = [[entry.get('sampled', entry['loss']) for entry in fit(m, data, epochs=8).history]
              for m in (model, other)]
    assert losses[0][-1] < losses[0][0] - 0.3 * (losses[1][0] - losses[1][-1])
    assert losses[0][-1] == pytest.approx(losses[1][-1], abs=0.3)
    assert model.score_all(*batch_of(data)[:2]).dtype == torch.float


@pytest.mark.parametrize('name', ['complex', 'mocme'])
def test_bad_table_types(name, data):
    with pytest.raises(ValueError, match=r"Unknown 'table_dtype' 'int8' \(expected one of "
                                         r"\['float32', 'bfloat16', 'float16'\]\)"):
        make(name, data, table_dtype='int8')
    with pytest.raises(ValueError, match=r"'table_dtype' 'float16' needs 'objective' to be "
                                         r"'sampled' \(got 'softmax'\)"):
        make(name, data, table_dtype='float16', objective='softmax')


# Features in files ##############################################################################


@pytest.mark.parametrize('objective', ['softmax', 'sampled'])
@pytest.mark.parametrize('name', ['additive', 'mocme'])
def test_mapped_features_train_as_those_in_memory(name, objective, data, mapped):
    half = copy.copy(data)
    for m in ('image', 'text'):
        half['entity'][m] = data['entity'][m].half()
    first, second = (make(name, d, objective=objective) for d in (mapped, half))
    assert first.x_text is None
    assert first._mapped['text'] is mapped['entity'].text
    losses = [[e['loss'] for e in fit(model, d).history]
              for model, d in [(first, mapped), (second, half)]]
    assert losses[0] == losses[1]
    assert torch.equal(first.score_all(*batch_of(data)[:2]), second.score_all(*batch_of(data)[:2]))
    second.attach(mapped)
    first.attach(data)
    assert first._mapped == {}
    assert first.x_text.equal(data['entity'].text)
    assert second.inputs(torch.tensor([3]))[0]['text'].dtype == torch.float


def test_mapped_features_are_gathered_outside_the_step(mapped):
    model = make('mocme', mapped)
    prepared = model.prepare(*batch_of(mapped))
    (_, rows), = model._fetched
    assert rows['text'].shape == (prepared.entities.numel(), 4)
    assert model.inputs(prepared.entities)[0]['text'] is rows['text']
    other = prepared.entities.clone()  # Another batch is looked up for itself.
    assert model.inputs(other)[0]['text'].equal(rows['text'])
    assert model.inputs(other)[0]['text'] is not rows['text']
    assert isinstance(copy.deepcopy(model)._mapped['text'], MemoryMapped)


def test_a_model_without_a_graph_has_no_features_in_memory():
    model = MoCME(10**6, R, {'text': 384}, hidden_channels=2)
    assert model.x_text.untyped_storage().nbytes() < 100
    assert not model.inputs(torch.tensor([7]))[0]['text'].any()


# All entities ###################################################################################


@pytest.mark.parametrize('size', [7, N - 1])
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme'])
def test_evaluation_in_chunks_of_entities(name, size, data, monkeypatch):
    model = make(name, data)
    fit(model, data, epochs=1)
    expected = evaluate(model, data, 'val')
    with torch.no_grad():
        scores = model.score_all(*batch_of(data)[:2])
    calls, encode = [], model.encode
    monkeypatch.setattr(base, 'ENCODE_CHUNK', size)
    model.encode = lambda index=None: calls.append(index) or encode(index)
    with torch.no_grad():
        torch.testing.assert_close(model.score_all(*batch_of(data)[:2]), scores)
    assert torch.cat(calls[:-1]).equal(torch.arange(N))
    assert len(calls) - 1 == -(-N // size)
    assert all(x.numel() <= size for x in calls[:-1])
    assert evaluate(model, data, 'val').mrr == pytest.approx(expected.mrr, abs=1e-3)
    assert None not in calls


@pytest.mark.parametrize('name', ['mocme', 'mocme_club'])
def test_what_training_never_names_never_enters(name, graph, data):
    recipe = Recipe.from_dict('large', {'model': {'name': 'mocme', 'hidden_channels': 8,
                                         'objective': 'sampled', 'num_references': 8,
                                         'estimator': 'club' if 'club' in name else 'info_nce'},
                                         'sampler': {'name': 'egns', 'num_negatives': 30}})
    model = recipe.build(data)
    seen = seen_entities(data)
    assert not seen[list(graph.held_out)].any()
    encode, entered = model.encode, set()
    model.encode = lambda index=None: entered.update(index.tolist()) or encode(index)
    fit(model, data)
    assert entered == set(seen.nonzero().view(-1).tolist())
