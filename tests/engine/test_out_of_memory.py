r"""Where memory does not suffice: one message that says what to lower, and nothing is lost."""
import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.cli import main
from pyg_mmkgc.data import get_triples
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.evaluation.memory import explain_out_of_memory, is_out_of_memory
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, Recipe, Trainer, load_run, train_run

SMALL = {'model.hidden_channels': 8, 'model.num_experts': 2, 'train.eval_every': 1}
CPU = RuntimeError('[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can\'t '
                   'allocate memory: you tried to allocate 400000000000 bytes. Error code 12')
GPU = torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')
ERRORS = [CPU, GPU, MemoryError()]
ADVICE = (r"out of memory while training '{}'; lower 'train.batch_size' \(now \d+\) or "
          r"'model.hidden_channels' \(now 8\)")


def raising(error):
    def function(*args, **kwargs):
        raise error

    return function


def fail_in_epoch(monkeypatch, epoch, error):
    calls, run_epoch = [], Trainer._epoch

    def failing(self, *args):
        calls.append(self)
        if len(calls) == epoch:
            raise error
        return run_epoch(self, *args)

    monkeypatch.setattr(Trainer, '_epoch', failing)


@pytest.mark.parametrize('error', [*ERRORS, RuntimeError('MPS backend out of memory'),
                                   RuntimeError('CUBLAS_STATUS_ALLOC_FAILED when calling')])
def test_what_is_out_of_memory(error):
    assert is_out_of_memory(error)
    # The innermost explanation counts:
    bake = explain_out_of_memory('eating', 'stop')(
        explain_out_of_memory('baking', "lower 'heat'")(raising(error)))
    with pytest.raises(MemoryError, match="^out of memory while baking; lower 'heat'$") as info:
        bake()
    assert info.value.__cause__ is error


@pytest.mark.parametrize('error', [RuntimeError('shape'), ValueError('out of memory'),
                                   NotImplementedError()])
def test_what_is_not(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as info:
        explain_out_of_memory('baking', 'stop')(raising(error))()
    assert info.value is error


@pytest.mark.parametrize('error', ERRORS, ids=['cpu', 'gpu', 'python'])
def test_training_keeps_the_best_weights(tmp_path, monkeypatch, error):
    fail_in_epoch(monkeypatch, 4, error)
    match = ADVICE.format('mocme') + r"; the best weights before that are in '.*model.safetensors'$"
    with pytest.raises(MemoryError, match=match):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    run = load_run(tmp_path / 'run', data=FakeMMKG()[0], device='cpu')
    assert len(run.history) == 3
    assert run.interrupted
    assert evaluate(run.model, run.data, 'val').mrr == max(x['val_mrr'] for x in run.history)


@pytest.mark.parametrize('select', ['val', None])
def test_weights_that_nobody_looked_at_are_kept(tmp_path, monkeypatch, select):
    fail_in_epoch(monkeypatch, 3, CPU)
    with pytest.raises(MemoryError, match='the best weights before that'):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides={
            **SMALL, 'train.eval_every': 5, 'train.select': select})
    assert len(load_run(tmp_path / 'run', data=FakeMMKG()[0], device='cpu').history) == 2


def test_weights_of_a_fixed_number_of_epochs_survive_a_loss_that_is_not_finite(tmp_path,
                                                                               monkeypatch):
    fail_in_epoch(monkeypatch, 3, FloatingPointError('the loss is not finite'))
    with pytest.raises(FloatingPointError, match='finite; the best weights before that are in'):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run',
                  overrides={**SMALL, 'train.select': None})
    assert len(load_run(tmp_path / 'run', data=FakeMMKG()[0], device='cpu').history) == 2


def test_nothing_is_left_of_a_first_epoch(tmp_path, monkeypatch):
    fail_in_epoch(monkeypatch, 1, GPU)
    with pytest.raises(MemoryError, match=ADVICE.format('mocme') + '$'):
        train_run(FakeMMKG(), epochs=9, out=tmp_path / 'run', overrides=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_built(tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, 'build', raising(CPU))
    match = "^out of memory while building 'mocme'; lower 'model.hidden_channels'$"
    with pytest.raises(MemoryError, match=match):
        train_run(FakeMMKG(), epochs=1, out=tmp_path / 'run', overrides=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('where', ['evaluation', 'baseline', 'picture'])
def test_the_weights_outlive_what_comes_after_training(tmp_path, monkeypatch, where):
    if where == 'evaluation':
        match = (r"^out of memory while ranking split 'test'; lower 'batch_size' or 'chunk_size', "
                 r"or 'hidden_channels' of the model; the weights are in '.*model.safetensors'$")
        original = run_module.evaluate

        def failing(model, data, split, **kwargs):
            model.scorer = raising(GPU)
            return original(model, data, split, **kwargs)

        monkeypatch.setattr(run_module, 'evaluate', failing)
    elif where == 'baseline':
        fail_in_epoch(monkeypatch, 3, GPU)
        match = r"^out of memory while training 'complex'; lower .*; the weights are in '.*run/"
    else:
        monkeypatch.setattr(run_module, 'plot_curves', raising(CPU))
        match = r"^out of memory while drawing; lower 'model.hidden_channels'; the weights are in "
    with pytest.raises(MemoryError, match=match):
        train_run(FakeMMKG(), epochs=2, out=tmp_path / 'run', overrides=SMALL)
    run = load_run(tmp_path / 'run', data=FakeMMKG()[0], device='cpu')
    assert len(run.history) == 2
    assert run.interrupted


def test_ranking_and_a_smaller_batch():
    data = FakeMMKG()[0]
    model = ComplEx.from_data(data, hidden_channels=4)
    scorer = model.scorer()

    def greedy(head_index, rel_type, start, stop):
        if head_index.numel() > 7:
            raise GPU
        return scorer(head_index, rel_type, start, stop)

    with pytest.raises(MemoryError, match="ranking split 'val'; lower 'batch_size' or 'chunk_size"):
        evaluate(greedy, data, 'val')
    out = evaluate(greedy, data, 'val', batch_size=7)
    assert out.ranks['tail'].rank.equal(evaluate(model, data, 'val').ranks['tail'].rank)
    assert len(out.ranks['tail']) == get_triples(data, 'val')[0].numel()


def test_the_model_has_its_best_weights(monkeypatch):
    data = FakeMMKG()[0]
    recipe = Recipe('test', {'name': 'complex', 'hidden_channels': 8}, None,
                    {'epochs': 9, 'batch_size': 64, 'eval_every': 1, 'device': 'cpu'})
    entries = []
    fail_in_epoch(monkeypatch, 6, CPU)
    fit = Fit(recipe, data, on_epoch=entries.append)
    assert not fit.kept
    with pytest.raises(MemoryError, match=ADVICE.format('complex') + '$'):
        fit()
    assert fit.kept
    assert evaluate(fit.model.eval(), data, 'val').mrr == max(x['val_mrr'] for x in entries)


# The command line ###############################################################################


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'tiny'
    path.mkdir()
    lines = {'train': ['a\tr\tb', 'b\tr\tc', 'c\tr\ta', 'a\ts\tc'], 'val': ['b\ts\ta'],
             'test': ['c\ts\tb', 'a\tr\tc']}
    for split, triples in lines.items():
        (path / f'{split}.tsv').write_text('\n'.join(triples) + '\n')
    return path


def test_the_command_line_ends_in_one_line(folder, tmp_path, monkeypatch):
    def invoke(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    arguments = ['train', '--dataset', folder, '--model', 'complex', '--epochs', 3, '--set',
                 'hidden_channels=8', '--set', 'eval_every=1']
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 3, GPU)
        result = invoke(*arguments, '--out', tmp_path / 'run')
    assert result.exit_code == 2
    assert result.stdout == ''
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: out of memory while training 'complex'; lower 'train.batch_s")
    assert last.endswith(f"are in '{tmp_path / 'run' / 'model.safetensors'}'")
    assert 'Traceback' not in result.output

    with monkeypatch.context() as patch:
        patch.setattr(ComplEx, 'scorer', raising(CPU))
        result = invoke('evaluate', tmp_path / 'run')
        assert result.exit_code == 2
        assert "Error: out of memory while ranking split 'test'; lower 'batch" in result.stderr
        result = invoke('predict', tmp_path / 'run', '--head', 'a', '--relation', 'r')
        assert result.exit_code == 2
        assert result.stderr == "Error: out of memory while predicting; take device 'cpu'\n"
        patch.setattr(ComplEx, 'to', raising(GPU))
        result = invoke('evaluate', tmp_path / 'run')
        assert result.exit_code == 2
        assert result.stderr.endswith(f"loading '{tmp_path / 'run'}'; take device 'cpu'\n")
    assert invoke('evaluate', tmp_path / 'run', '--json').stdout == invoke(
        'evaluate', tmp_path / 'run', '--json', '--batch-size', 1).stdout
    assert invoke('evaluate', tmp_path / 'run', '--batch-size', 0).exit_code == 2


#: Two epochs, after which there is no room for another's scores.
PROGRAM = r'''
import json, resource, sys
from pyg_mmkgc.evaluation import memory
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import run
from pyg_mmkgc.training.fit import Fit

memory.KEEPING.clear()  # So that what an epoch freed has to be asked for again.
write, epochs = Fit._train, []

def train(self, *args, **kwargs):
    on_epoch = self.on_epoch

    def limited(entry):
        on_epoch(entry)
        if entry['epoch'] == 2:
            size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, resource.RLIM_INFINITY))

    self.on_epoch = limited
    return write(self, *args, **kwargs)

Fit._train = train
try:
    run.train_run(FakeMMKG(8000, num_triples=200, modalities={}), 'complex', epochs=4,
                  device='cpu', out=sys.argv[1],
                  overrides={'hidden_channels': 8, 'eval_every': 1, 'batch_size': 6000})
except MemoryError as error:
    print(json.dumps([str(error), type(error.__cause__.__cause__).__name__,
                      str(error.__cause__.__cause__)]))
'''


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs Linux')
def test_memory_that_really_ends(tmp_path):
    out = subprocess.run([sys.executable, '-c', PROGRAM, str(tmp_path / 'run')], check=True,
                         capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    message, kind, cause = json.loads(out.stdout)
    assert message.startswith("out of memory while training 'complex'; lower 'train.batch_size' "
                              "(now 6000) or 'model.hidden_channels' (now 8)")
    assert (kind, "can't allocate memory" in cause) == ('RuntimeError', True)
    run = load_run(tmp_path / 'run', data=FakeMMKG(8000, num_triples=200, modalities={})[0],
                   device='cpu')
    assert len(run.history) == 2
    assert evaluate(run.model, run.data, 'val').mrr == pytest.approx(
        max(x['val_mrr'] for x in run.history))
