import gc
import json
import logging
import math
import os

import pytest
import torch

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.testing import FakeMMKG, NoSync
from pyg_mmkgc.training import TrainConfig, Trainer, trainer

N, R = 24, 3
MODELS = {
    'complex': (ComplEx, {'hidden_channels': 16}),
    'additive': (AdditiveComplEx, {'hidden_channels': 16}),
    'mocme': (MoCME, {'hidden_channels': 8, 'num_references': 8, 'max_samples': 16}),
}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, num_triples=120, seed=1)[0]


def make(name, data, seed=0, **kwargs):
    torch.manual_seed(seed)
    cls, options = MODELS[name]
    return cls.from_data(data, **{**options, **kwargs})


def fit(model, data, log=False, on_epoch=None, **kwargs):
    config = TrainConfig(**{'epochs': 4, 'batch_size': 128, 'device': 'cpu', 'eval_every': 1,
                            'dense_lr': 0.01, **kwargs})
    return Trainer(config, log=log, on_epoch=on_epoch).fit(model, data)


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return all(a[k].equal(b[k]) for k in a)


class Known:
    """An evaluation whose MRR is given beforehand; keeps the weights that it saw."""
    def __init__(self, *mrrs):
        self.mrrs, self.states, self.splits = list(mrrs), [], []

    def __call__(self, model, data, split):
        self.splits.append(split)
        self.states.append(state_of(model))
        return type('Evaluation', (), {'mrr': self.mrrs[len(self.states) - 1]})


@pytest.fixture
def known(monkeypatch):
    def patch(*mrrs):
        out = Known(*mrrs)
        monkeypatch.setattr(trainer, 'evaluate', out)
        return out

    return patch


# Learning #######################################################################################


@pytest.mark.parametrize('name', MODELS)
def test_a_short_fit_beats_chance(name):
    data = FakeMMKG(40, 4, seed=3)[0]
    cls, _ = MODELS[name]
    torch.manual_seed(0)
    model = cls.from_data(data, hidden_channels=16)
    before = evaluate(model, data, 'val').mrr
    result = fit(model, data, epochs=25, eval_every=5)
    losses = [entry['loss'] for entry in result.history]
    assert losses[-1] < 0.8 * losses[0]
    # A random order of n candidates has the mean reciprocal rank H_n / n:
    chance = sum(1 / i for i in range(1, 41)) / 40
    assert before < 1.5 * chance
    assert result.best_mrr > 2 * chance
    assert evaluate(model, data, 'val').mrr == pytest.approx(result.best_mrr)
    assert not model.training


@pytest.mark.parametrize('name', ['complex', 'mocme'])
@pytest.mark.parametrize('objective', ['softmax', 'bce', 'sampled'])
def test_same_seed_same_run(name, objective, data):
    runs = []
    for model_seed, seed in [(0, 5), (0, 5), (0, 6)]:
        sampler = EGNS(N, 4, refresh_every=2) if objective != 'bce' else None
        model = make(name, data, model_seed, objective=objective, neg_sampling=sampler)
        torch.rand(len(runs) * 3)  # Whatever was drawn before does not matter.
        history = fit(model, data, seed=seed).history
        timing = ('seconds', 'prepare_seconds', 'step_seconds', 'select_seconds',
                  'triples_per_second', 'peak_memory_bytes')
        runs.append((state_of(model), [{k: v for k, v in entry.items() if k not in timing}
                                       for entry in history]))
    assert equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not equal(runs[0][0], runs[2][0])


def test_history(data):
    entries = []
    model = make('mocme', data, neg_sampling=EGNS(N, 4), regularization=0.01)
    result = fit(model, data, epochs=5, eval_every=2, gate_split='val', on_epoch=entries.append)
    assert result.history == entries
    assert [entry['epoch'] for entry in entries] == [1, 2, 3, 4, 5]
    assert ['val_mrr' in entry for entry in entries] == [False, True, False, True, True]
    for entry in entries:
        parts = {k: v for k, v in entry.items() if k.startswith('softmax')
                 or k in ('sampled', 'information', 'regularization')}
        assert len(parts) == 7
        assert entry['loss'] == pytest.approx(sum(parts.values()), rel=1e-4)
        assert entry['seconds'] > 0
        assert entry['triples_per_second'] == pytest.approx(
            2 * get_triples(data, 'train')[0].numel() / entry['seconds'])
        assert math.isfinite(entry['gate_loss'])
    assert not result.interrupted


def test_history_of_time_and_memory(data):
    model = make('mocme', data, objective='sampled', neg_sampling=EGNS(N, 4))
    for entry in fit(model, data, epochs=3, eval_every=2).history:
        parts = entry['prepare_seconds'] + entry['step_seconds']
        assert 0 < entry['prepare_seconds'] < entry['step_seconds']
        assert 0.8 * entry['seconds'] < parts <= entry['seconds']
        assert ('select_seconds' in entry) == ('val_mrr' in entry)
        # A process with torch takes more than 50 MiB, and this one less than 20 GiB:
        assert 50 * 2**20 < entry['peak_memory_bytes'] < 20 * 2**30


def test_epochs_of_some_steps_go_on_where_the_last_one_ended(data, monkeypatch):
    batches = []
    prepare = ComplEx.prepare
    monkeypatch.setattr(ComplEx, 'prepare', lambda self, *batch: batches.append(batch) or
                        prepare(self, *batch))
    total = num_steps(data, 32)
    assert total > 4
    result = fit(make('complex', data), data, epochs=total, epoch_steps=2, batch_size=32,
                 select=None)
    assert len(result.history) == total
    assert len(batches) == 2 * total
    triples = [sorted(zip(*(torch.cat(x).tolist() for x in zip(*part, strict=True)), strict=True))
               for part in (batches[:total], batches[total:])]
    assert triples[0] == triples[1]  # Two whole passes,
    assert not torch.equal(batches[0][0], batches[total][0])  # each in an order of its own.
    losses = [[entry['loss'] for entry in fit(make('complex', data), data, select=None, epochs=3,
                                              epoch_steps=size).history]
              for size in (None, 10**6)]
    assert losses[0] == losses[1]


def test_memory_stays_flat(data):
    tensors, resident = [], []

    def on_epoch(entry):
        if entry['epoch'] in (11, 21):
            gc.collect()
            tensors.append(sum(type(x) is torch.Tensor for x in gc.get_objects()))
            with open('/proc/self/statm', encoding='ascii') as f:
                resident.append(int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE'))

    sampler = EGNS(N, 4, candidates=torch.arange(N - 6))
    fit(make('complex', data, objective='sampled', neg_sampling=sampler), data, epochs=21,
        batch_size=8, epoch_steps=20, select=None, on_epoch=on_epoch)
    assert abs(tensors[1] - tensors[0]) < 20  # Of 200 steps.
    # A leak of the tables alone would be more; the allocator itself grows by some pages.
    assert resident[1] - resident[0] < 2**24


def test_profile(data, tmp_path, capsys):
    path = tmp_path / 'new' / 'trace.json'
    config = TrainConfig(epochs=2, batch_size=32, device='cpu', select=None)
    Trainer(config, profile=path).fit(make('complex', data), data)
    trace = json.loads(path.read_text())
    names = {event.get('name') for event in trace['traceEvents']}
    assert {'aten::mm', 'aten::index'} & names
    # No more than the first steps, whatever the number of epochs:
    steps = [event for event in trace['traceEvents']
             if str(event.get('name')).startswith('Optimizer.step#')]
    assert len(steps) == trainer.PROFILED_STEPS < num_steps(data, 32)
    assert 'Self CPU' in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"'profile' exists already: .*trace.json"):
        Trainer(config, profile=path)
    short = tmp_path / 'short.json'  # Fewer steps than are profiled.
    Trainer(TrainConfig(epochs=1, batch_size=10**4, device='cpu', select=None),
            profile=short).fit(make('complex', data), data)
    assert short.exists()


def test_one_step_against_the_optimisers(data):
    # One batch holds all triples, so an epoch is one step that can be done by hand.
    model, other = make('additive', data, modality_dropout=0.0, dropout=0.0), \
        make('additive', data, modality_dropout=0.0, dropout=0.0)
    assert equal(state_of(model), state_of(other))
    fit(model, data, epochs=1, batch_size=10**4, select=None, lr=0.3, dense_lr=0.02,
        dense_weight_decay=0.1, optimizer='sgd')
    h, r, t = get_triples(data, 'train')
    other.train()
    other.loss(torch.cat([h, t]), torch.cat([r, r + R]), torch.cat([t, h])).backward()
    for name, p in other.named_parameters():
        if 'projection' in name:  # AdamW's first step has the length of its learning rate.
            expected = p * (1 - 0.02 * 0.1) - 0.02 * p.grad / (p.grad.abs() + 1e-8)
        else:
            expected = p - 0.3 * p.grad
        torch.testing.assert_close(model.state_dict()[name], expected.detach(), rtol=1e-3,
                                   atol=1e-4)


def test_gradient_clipping(data):
    start = state_of(make('complex', data, init_scale=0.5))
    norms = []
    for clip in (None, 1e-2):
        model = make('complex', data, init_scale=0.5)
        fit(model, data, epochs=1, batch_size=10**4, select=None, lr=1.0, optimizer='sgd',
            grad_clip=clip)
        norms.append(torch.cat([(v - start[k]).flatten()
                                for k, v in model.state_dict().items()]).norm().item())
    assert norms[0] > 0.02
    assert norms[1] == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize('kwargs', [{'gate_split': 'val'}, {}], ids=['gates', 'club'])
def test_clipping_sees_what_it_steps_alone(kwargs, data, monkeypatch):
    model = make('mocme', data, estimator='info_nce' if kwargs else 'club')
    apart = {id(p) for p in (model.gates() if kwargs else model.alternating_parameters())}
    assert apart
    sizes = []
    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_',
                        lambda parameters, _: sizes.append({id(p) for p in parameters}))
    fit(model, data, epochs=1, select=None, grad_clip=1.0, **kwargs)
    assert len(sizes) > 1
    assert all(size == {id(p) for p in model.parameters()} - apart for size in sizes)


# The choice of an epoch #########################################################################


@pytest.mark.parametrize('average', [0.0, 0.7])
def test_best_weights_are_restored(average, data, known):
    evaluation = known(0.1, 0.4, 0.3, 0.4, 0.2)
    model = make('mocme', data)
    result = fit(model, data, epochs=5, average=average)
    assert (result.best_epoch, result.best_mrr) == (2, 0.4)  # Of two equal ones the first.
    assert equal(model.state_dict(), evaluation.states[1])
    assert not equal(evaluation.states[4], evaluation.states[1])
    assert evaluation.splits == ['val'] * 5
    assert [entry['val_mrr'] for entry in result.history] == [0.1, 0.4, 0.3, 0.4, 0.2]


def test_early_stopping(data, known):
    known(0.1, 0.4, 0.3, 0.2, 0.5, 0.6)
    result = fit(make('complex', data), data, epochs=6, patience=2)
    assert len(result.history) == 4
    assert (result.best_epoch, result.best_mrr) == (2, 0.4)

    known(0.1, 0.4, 0.3, 0.2, 0.5, 0.6)
    result = fit(make('complex', data), data, epochs=6, patience=3)
    assert (len(result.history), result.best_epoch) == (6, 6)

    known(0.4, 0.3, 0.2, 0.1)  # Looks count, not epochs.
    result = fit(make('complex', data), data, epochs=8, eval_every=2, patience=2)
    assert (len(result.history), result.best_epoch) == (6, 2)

    known(0.4, 0.3, 0.2, 0.1)
    assert len(fit(make('complex', data), data, epochs=4, patience=None).history) == 4


def test_the_last_epoch_is_looked_at(data, known):
    evaluation = known(0.1, 0.2, 0.3)
    result = fit(make('complex', data), data, epochs=5, eval_every=2)
    assert [e['epoch'] for e in result.history if 'val_mrr' in e] == [2, 4, 5]
    assert (len(evaluation.states), result.best_epoch) == (3, 5)


def test_without_a_selecting_split_the_last_epoch_stays(data, known):
    evaluation = known()
    model, states = make('complex', data), []
    result = fit(model, data, select=None, on_epoch=lambda _: states.append(state_of(model)))
    assert evaluation.states == []
    assert (result.best_epoch, result.best_mrr) == (4, None)
    assert equal(model.state_dict(), states[3])
    assert not equal(states[2], states[3])


@pytest.mark.parametrize('select', [None, 'val'])
def test_weight_averaging(select, data, known):
    decay = 0.6
    evaluation = known(0.1, 0.2, 0.3, 0.4)
    model, states = make('additive', data), []
    result = fit(model, data, select=select, average=decay,
                 on_epoch=lambda _: states.append(state_of(model)))
    # Each epoch counts (1 - decay) * decay^age, divided by the sum of these weights:
    weights = [(1 - decay) * decay**(3 - i) for i in range(4)]
    for k in states[0]:
        expected = sum(w * s[k] for w, s in zip(weights, states, strict=True)) / sum(weights)
        torch.testing.assert_close(model.state_dict()[k], expected, rtol=1e-4, atol=1e-6)
    assert result.best_epoch == 4
    if select:  # The mean of one epoch is that epoch; training itself goes on from its weights.
        for k, v in evaluation.states[0].items():
            torch.testing.assert_close(v, states[0][k])
    plain = make('additive', data)
    fit(plain, data, select=None)
    assert equal(plain.state_dict(), states[3])


# Gates and alternation ##########################################################################


def gate_names(model):
    return {n for n, p in model.named_parameters() if any(p is g for g in model.gates())}


def test_gates_learn_on_their_split_alone(data):
    model = make('mocme', data)
    names = gate_names(model)
    assert len(names) == 7
    start = state_of(model)
    fit(model, data, select=None, gate_split='val', gate_lr=1e-12)
    after = model.state_dict()
    assert model.held_out_gates
    for name in names:
        torch.testing.assert_close(after[name], start[name], rtol=0, atol=1e-9)
    assert sum(not after[k].equal(start[k]) for k in start) > 20

    moved = make('mocme', data)
    fit(moved, data, select=None, gate_split='val', gate_lr=0.05)
    for name in names:
        assert not torch.allclose(moved.state_dict()[name], start[name], atol=1e-4), name
    together = make('mocme', data)
    fit(together, data, select=None)
    assert not together.held_out_gates
    for name in names:
        assert not torch.allclose(together.state_dict()[name], start[name], atol=1e-4), name


def test_gate_steps(data, monkeypatch):
    calls = []
    original = MoCME.gate_loss
    monkeypatch.setattr(MoCME, 'gate_loss',
                        lambda self, *batch: calls.append(batch) or original(self, *batch))
    fit(make('mocme', data), data, epochs=3, select=None, gate_split='val', gate_steps=4,
        batch_size=7)
    assert len(calls) == 12
    h, r, t = get_triples(data, 'val')
    allowed = set(zip(h.tolist(), r.tolist(), t.tolist(), strict=True))
    allowed |= {(c, b + R, a) for a, b, c in allowed}
    size, seen = 2 * h.numel(), []
    for batch in calls:
        assert batch[0].numel() <= 7
        seen += zip(*(x.tolist() for x in batch), strict=True)
    # Pass after pass, each triple once before any comes twice:
    assert set(seen) <= allowed
    assert sorted(seen[:size]) == sorted(
        [*zip(h.tolist(), r.tolist(), t.tolist(), strict=True),
         *zip(t.tolist(), (r + R).tolist(), h.tolist(), strict=True)])


def test_a_model_without_gates_ignores_their_split(data):
    model, other = make('complex', data), make('complex', data)
    result = fit(model, data, gate_split='val', select=None)
    assert not model.held_out_gates
    assert 'gate_loss' not in result.history[0]
    fit(other, data, select=None)
    assert equal(model.state_dict(), other.state_dict())


def test_club_alternates_with_an_optimiser_of_its_own(data):
    model = make('mocme', data, estimator='club')
    start = state_of(model)
    own = {n for n, p in model.named_parameters()
           if any(p is q for q in model.alternating_parameters())}
    before = model.alternating_loss().item()
    fit(model, data, epochs=10, select=None)
    after = model.state_dict()
    assert len(own) == 16
    for name in own:
        assert not after[name].equal(start[name]), name
    assert model.alternating_loss().item() < before


def test_every_parameter_has_one_optimiser(data):
    fabric = trainer.Fabric(accelerator='cpu', devices=1)
    for held_out in (False, True):
        model = make('mocme', data, estimator='club')
        model.held_out_gates = held_out
        steps = trainer._Steps(fabric, model, TrainConfig(lr=0.5, dense_lr=0.01))
        optimizers = [*steps.main, steps.alternating]
        assert [type(o) for o in optimizers] == [torch.optim.Adagrad, torch.optim.AdamW,
                                                 torch.optim.Adam]
        groups = [{id(p) for g in o.param_groups for p in g['params']} for o in optimizers]
        assert sum(len(group) for group in groups) == len(set().union(*groups))
        gates = {id(p) for p in model.gates()} if held_out else set()
        assert set().union(*groups) == {id(p) for p in model.parameters()} - gates
        assert groups[0] == {id(p) for p in model.tables()} - gates
        assert groups[2] == {id(p) for p in model.alternating_parameters()}
        assert [o.param_groups[0]['lr'] for o in optimizers] == [0.5, 0.01, 0.01]


# What goes wrong ################################################################################


class Trouble:
    """Does something after so many steps."""
    def __init__(self, model, step, what):
        self.loss, self.step, self.what, self.count = model.loss, step, what, 0
        model.loss = self

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.what(self.loss(*args, **kwargs)) if self.count == self.step else \
            self.loss(*args, **kwargs)


def interrupt(_):
    raise KeyboardInterrupt


def num_steps(data, batch_size=128):
    return math.ceil(2 * get_triples(data, 'train')[0].numel() / batch_size)


@pytest.mark.parametrize('average', [0.0, 0.5])
def test_interruption_inside_an_epoch(average, data, known, caplog):
    evaluation = known(0.2, 0.4, 0.3)
    model = make('complex', data)
    assert num_steps(data) > 1
    Trouble(model, 3 * num_steps(data) + 2, interrupt)
    with caplog.at_level(logging.WARNING, trainer.__name__):
        result = fit(model, data, epochs=9, average=average)
    assert 'Interrupted' in caplog.text
    assert result.interrupted
    assert (result.best_epoch, result.best_mrr, len(result.history)) == (2, 0.4, 3)
    assert equal(model.state_dict(), evaluation.states[1])
    assert not model.training


def test_interruption_before_any_look(data):
    model = make('complex', data)
    Trouble(model, 1, interrupt)
    start = state_of(model)
    result = fit(model, data)
    assert (result.interrupted, result.best_epoch, result.history) == (True, 0, [])
    assert equal(model.state_dict(), start)


@pytest.mark.parametrize('average', [0.0, 0.5])
def test_a_loss_that_is_not_finite(average, data, known):
    evaluation = known(0.2, 0.4, 0.3)
    model = make('complex', data)
    Trouble(model, 3 * num_steps(data) + 2, lambda loss: loss * float('nan'))
    with pytest.raises(FloatingPointError, match=r'the loss is not finite: loss \(epoch 4, step '
                                                 r'2\); lower the learning rates'):
        fit(model, data, epochs=9, average=average)
    assert equal(model.state_dict(), evaluation.states[1])
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_divergence_is_found_without_waiting(data, monkeypatch):
    monkeypatch.setattr(trainer, 'LOOK_STEPS', 4)
    progress = trainer._Progress(make('complex', data))
    values = [1.0, 2.0, math.nan, 3.0]
    with NoSync():
        for x in values[:3]:
            progress.add({'loss': torch.tensor(x), 'softmax': torch.tensor(x)}, 8)
    with pytest.raises(FloatingPointError, match=r'not finite: softmax \(epoch 1, step 3\)'):
        progress.add({'loss': torch.tensor(3.0), 'softmax': torch.tensor(3.0)}, 8)


def test_a_loss_that_explodes(data):
    progress = trainer._Progress(make('complex', data))
    for x in (3.0, 2e4, -3e4, 3.1e4):
        progress.add({'loss': torch.tensor(x), 'sampled': torch.tensor(x)}, 8)
    with pytest.raises(FloatingPointError, match=r'the loss explodes: sampled is 3.1e\+04 \(epoch '
                                                 r'1, step 4\); lower the learning rates'):
        progress.look()


@pytest.mark.parametrize('name', ['select', 'gate_split'])
def test_unknown_split(name, data):
    with pytest.raises(ValueError, match=rf"'{name}' names the unknown split 'dev' .*'train', "
                                         r"'val', 'test'"):
        fit(make('complex', data), data, **{name: 'dev'})


@pytest.mark.parametrize('kwargs, match', [
    ({'epochs': 0}, r"'epochs' needs to be at least 1 \(got 0\)"),
    ({'batch_size': 0}, r"'batch_size' needs to be at least 1 \(got 0\)"),
    ({'eval_every': -1}, r"'eval_every' needs to be at least 1 \(got -1\)"),
    ({'epoch_steps': 0}, r"'epoch_steps' needs to be at least 1 \(got 0\)"),
    ({'gate_steps': 0}, r"'gate_steps' needs to be at least 1 \(got 0\)"),
    ({'lr': 0.0}, r"'lr' needs to be positive \(got 0.0\)"),
    ({'dense_lr': -1.0}, r"'dense_lr' needs to be positive \(got -1.0\)"),
    ({'gate_lr': float('inf')}, r"'gate_lr' needs to be positive \(got inf\)"),
    ({'checkpoint_minutes': 0.0}, r"'checkpoint_minutes' needs to be positive \(got 0.0\)"),
    ({'lr': float('nan')}, r"'lr' needs to be positive \(got nan\)"),
    ({'optimizer': 'lion'}, r"Unknown 'optimizer' 'lion' .*\['adagrad', 'adam', 'sgd'\]"),
    ({'average': 1.0}, r"'average' needs to be in \[0, 1\) \(got 1.0\)"),
    ({'patience': 0}, r"'patience' needs to be at least 1 \(got 0\)"),
    ({'device': 'tpu'}, r"Unknown 'device' 'tpu' .*'auto', 'cpu', 'cuda'"),
], ids=str)
def test_invalid_config(kwargs, match):
    with pytest.raises(ValueError, match=match):
        TrainConfig(**kwargs)


def test_options():
    options = TrainConfig.options()
    assert options['epochs'] == TrainConfig().epochs
    assert TrainConfig(**options) == TrainConfig() == Trainer().config


def test_the_progress_bar_is_off_by_default(data, capsys):
    fit(make('complex', data), data, epochs=1)
    assert capsys.readouterr() == ('', '')
    fit(make('complex', data), data, epochs=1, log=True)
    out, err = capsys.readouterr()
    assert out == ''
    assert 'loss=' in err
    assert 'val_mrr=' in err
