import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.cli import main
from pyg_mmkgc.data import EDGE
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Checkpoints, load_run, resume_run, train_run, trainer
from pyg_mmkgc.training.checkpoint import (
    DamagedCheckpoint,
    Generators,
    Parts,
    StopRequest,
    load_state,
    lock_folder,
    save_state,
    stop_signals,
)

PROGRAM = Path(__file__).with_name('killed_run.py')
ROOT = Path(__file__).parents[2]
CASES = ['complex', 'mocme', 'momok', 'sampled', 'sampled-adam', 'held-out']
#: A checkpoint after each step.
OPTIONS = {'train.batch_size': 64, 'train.eval_every': 1, 'model.hidden_channels': 8,
           'train.checkpoint_minutes': 1e-9}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(run_module, '_draw', lambda run: None)  # Takes longer than the training.


def train(out, **kwargs):
    return train_run(FakeMMKG(), 'complex', epochs=4, device='cpu', out=out, overrides=OPTIONS,
                     **kwargs)


def resume(path, **kwargs):
    return resume_run(path, data=FakeMMKG()[0], **kwargs)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, '_draw', lambda run: None)
        patch.setattr(run_module, 'plot_reliability', lambda *args: None)
        return train(tmp_path_factory.mktemp('runs') / 'whole')


def assert_same_result(path, whole):
    for name in ('model.safetensors', 'metrics.json'):
        assert (path / name).read_bytes() == (whole.path / name).read_bytes()
    histories = [[{k: v for k, v in entry.items() if k in ('epoch', 'loss', 'val_mrr')}
                  for entry in load_run(folder, data=whole.data).history]
                 for folder in (path, whole.path)]
    assert histories[0] == histories[1]
    assert not (path / 'checkpoints').exists()


def at_step(monkeypatch, number, action):
    r"""Do something behind a step of the training, inside the loop."""
    step, calls = trainer._Steps.__call__, []

    def wrapper(self, *args):
        out = step(self, *args)
        calls.append(self)
        if len(calls) == number:
            action()
        return out

    monkeypatch.setattr(trainer._Steps, '__call__', wrapper)


class Killed(BaseException):
    r"""What nothing in the package catches, like SIGKILL but in this process."""


def kill():
    raise Killed


def stop_at(monkeypatch, out, number):
    r"""A run folder as a kill behind a step leaves it."""
    with monkeypatch.context() as patch:
        at_step(patch, number, kill)
        patch.setattr(trainer._Best, 'restore', lambda self: None)
        with pytest.raises(Killed):
            train(out)
    return out


def checkpoints_in(out, name='model'):
    return sorted((out / 'checkpoints' / name).iterdir())


# Killed processes ###############################################################################


def kill_runs(folder, seed, cases):
    result = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(seed), *cases], capture_output=True,
        text=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
    assert result.returncode == 0, result.stderr
    return {case: Counter(where) for case, where in json.loads(result.stdout).items()}


def test_killed_at_random_points(tmp_path):
    killed = kill_runs(tmp_path, 1, CASES)
    assert list(killed) == CASES
    assert all(where.total() > 0 for where in killed.values())
    total = sum(killed.values(), Counter())
    assert total.total() >= 24
    assert total.keys() >= {'half a checkpoint', 'flush', 'rename', 'removal'}


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2, 6))
def test_killed_at_more_random_points(tmp_path, seed):
    assert sum(kill_runs(tmp_path, seed, CASES).values(), Counter()).total() >= 24


# Stopped runs ###################################################################################


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, whole, monkeypatch, caplog, number):
    monkeypatch.setitem(OPTIONS, 'train.checkpoint_minutes', None)  # A signal saves all the same.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    try:
        with monkeypatch.context() as patch:
            at_step(patch, 23, lambda: os.kill(os.getpid(), number))
            run = train(tmp_path / 'run')
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.interrupted
    assert len(run.history) == 2
    assert (f'the best weights so far are in {run.path}/model.safetensors; to go on: pyg-mmkgc '
            f'train --resume {run.path}') in caplog.text
    assert len(checkpoints_in(run.path)) == 1
    assert load_state(checkpoints_in(run.path)[0])['training']['progress']['num_steps'] == 3
    assert load_run(run.path, data=run.data).interrupted
    resumed = resume(run.path)
    assert not resumed.interrupted
    assert resumed.metrics == whole.metrics
    for name in ('model.safetensors', 'metrics.json'):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_signal_behind_the_training(tmp_path, monkeypatch):
    dataset = FakeMMKG()
    options = {**OPTIONS, 'model.num_experts': 1}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, 'evaluate', lambda *args, **kwargs: os.kill(os.getpid(),
                                                                             signal.SIGTERM))
        run = train_run(dataset, epochs=2, device='cpu', out=tmp_path / 'run', overrides=options)
    assert run.interrupted
    weights = (run.path / 'model.safetensors').read_bytes()
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))  # Of the baseline.
        assert resume_run(run.path, data=dataset[0]).interrupted
    resumed = resume_run(run.path, data=dataset[0])
    whole = train_run(dataset, epochs=2, device='cpu', out=tmp_path / 'whole', overrides=options)
    assert resumed.metrics == whole.metrics
    assert len(resumed.history) == 2
    assert (run.path / 'model.safetensors').read_bytes() == weights
    assert weights == (whole.path / 'model.safetensors').read_bytes()


def test_a_second_signal_does_not_wait():
    with stop_signals() as stop:
        with stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):  # Nor does any outside of a training.
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_handler_of_somebody_else_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
    try:
        with stop_signals() as stop, stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen) == 1


def test_the_best_weights_so_far_come_back(tmp_path, monkeypatch):
    def fall(*start):
        mrrs = iter(start)
        return lambda *args: type('Evaluation', (), {'mrr': next(mrrs)})

    monkeypatch.setattr(trainer, 'evaluate', fall(0.5, 0.4, 0.3, 0.2))
    whole = train(tmp_path / 'whole')
    monkeypatch.setattr(trainer, 'evaluate', fall(0.5, 0.4))
    path = stop_at(monkeypatch, tmp_path / 'run', 25)
    monkeypatch.setattr(trainer, 'evaluate', fall(0.3, 0.2))
    run = resume(path)
    assert run.config['result']['best_epoch'] == whole.config['result']['best_epoch'] == 1
    assert_same_result(path, whole)


def test_killed_before_the_first_checkpoint(tmp_path, whole, monkeypatch):
    monkeypatch.setitem(OPTIONS, 'train.checkpoint_minutes', 1e6)
    path = tmp_path / 'run'
    with monkeypatch.context() as patch:
        patch.setattr(run_module, '_has_checkpoint', lambda path: True)  # Keeps the folder.
        stop_at(patch, path, 25)
    assert not (path / 'checkpoints').exists()
    assert len((path / 'history.jsonl').read_text().splitlines()) == 2
    resume(path)
    assert_same_result(path, whole)


def test_an_error_keeps_what_can_go_on(tmp_path, whole, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(run_module, 'save_weights', full)
        with pytest.raises(OSError, match='No space left'):
            train(tmp_path / 'run')
    assert f'To go on from the last checkpoint: pyg-mmkgc train --resume {tmp_path}' in caplog.text
    resume(tmp_path / 'run')
    assert_same_result(tmp_path / 'run', whole)


# What is refused ################################################################################


def test_a_finished_run(whole, caplog):
    run = resume(whole.path)
    assert 'is finished: there is nothing to resume' in caplog.text
    assert (run.metrics, run.history) == (whole.metrics, whole.history)
    with pytest.raises(FileNotFoundError, match="There is no run folder '/nowhere'"):
        resume('/nowhere')


def test_other_options_are_refused(tmp_path, monkeypatch):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    config = yaml.safe_load((path / 'config.yaml').read_text())
    config['train']['lr'] = 0.2
    (path / 'config.yaml').write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"0012.safetensors' was written with other options: "
                                         r'train.lr is 0.2, was 0.1'):
        resume(path)
    config['baseline'] = {'model': {'name': 'gpt'}}
    (path / 'config.yaml').write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="config.yaml' is damaged or of another version"):
        resume(path)


@pytest.mark.parametrize('option, value', [('--epochs', '5'), ('--set', 'lr=1'), ('--out', 'x'),
                                           ('--model', 'mocme')])
def test_the_command_line_takes_no_other_options(tmp_path, option, value):
    result = CliRunner().invoke(main, ['train', '--resume', str(tmp_path), option, value])
    assert result.exit_code == 2
    assert f"'--resume' takes all options from the run, and so '{option}' cannot be" in (
        result.stderr)


def test_changed_data_is_refused(tmp_path, monkeypatch):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    data = FakeMMKG()[0].clone()
    data[EDGE].test_edge_label_type[0] += 1
    with pytest.raises(ValueError, match='The triples of the dataset are not those that'):
        resume_run(path, data=data)


def test_another_process_is_training(tmp_path, monkeypatch):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    with lock_folder(path), pytest.raises(ValueError, match=f"Another process is training in "
                                                            f"'{path}'"):
        resume(path)


# Damage #########################################################################################


def damage(path, how):
    content = path.read_bytes()
    if how == 'pickle':
        torch.save({'a': torch.ones(3)}, path)
    else:
        path.write_bytes({'empty': b'', 'half': content[:len(content) // 2],
                          'flipped': content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
                          'header': b'\0' * 99 + content[99:]}[how])


@pytest.mark.parametrize('how', ['empty', 'half', 'flipped', 'header', 'pickle'])
def test_a_damaged_checkpoint_gives_way(tmp_path, whole, monkeypatch, caplog, how):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    older, newer = checkpoints_in(path)
    assert [file.name for file in (older, newer)] == ['000011.safetensors', '000012.safetensors']
    damage(newer, how)
    with pytest.raises(DamagedCheckpoint, match='is damaged'):
        load_state(newer)
    resume(path)
    assert f"'{newer}' is damaged" in caplog.text
    assert f"; '{older}' takes its place" in caplog.text
    assert_same_result(path, whole)


def test_all_are_damaged(tmp_path, monkeypatch):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    for file in checkpoints_in(path):
        damage(file, 'half')
    with pytest.raises(ValueError, match=r"All checkpoints in '.*model' are damaged; without that "
                                         r'folder'):
        resume(path)
    assert len(checkpoints_in(path)) == 2


def test_another_format_is_refused(tmp_path, monkeypatch):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    newest = checkpoints_in(path)[-1]
    save_file(load_file(newest), newest, {'pyg_mmkgc': 'Checkpoint 2 00000000'})
    with pytest.raises(ValueError, match=r"0012.safetensors' was written by another version of "
                                         r"this package \(expected 'Checkpoint 1', got 'Ch.* 2'\)"):
        resume(path)


def test_another_machine_is_told(tmp_path, monkeypatch, caplog):
    path = stop_at(monkeypatch, tmp_path / 'run', 12)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 99)
    resume(path)
    assert 'was written with another number of threads: results may differ' in caplog.text


# Full disks #####################################################################################


@contextmanager
def limited_files(size):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_file_that_cannot_be_written(tmp_path, caplog):
    part = Parts({})
    part.state_dict = lambda: {'x': torch.arange(10**5)}
    checkpoints = Checkpoints(tmp_path / 'folder')
    checkpoints.attach('part', part)
    checkpoints.save()
    checkpoints.save()
    with limited_files(10**5):
        checkpoints.save()
    assert "No checkpoint was written ('" in caplog.text
    assert f"; training goes on, the last one is '{checkpoints.kept[-1]}'" in caplog.text
    assert [f.name for f in sorted((tmp_path / 'folder').iterdir())] == ['000001.safetensors',
                                                                        '000002.safetensors']
    assert checkpoints.latest()['part']['x'].equal(torch.arange(10**5))
    checkpoints.save()  # There is room again.
    assert [f.name for f in sorted((tmp_path / 'folder').iterdir())] == ['000002.safetensors',
                                                                        '000003.safetensors']


def test_no_checkpoint_can_be_written_at_all(tmp_path, whole, caplog, monkeypatch):
    monkeypatch.setattr(run_module, '_draw', lambda run: None)  # Pictures are larger.
    monkeypatch.setattr(run_module, 'plot_reliability', lambda *args: None)
    largest = max(file.stat().st_size for file in whole.path.iterdir())
    with limited_files(largest + 100):  # Room for the weights, but not for the optimiser's state.
        run = train(tmp_path / 'run')
    assert 'training goes on, without one' in caplog.text
    assert run.metrics == whole.metrics
    assert (run.path / 'model.safetensors').read_bytes() == (
        whole.path / 'model.safetensors').read_bytes()


def test_a_full_file_system(tmp_path, whole, caplog, monkeypatch):
    folder = tmp_path / 'small'
    folder.mkdir()
    mounted = shutil.which('mount') and subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)],
        capture_output=True).returncode == 0
    if not mounted:
        pytest.skip('no file system can be mounted here')
    try:
        def fill():
            with suppress(OSError), open(folder / 'rest', 'wb', buffering=0) as f:
                while True:
                    f.write(b'x' * 4096)

        with monkeypatch.context() as patch:
            at_step(patch, 12, fill)
            at_step(patch, 30, (folder / 'rest').unlink)
            at_step(patch, 32, kill)
            patch.setattr(trainer._Best, 'restore', lambda self: None)
            with pytest.raises(Killed):
                train(folder / 'run')
        assert 'No checkpoint was written' in caplog.text
        assert f"the last one is '{folder}/run/checkpoints/model/000012" in caplog.text
        resume(folder / 'run')
        assert_same_result(folder / 'run', whole)
    finally:
        subprocess.run(['umount', str(folder)], check=True)


# Times ##########################################################################################


def test_when_a_checkpoint_is_due(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr('pyg_mmkgc.training.checkpoint.time.monotonic', lambda: now[0])
    checkpoints = Checkpoints(tmp_path / 'folder', minutes=10)

    def saved(time, **kwargs):
        now[0], count = time, len(checkpoints.kept) and int(checkpoints.kept[-1].stem)
        checkpoints(**kwargs)
        return (len(checkpoints.kept) and int(checkpoints.kept[-1].stem)) > count

    assert not saved(599)
    assert saved(600)
    assert not saved(601)
    assert not saved(629, epoch_ended=True)
    assert saved(630, epoch_ended=True)  # Half a minute.
    checkpoints._seconds = 4  # It took long: not more than a twentieth of the time.
    assert not saved(709, epoch_ended=True)
    assert saved(710, epoch_ended=True)
    assert not saved(1309)
    assert saved(1310)
    never = Checkpoints(tmp_path / 'other', minutes=None)
    now[0] = 1e9
    never(epoch_ended=True)
    assert never.kept == []
    Checkpoints()()  # Keeps nothing.


def test_a_request_to_stop(tmp_path):
    stop = StopRequest()
    checkpoints = Checkpoints(tmp_path / 'folder', stop=stop)
    checkpoints()
    stop.requested = True
    with pytest.raises(KeyboardInterrupt):
        checkpoints()
    assert len(checkpoints.kept) == 1


# Files ##########################################################################################


def test_state_round_trip(tmp_path):
    table = torch.randn(4, 3)
    state = {'a': {0: {'step': torch.tensor(3), 'x': table}, 2: {}}, 'view': table[1:],
             'half': torch.randn(3).bfloat16(), 'empty': torch.empty(0, 2), 'same': table,
             'list': [1, 0.1, math.inf, None, True, 'ä', [torch.tensor(True)]], 'pair': (0.9, 1)}
    save_state(state, tmp_path / 'x.safetensors')
    found = load_state(tmp_path / 'x.safetensors')
    assert list(found) == list(state)
    assert list(found['a']) == [0, 2]
    assert found['a'][2] == {}
    for a, b in [(found['a'][0]['x'], table), (found['view'], table[1:]),
                 (found['half'], state['half']), (found['empty'], state['empty']),
                 (found['same'], table), (found['a'][0]['step'], torch.tensor(3))]:
        assert a.equal(b)
        assert a.dtype == b.dtype
        assert a.data_ptr() % 64 == 0
    assert found['list'][:6] == state['list'][:6]
    assert found['list'][6][0].equal(torch.tensor(True))
    assert found['pair'] == [0.9, 1]


def test_parts_have_to_fit():
    with pytest.raises(ValueError, match=r"The checkpoint holds \['b'\] \(expected \['a'\]\)"):
        Parts({'a': Generators(torch.device('cpu'))}).load_state_dict({'b': {}})


def test_generators(tmp_path):
    def draw():
        numbers = np.random.normal(size=3).tolist()  # noqa: NPY002
        return torch.rand(2).tolist(), numbers, random.gauss(0, 1)

    generators = Generators(torch.device('cpu'))
    draw()
    save_state(generators.state_dict(), tmp_path / 'x.safetensors')
    expected = draw()
    assert draw() != expected
    generators.load_state_dict(load_state(tmp_path / 'x.safetensors'))
    assert draw() == expected


# Divergence #####################################################################################


def diverge(monkeypatch, epoch, change):
    r"""Spoil the model from an epoch on."""
    train_epoch = trainer.Trainer._epoch

    def spoiled(self, model, batches, steps, progress):
        if progress.epoch == epoch:
            change(model)
        return train_epoch(self, model, batches, steps, progress)

    monkeypatch.setattr(trainer.Trainer, '_epoch', spoiled)


def test_the_weights_of_a_checkpoint_are_better_than_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(OPTIONS, 'train.eval_every', 50)
    with monkeypatch.context() as patch:
        diverge(patch, 3, lambda model: model.structure.weight.data.fill_(math.nan))
        message = (r'the loss is not finite: softmax, regularization \(epoch 3, step 1\); .*; the '
                   r"best weights before that are in '.*model.safetensors'")
        with pytest.raises(FloatingPointError, match=message):
            train(tmp_path / 'run')
    assert 'go on' not in caplog.text
    run = load_run(tmp_path / 'run', data=FakeMMKG()[0])
    assert run.model.structure.weight.isfinite().all()
    assert len(run.history) == 2
    state = load_state(checkpoints_in(run.path)[-1])['training']
    assert state['model']['structure.weight'].equal(run.model.structure.weight)
    assert state['progress']['num_steps'] == 0
    assert len(state['progress']['history']) == 2


def test_exploding_loss(tmp_path, monkeypatch):
    diverge(monkeypatch, 3, lambda model: model.structure.weight.data.mul_(1e5))
    with pytest.raises(FloatingPointError, match=r'the loss explodes: softmax is [\d.e+]+, '
                                                 r'regularization is [\d.e+]+ \(epoch 3, step 1\)'):
        train(tmp_path / 'run')


def test_weights_that_are_not_finite(tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIONS, 'train.checkpoint_minutes', 1e6)

    def spoil(self):
        self.model.structure.weight.data[3] = math.inf
        return check(self)

    check = trainer._Progress.check_weights
    monkeypatch.setattr(trainer._Progress, 'check_weights', spoil)
    with pytest.raises(FloatingPointError, match=r'the weights are not finite: structure.weight '
                                                 r'\(epoch 1, step 10\)'):
        train(tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
