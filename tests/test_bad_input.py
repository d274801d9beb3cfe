r"""What a user can get wrong: through Python the right exception, through the command line one
line and exit code 2; nothing half-written, nothing lost."""
import builtins
import errno
import os
import re
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from pyg_mmkgc.cli import main
from pyg_mmkgc.training import Trainer, load_run, train_run

NAMES = ['Amsterdam', 'Berlin', 'Copenhagen', 'Dublin']
OPENKE = {
    'entity2id.txt': ['4', *(f'{name}\t{i}' for i, name in enumerate(NAMES))],
    'relation2id.txt': ['2', 'near\t0', 'far from\t1'],
    # Columns head, tail, relation.
    'train2id.txt': ['5', '0 1 0', '1 2 0', '2 3 1', '3 0 1', '0 2 1'],
    'valid2id.txt': ['1', '1 3 0'],
    'test2id.txt': ['2', '0 3 0', '2 0 1'],
}
SMALL = {'hidden_channels': '8', 'num_experts': '2', 'epochs': '2'}


def write(folder, **changes):
    r"""A small graph in OpenKE's layout; a change of `train2id` replaces lines by number."""
    folder.mkdir(exist_ok=True)
    for name, lines in OPENKE.items():
        lines = dict(enumerate(lines, 1))
        lines.update(changes.get(name.split('.')[0], {}))
        (folder / name).write_text(''.join(f'{line}\n' for line in lines.values()
                                           if line is not None))
    return folder


def save_text(folder, x):
    np.save(folder / 'text.npy', np.asarray(x, dtype=np.float32))


@pytest.fixture
def folder(tmp_path):
    folder = write(tmp_path / 'graph')
    save_text(folder, [[1, 0], [0, 1], [1, 1], [2, 0]])
    return folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp('earlier')
    folder = write(path / 'graph')
    save_text(folder, [[1, 0], [0, 1], [1, 1], [2, 0]])
    return train_run(folder, overrides=as_overrides({}), out=path / 'run', device='cpu')


def as_overrides(options):
    return [f'{key}={value}' for key, value in {**SMALL, **options}.items()]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def check_one_line(result, message):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert re.search(f'^Error: .*{message}', lines[-1]), lines
    assert 'Traceback' not in result.output
    assert result.stdout == ''
    # Before it only notes of what was being done:
    assert not any(line.startswith('Error') for line in lines[:-1])


def check_train(tmp_path, error, message, dataset, options=None, model='mocme', **kwargs):
    r"""The same mistake through both doors, after which nothing is left behind."""
    out = tmp_path / 'out'
    before = snapshot(tmp_path)
    with pytest.raises(error, match=message):
        train_run(dataset, model, out=out, overrides=as_overrides(options or {}), **kwargs)
    sets = [part for item in as_overrides(options or {}) for part in ('--set', item)]
    more = [part for key, value in kwargs.items() for part in (f'--{key}', value)]
    result = invoke('train', '--dataset', dataset, '--model', model, '--out', out, *sets, *more)
    check_one_line(result, message)
    assert snapshot(tmp_path) == before


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None
            for path in folder.rglob('*')}


# Names


def test_unknown_dataset(tmp_path):
    check_train(tmp_path, ValueError, r"Unknown dataset 'atlsa' \(expected one of .*'atlas'.*did "
                                      r"you mean 'atlas'", 'atlsa')
    check_train(tmp_path, FileNotFoundError, r"There is no folder '.*nowhere'",
                tmp_path / 'nowhere')


def test_unknown_model(tmp_path, folder):
    check_train(tmp_path, ValueError, "Unknown model 'mokme' .*did you mean 'mocme'", folder,
                model='mokme')


def test_unknown_modality(tmp_path, folder):
    check_train(tmp_path, ValueError, r"Unknown modality 'smell' \(expected some of \['text'\]",
                folder, {'model.modalities': '[text, smell]'})


def test_unknown_device(tmp_path, folder):
    check_train(tmp_path, ValueError, "Unknown 'device' 'gpu'", folder, device='gpu')
    if not torch.cuda.is_available():
        check_train(tmp_path, ValueError, "'device' 'cuda' is unknown or not there", folder,
                    device='cuda')


@pytest.mark.parametrize('options,message', [
    ({'lerning_rate': '0.1'}, "Unknown option 'lerning_rate'"),
    ({'train.ephocs': '3'}, "Unknown option 'train.ephocs'; did you mean 'train.epochs'"),
    ({'lr': 'fast'}, r"'train.lr' needs a number \(got 'fast'\)"),
    ({'train.batch_size': '1.5'}, r"'train.batch_size' needs an integer \(got 1.5\)"),
    ({'train.select': 'vla'}, "'select' names the unknown split 'vla'"),
    ({'lr': '-1'}, r"'lr' needs to be positive \(got -1"),
    ({'hidden_channels': '[8'}, "the value of 'hidden_channels' is malformed YAML"),
    ({'sampler': 'best'}, "Unknown sampler 'best'"),
    ({'precision': '33'}, "'train.precision' needs a string"),
])
def test_wrong_option(tmp_path, folder, options, message):
    check_train(tmp_path, ValueError, message, folder, options)


def test_unknown_entity_relation_and_split(run):
    for arguments, message in [
        ({'head': 'Amsterdem', 'relation': 'near'},
         r"Unknown entity 'Amsterdem' \(expected the label of one of 4; did you mean 'Amsterdam'"),
        ({'tail': 'Berlin', 'relation': 'farfrom'},
         r"Unknown relation 'farfrom' \(.*did you mean 'far from'"),
    ]:
        with pytest.raises(ValueError, match=message):
            run.predict(**arguments)
        options = [part for key, value in arguments.items() for part in (f'--{key}', value)]
        check_one_line(invoke('predict', run.path, *options), message)
    message = r"Unknown split 'tset' \(expected one of \['train', 'val', 'test'\]"
    with pytest.raises(ValueError, match=message):
        run.evaluate('tset')
    check_one_line(invoke('evaluate', run.path, '--split', 'tset'), message)


# Files of triples


@pytest.mark.parametrize('name', OPENKE)
def test_missing_file(tmp_path, folder, name):
    (folder / name).unlink()
    # Without its entities this could as well be the layout of labels.
    message = 'train.tsv' if name == 'entity2id.txt' else name
    check_train(tmp_path, FileNotFoundError, rf"There is no file '.*graph/{message}'", folder)


@pytest.mark.parametrize('name', ['entity2id', 'relation2id', 'train2id', 'test2id'])
def test_wrong_count_in_the_header(tmp_path, name):
    number = int(OPENKE[f'{name}.txt'][0])
    for announced, hint in [(number + 1, 'truncated'), (number - 1, 'count wrong')]:
        folder = write(tmp_path / 'graph', **{name: {1: str(announced)}})
        check_train(tmp_path, ValueError,
                    rf'{name}.txt:1: .* announces {announced} .*{number} follow .*{hint}',
                    folder)


def test_truncated_file(tmp_path):
    folder = write(tmp_path / 'graph', train2id={5: None, 6: None})
    check_train(tmp_path, ValueError, r'train2id.txt:1: .*announces 5 .* 3 follow \(is the file '
                                      r'truncated', folder)
    content = (folder / 'entity2id.txt').read_bytes()
    (folder / 'entity2id.txt').write_bytes(content[:-3])  # Within the last line.
    check_train(tmp_path, ValueError, r"entity2id.txt:5: expected a name and an id \(got 'Dublin'",
                folder)
    (folder / 'entity2id.txt').write_bytes(b'')
    check_train(tmp_path, ValueError, 'entity2id.txt:1: .*the file is empty', folder)


@pytest.mark.parametrize('line,message', [
    ('0 4 0', r'tail id 4 is out of range \(expected 0 to 3'),
    ('7 1 0', r'head id 7 is out of range \(expected 0 to 3'),
    ('0 1 2', r'relation id 2 is out of range \(expected 0 to 1'),
    ('-1 1 0', r"expected non-negative integers \(got '-1'"),
    ('0 1', r'expected 3 columns \(got 2\)'),
    ('0 1 0 1', r'expected 3 columns \(got 4\)'),
    ('0 one 0', r"expected non-negative integers \(got 'one'"),
])
def test_wrong_line_is_named(tmp_path, line, message):
    folder = write(tmp_path / 'graph', test2id={3: line})
    check_train(tmp_path, ValueError, f'graph/test2id.txt:3: {message}', folder)


@pytest.mark.parametrize('name,split', [('train2id', 'train'), ('valid2id', 'val'),
                                        ('test2id', 'test')])
def test_empty_split(tmp_path, name, split):
    lines = {i: None for i in range(2, len(OPENKE[f'{name}.txt']) + 1)}
    folder = write(tmp_path / 'graph', **{name: {1: '0', **lines}})
    check_train(tmp_path, ValueError, f"{name}.txt: split '{split}' is empty", folder)


def test_label_triple_with_too_few_columns(tmp_path):
    folder = tmp_path / 'labels'
    folder.mkdir()
    for split in ('train', 'val', 'test'):
        (folder / f'{split}.tsv').write_text('A\tr\tB\nB\tr\tC\n')
    (folder / 'val.tsv').write_text('A\tr\tB\nB\tr\n')
    check_train(tmp_path, ValueError, 'val.tsv:2: expected head, relation and tail, separated by '
                                      'tabs', folder)


def test_mirror_without_the_files(tmp_path):
    (tmp_path / 'mirror' / 'DB15K').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match='entity2id.txt'):
        train_run('db15k', root=tmp_path / 'root', mirror=tmp_path / 'mirror',
                  out=tmp_path / 'out')
    result = invoke('train', '--dataset', 'DB-15K', '--root', tmp_path / 'root', '--mirror',
                    tmp_path / 'mirror', '--out', tmp_path / 'out')
    check_one_line(result, 'entity2id.txt')
    assert not (tmp_path / 'out').exists()


# Features


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_features_that_are_not_finite(tmp_path, folder, value):
    save_text(folder, [[1, 0], [0, 1], [1, float(value)], [2, 0]])
    check_train(tmp_path, ValueError, r"text.npy: modality 'text' has NaN or infinite values in 1 "
                                      r"rows \(first: row 2, entity 'Copenhagen'", folder)


@pytest.mark.parametrize('rows', [3, 5])
def test_feature_rows_that_do_not_match(tmp_path, folder, rows):
    save_text(folder, np.ones((rows, 2)))
    check_train(tmp_path, ValueError, r"text.npy: modality 'text' needs one row for each of 4 "
                                      rf'entities \(got shape \[{rows}, 2\]', folder)


def test_damaged_features(tmp_path, folder):
    content = (folder / 'text.npy').read_bytes()
    (folder / 'text.npy').write_bytes(content[:-4])
    check_train(tmp_path, ValueError, r'text.npy: damaged or no array of numbers', folder)
    (folder / 'text.npy').unlink()
    save_file({'text': torch.ones(4, 2)}, folder / 'features.safetensors')
    content = (folder / 'features.safetensors').read_bytes()
    (folder / 'features.safetensors').write_bytes(content[:-4])
    check_train(tmp_path, ValueError, r'features.safetensors: damaged or no safetensors', folder)


# Run folders


def test_existing_run_folder(tmp_path, folder):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'metrics.json').write_text('precious')
    check_train(tmp_path, FileExistsError, r"The run folder '.*out' exists; a run is never "
                                           'overwritten', folder)
    shutil.rmtree(out)
    out.write_text('a file')
    check_train(tmp_path, FileExistsError, "'.*out' exists", folder)


def check_load(path, error, message):
    with pytest.raises(error, match=message):
        load_run(path)
    for command in [('evaluate', path), ('predict', path, '--head', 'Berlin', '--relation',
                                         'near')]:
        check_one_line(invoke(*command), message)


def test_damaged_run(tmp_path, run):
    check_load(tmp_path / 'nowhere', FileNotFoundError, "There is no run folder '.*nowhere'")
    (tmp_path / 'empty').mkdir()
    check_load(tmp_path / 'empty', FileNotFoundError, r"config.yaml', so this is no run folder")
    path = shutil.copytree(run.path, tmp_path / 'run')
    weights = path / 'model.safetensors'
    content = weights.read_bytes()
    weights.write_bytes(content[:len(content) // 2])
    check_load(path, ValueError, r"run/model.safetensors' is damaged or no safetensors file")
    save_file({'weight': torch.ones(2)}, weights)
    check_load(path, ValueError, r"run/model.safetensors' holds no weights of this package")
    weights.unlink()
    check_load(path, FileNotFoundError, r"run/model.safetensors': the run has no weights")
    (path / 'config.yaml').write_text('model: [')
    check_load(path, ValueError, r"run/config.yaml' is damaged")


def test_data_that_changed_after_training(tmp_path, folder):
    run = train_run(folder, overrides=as_overrides({}), out=tmp_path / 'run', device='cpu')
    save_text(folder, np.ones((4, 2)))
    check_load(run.path, ValueError, 'The features of the dataset are not those that the model')
    write(folder, test2id={2: '0 3 1'})
    check_load(run.path, ValueError, 'The triples and features of the dataset are not those')
    shutil.rmtree(folder)
    check_load(run.path, FileNotFoundError, "There is no folder '.*graph'")


# No space, no permission


@contextmanager
def file_size_limit(size):
    r"""No file grows beyond `size` bytes, not even for root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('name', [None, 'config.yaml', 'model.safetensors'])
def test_files_that_cannot_be_written(tmp_path, folder, name):
    train_run(folder, overrides=as_overrides({}), out=tmp_path / 'earlier', device='cpu')
    sizes = {path.name: path.stat().st_size for path in (tmp_path / 'earlier').iterdir()}
    assert 1000 < sizes['config.yaml'] < sizes['model.safetensors']
    with file_size_limit(0 if name is None else sizes[name] - 500):
        check_train(tmp_path, OSError, 'File too large', folder)


def test_full_disk_is_noticed_before_training(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: _Usage(1000))

    def untouched(*args):
        raise AssertionError('trained')

    monkeypatch.setattr(Trainer, 'fit', untouched)
    check_train(tmp_path, OSError, r'No space left for a run \(needed: 1 MiB, free: 0 MiB\)',
                folder)


class _Usage:
    def __init__(self, free):
        self.free = free


@pytest.mark.parametrize('name', ['config.yaml', 'model.safetensors', 'curves.png',
                                  'metrics.json'])
def test_disk_that_fills_up(tmp_path, folder, monkeypatch, name):
    r"""Whichever file it hits, nothing is half-written, and weights that were written stay."""
    replace, out = os.replace, tmp_path / 'out'

    def failing(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(source, target)

    monkeypatch.setattr(os, 'replace', failing)
    with pytest.raises(OSError, match='No space left on device'):
        train_run(folder, overrides=as_overrides({}), out=out)
    left = {path.name for path in out.iterdir()} if out.exists() else set()
    if name in ('config.yaml', 'model.safetensors'):
        assert not out.exists()
    else:
        assert {'config.yaml', 'history.jsonl', 'model.safetensors'} <= left
        assert name not in left
        assert not any(file.startswith('.') for file in left)
        assert load_run(out).interrupted
        shutil.rmtree(out)
    sets = [part for item in as_overrides({}) for part in ('--set', item)]
    result = invoke('train', '--dataset', folder, '--out', out, *sets)
    check_one_line(result, rf"No space left on device: '.*out/{name}'")


def test_history_on_a_full_device(tmp_path, folder, monkeypatch, caplog):
    open_, times = builtins.open, []

    def full(file, *args, **kwargs):
        full_now = str(file).endswith('history.jsonl') and len(times) < 1
        times.extend([file] if full_now else [])
        return open_('/dev/full' if full_now else file, *args, **kwargs)

    monkeypatch.setattr(builtins, 'open', full)
    run = train_run(folder, overrides=as_overrides({}), out=tmp_path / 'out')
    assert len(times) == 1
    assert re.search("The history in '.*' is not complete .*No space left on device.*training goes "
                     'on', caplog.text)
    assert load_run(run.path, device='cpu').history == run.history
    assert len(run.history) > 0


def test_no_permission(tmp_path, folder, monkeypatch):
    # The tests may run as root, who is refused nothing.
    mkdir = Path.mkdir

    def refused(self, *args, **kwargs):
        if self.name == 'out':
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', refused)
    check_train(tmp_path, PermissionError, r"Permission denied: '.*out'", folder)


def test_folder_below_a_file(tmp_path, folder):
    (tmp_path / 'file').write_text('')
    out = tmp_path / 'file' / 'run'
    with pytest.raises(OSError, match='exists|Not a directory'):
        train_run(folder, overrides=as_overrides({}), out=out)
    check_one_line(invoke('train', '--dataset', folder, '--out', out), 'exists|Not a directory')
    assert (tmp_path / 'file').read_text() == ''


# Ctrl-C; with a real signal in a process of its own: `test_cli.py`


def test_ctrl_c(tmp_path, folder, monkeypatch):
    epoch = Trainer._epoch
    calls = []

    def interrupted(self, *args):
        calls.append(self)
        if len(calls) % 4 == 0:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, '_epoch', interrupted)
    options = as_overrides({'epochs': 9, 'eval_every': 1})
    run = train_run(folder, overrides=options, out=tmp_path / 'python')
    assert run.interrupted
    sets = [part for item in options for part in ('--set', item)]
    result = invoke('train', '--dataset', folder, '--out', tmp_path / 'shell', *sets)
    assert result.exit_code == 130
    assert f'so far are in {tmp_path / "shell" / "model.safetensors"}' in result.stderr
    for path in (tmp_path / 'python', tmp_path / 'shell'):
        loaded = load_run(path, device='cpu')
        assert loaded.evaluate('val')['both']['mrr'] == max(
            entry['val_mrr'] for entry in loaded.history)
        assert len(loaded.history) == 3


def test_ctrl_c_before_the_first_epoch(tmp_path, folder, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('pyg_mmkgc.training.run.get_dataset', interrupted)
    before = snapshot(tmp_path)
    result = invoke('train', '--dataset', folder, '--out', tmp_path / 'out')
    assert result.exit_code == 130
    assert result.stderr.strip() == 'Interrupted'
    assert snapshot(tmp_path) == before


# What is not the user's mistake


def test_a_bug_shows_its_traceback(tmp_path, folder, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('a bug')

    monkeypatch.setattr('pyg_mmkgc.training.run.fingerprint', broken)
    result = invoke('train', '--dataset', folder, '--out', tmp_path / 'out')
    assert isinstance(result.exception, RuntimeError)
    assert 'Error:' not in result.stderr
