import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from pyg_mmkgc import __version__
from pyg_mmkgc.cli import evaluate, main, predict, train
from pyg_mmkgc.training import load_run, trainer

TRIPLES = {
    'train': ['France\tborders\tSpain', 'Spain\tborders\tPortugal', 'Italy\tborders\tFrance',
              'France\tuses\tEuro', 'Spain\tuses\tEuro', 'Italy\tuses\tEuro', 'Fiji\tuses\tDollar'],
    'val': ['Portugal\tuses\tEuro', 'Spain\tborders\tFrance'],
    'test': ['France\tborders\tItaly', 'Portugal\tborders\tSpain', 'Fiji\tuses\tEuro'],
    'inductive_test': ['Malta\tuses\tEuro'],
}
ENTITIES = ['France', 'Spain', 'Portugal', 'Italy', 'Malta', 'Fiji', 'Euro', 'Dollar']
SMALL = ['--set', 'hidden_channels=8', '--set', 'model.num_experts=2', '--epochs', '2']
#: Runs the command line in a process of its own, with Ctrl-C as in a terminal: a shell that runs
#: the tests in the background has switched it off.
PROGRAM = [sys.executable, '-c', 'import signal; '
           'signal.signal(signal.SIGINT, signal.default_int_handler); '
           'from pyg_mmkgc.cli import main; main()']


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'tiny'
    path.mkdir()
    for split, lines in TRIPLES.items():
        (path / f'{split}.tsv').write_text('\n'.join(lines) + '\n')
    (path / 'entities.txt').write_text('\n'.join(ENTITIES) + '\n')
    generator = np.random.default_rng(0)
    np.save(path / 'text.npy', generator.normal(size=(len(ENTITIES), 5)).astype(np.float32))
    np.save(path / 'image.npy', generator.normal(size=(len(ENTITIES), 3)).astype(np.float32))
    np.save(path / 'image_mask.npy', np.array([name != 'Fiji' for name in ENTITIES]))
    return path


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'run'
    result = invoke('train', '--dataset', folder, '--out', out, '--seed', 1, *SMALL)
    assert result.exit_code == 0, result.output
    return out, result


def test_train_prints_what_counts(trained):
    out, result = trained
    lines = result.stdout.splitlines()
    titles = [line.strip() for line in lines if line.startswith('tiny, ')]
    assert titles == ['tiny, test', 'tiny, inductive_test']
    assert sum(line.startswith('Protocol: filtered by train, val, test, inductive_test; realistic '
                               'ties; head and tail') for line in lines) == 2
    metrics = json.loads((out / 'metrics.json').read_text())
    for name, values in [('mocme', metrics), (r'complex \(structure only\)', metrics['baseline'])]:
        row = (rf'^│ {name} +│ both +│ +{values["both"]["mrr"]:.3f} │ +'
               rf'{values["both"]["hits@1"]:.3f} │.*│ +{values["both"]["mr"]:.1f} │ +6 │$')
        assert re.search(row, result.stdout, re.MULTILINE), row
    # The first test triple of each relation, with its three best answers:
    assert 'France --borders--> ?' in result.stdout
    assert 'Fiji --uses--> ?' in result.stdout
    position = next(i for i, line in enumerate(lines) if 'France --borders--> ?' in line)
    answers = lines[position + 1].split(',')
    assert len(answers) == 3
    for answer in answers:
        name, mark = re.fullmatch(r' +(\w+)( \*)? \([01]\.\d\d\)', answer).groups()
        assert name in ENTITIES
        assert name != 'Spain'  # Training says so.
        assert (mark is not None) == (name == 'Italy')
    if 'Italy' not in lines[position + 1]:
        position += 1
        assert lines[position + 1] == '      also true: Italy'
    assert re.fullmatch(r' +seen by (structure|text|image) [01]\.\d\d, .*', lines[position + 2])
    assert f'Run folder: {out}' in lines
    assert '\x1b' not in result.stdout
    assert max(map(len, lines[:-4])) <= 100


def test_train_keeps_progress_off_the_output(trained):
    out, result = trained
    assert f'Training mocme on tiny, run folder {out}' in result.stderr
    assert 'Training the structure-only baseline complex' in result.stderr
    assert re.search(r'2/2 .*loss=', result.stderr)
    assert 'loss=' not in result.stdout
    assert 'epoch/s' not in result.stdout


def test_train_leaves_a_run_folder(trained):
    out, _ = trained
    assert {path.name for path in out.iterdir()} == {
        'config.yaml', 'history.jsonl', 'model.safetensors', 'curves.png', 'modality_weights.png',
        'metrics.json', 'metrics-inductive_test.json', 'calibration.json', 'reliability.png'}
    metrics = json.loads((out / 'metrics.json').read_text())
    assert (metrics['dataset'], metrics['model'], metrics['seed']) == ('tiny', 'mocme', 1)


def test_train_without_arguments_is_mocme_on_atlas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = train.make_context('train', []).params
    assert (given.pop('dataset'), given.pop('model'), given.pop('overrides')) == ('atlas', 'mocme',
                                                                                 ())
    assert set(given.values()) == {None}
    # With less work than by default:
    result = invoke('train', '--epochs', 1, '--set', 'hidden_channels=8', '--set',
                    'num_experts=1', '--set', 'batch_size=4000', '--set', 'model.modalities=[text]')
    assert result.exit_code == 0, result.output
    out, = (tmp_path / 'runs').iterdir()
    assert re.fullmatch(r'mocme-atlas-\d+-\d{8}-\d{6}', out.name)
    assert 'atlas, test' in result.stdout
    assert 'atlas, inductive_test' in result.stdout
    assert 'complex (structure only)' in result.stdout
    assert result.stdout.count('-->') == 5


def test_train_complex_has_no_second_row(folder, tmp_path):
    result = invoke('train', '--dataset', folder, '--model', 'complex', '--epochs', 1, '--out',
                    tmp_path / 'run')
    assert result.exit_code == 0
    assert 'structure only' not in result.stdout
    assert 'seen by' not in result.stdout
    result = invoke('predict', tmp_path / 'run', '--head', 'France', '--relation', 'uses')
    assert 'modality weights' not in result.stdout


@pytest.mark.parametrize('split', ['val', 'test', 'inductive_test'])
def test_evaluate_json_has_the_shape_of_the_metrics(trained, split):
    out, _ = trained
    result = invoke('evaluate', out, '--split', split, '--json')
    assert result.exit_code == 0
    metrics = json.loads(result.stdout)
    expected = json.loads((out / 'metrics.json').read_text())
    assert set(metrics) == set(expected) - {'baseline'}
    assert metrics['split'] == split
    if split == 'test':
        assert metrics == {key: expected[key] for key in metrics}


def test_evaluate_prints_a_table(trained):
    out, _ = trained
    result = invoke('evaluate', out)
    metrics = json.loads((out / 'metrics.json').read_text())
    assert 'tiny, test' in result.stdout
    for side in ('both', 'head', 'tail'):
        assert f'{metrics[side]["mrr"]:.3f}' in result.stdout
    assert 'structure only' not in result.stdout


@pytest.mark.parametrize('side', ['head', 'tail'])
def test_predict_json(trained, side):
    out, _ = trained
    result = invoke('predict', out, f'--{side}', 'spain', '--relation', 'Borders', '--top', 4,
                    '--json')
    assert result.exit_code == 0
    answers = json.loads(result.stdout)
    assert answers == load_run(out, device='cpu').predict(relation='borders', top=4,
                                                          **{side: 'Spain'})
    assert len(answers) == 4
    assert set(answers[0]) == {'entity', 'score', 'probability', 'known', 'modality_weights'}


def test_predict_prints_a_table(trained):
    out, _ = trained
    result = invoke('predict', out, '--tail', 'Euro', '--relation', 'uses', '--top', 8)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].strip() == '? --uses--> Euro'
    rows = [[cell.strip() for cell in line.strip('│').split('│')] for line in lines
            if re.match(r'│ +\d', line)]
    answers = load_run(out, device='cpu').predict(tail='Euro', relation='uses', top=8)
    assert [row[1:4] for row in rows] == [
        [answer['entity'], f'{answer["probability"]:.4f}', answer['known']] for answer in answers]
    known = {row[1]: row[3] for row in rows}
    assert known == {'France': 'train', 'Spain': 'train', 'Italy': 'train', 'Portugal': 'val',
                     'Fiji': 'test', 'Malta': 'inductive_test', 'Euro': 'new', 'Dollar': 'new'}
    assert any(line.startswith('Euro was seen by ') for line in lines)
    fiji = next(row for row in rows if row[1] == 'Fiji')
    assert 'image' not in fiji[4]  # It has none.
    assert 'text' in fiji[4]


@pytest.mark.parametrize('sides', [[], ['--head', 'Spain', '--tail', 'France']])
def test_predict_needs_one_side(trained, sides):
    result = invoke('predict', trained[0], '--relation', 'borders', *sides)
    assert result.exit_code == 2
    assert 'expected exactly one of --head, --tail and --new' in result.stderr


# Help


def test_version():
    result = invoke('--version')
    assert result.exit_code == 0
    assert __version__ in result.stdout


@pytest.mark.parametrize('name,defaults', [
    ('train', ['atlas', 'mocme', '$PYG_MMKGC_ROOT', 'as the recipe says', 'runs/<model>-']),
    ('evaluate', ['test', 'as in training', 'auto']),
    ('predict', ['10', 'as in training', 'auto']),
])
def test_help_shows_defaults_and_an_example(name, defaults):
    result = invoke(name, '--help')
    assert result.exit_code == 0
    for default in defaults:
        assert re.search(rf'\[default:\s+\(?{re.escape(default)}', result.stdout), default
    command = {'train': train, 'evaluate': evaluate, 'predict': predict}[name]
    example = result.stdout.split('Example:')[1].strip()
    program, called, *arguments = shlex.split(example)
    assert (program, called) == ('pyg-mmkgc', name)
    command.make_context(name, arguments)  # Parses, so its options are there.


@pytest.mark.parametrize('name', sorted(main.commands))
def test_help_of_every_command(name):
    text = invoke(name, '--help').stdout
    example = re.split('Examples?:', text)[1].strip().splitlines()[0]
    called, *arguments = shlex.split(example.split('>')[0])[1:]
    assert called == name
    command = main.commands[name]
    command.make_context(name, arguments)  # Parses, so its options are there.
    parts = re.split(r'^  (?=-)', text, flags=re.MULTILINE)
    for option in command.params:
        # (A number without a default is none that an example could leave out unsaid.)
        if option.param_type_name == 'option' and isinstance(option.default, (str, int, float)) \
                and not option.is_flag:
            part, = (part for part in parts if part.startswith(f'{option.opts[0]} '))
            assert '[default:' in part, option.name


@pytest.mark.parametrize('shell, says', [('bash', 'complete -o nosort -F'), ('zsh', '#compdef'),
                                         ('fish', 'complete --no-files')])
def test_shell_completion(shell, says):
    # click's own, which documentation names; the variable follows from the name of the program.
    def run(**variables):
        return subprocess.run(
            [sys.executable, '-c', "from pyg_mmkgc.cli import main; main(prog_name='pyg-mmkgc')"],
            env={**os.environ, **variables}, text=True, capture_output=True, check=False)

    script = run(_PYG_MMKGC_COMPLETE=f'{shell}_source')
    assert says in script.stdout, script.stderr
    if shell == 'fish':
        found = run(_PYG_MMKGC_COMPLETE='fish_complete', COMP_WORDS='pyg-mmkgc ev',
                    COMP_CWORD='ev')
        assert found.stdout.startswith('plain,evaluate')


def test_help_names_all_commands():
    assert set(main.commands) == {'audit', 'compare', 'doctor', 'evaluate', 'explain', 'export',
                                  'init', 'neighbours', 'predict', 'report', 'results', 'serve',
                                  'study', 'suspects', 'train', 'tune'}
    result = invoke('--help')
    assert all(name in result.stdout for name in main.commands)


HEAVY = ['torch', 'torch_geometric', 'sklearn', 'ogb', 'matplotlib', 'lightning_fabric',
         'lightning', 'scipy', 'pandas', 'rich', 'PIL']


@pytest.mark.parametrize('module, first', [
    ('pyg_mmkgc', 'sys'),
    ('pyg_mmkgc.cli', 'sys'),
    # What these bring themselves (PyG transformers, if it is installed) is not ours.
    ('pyg_mmkgc.training', 'torch_geometric, lightning_fabric'),
])
def test_imports_stay_light(module, first):
    code = (f'import sys, {first}; before = set(sys.modules); import {module}; '
            f'print([name for name in {HEAVY!r} if name in set(sys.modules) - before])')
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                            check=True)
    assert result.stdout == '[]\n'


# Ctrl-C in a process of its own


def interrupt(folder, out, close, number):
    r"""Start a long training, send a signal after some epochs, and wait for the end."""
    process = subprocess.Popen(
        [*PROGRAM, 'train', '--dataset', str(folder), '--out', str(out), '--epochs', '1000000',
         '--set', 'hidden_channels=8', '--set', 'eval_every=2', '--set', 'patience=null'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'})
    history = out / 'history.jsonl'
    deadline = time.monotonic() + 60
    while not (history.exists() and 'val_mrr' in history.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if close:
        process.stderr.close()
    process.send_signal(number)
    process.wait(timeout=60)
    stderr = '' if close else process.stderr.read()
    stdout = process.stdout.read()
    process.stdout.close()
    if not close:
        process.stderr.close()
    return process.returncode, stdout, stderr


@pytest.mark.parametrize('close, number', [
    (False, signal.SIGINT), (True, signal.SIGINT), (False, signal.SIGTERM),
], ids=['terminal', 'pipe-that-ended-first', 'sigterm'])
def test_ctrl_c_keeps_the_best_weights_and_says_where(folder, tmp_path, close, number):
    out = tmp_path / 'run'
    code, stdout, stderr = interrupt(folder, out, close, number)
    assert code == 130
    assert stdout == ''
    if not close:
        assert f'the best weights so far are in {out / "model.safetensors"}' in stderr
        assert f'to go on: pyg-mmkgc train --resume {out}' in stderr
        assert 'Traceback' not in stderr
    run = load_run(out, device='cpu')
    assert run.interrupted
    assert not (out / 'metrics.json').exists()
    best = max(entry.get('val_mrr', 0) for entry in run.history)
    assert run.evaluate('val')['both']['mrr'] == pytest.approx(best)
    assert invoke('evaluate', out, '--json').exit_code == 0
    assert len(list((out / 'checkpoints' / 'model').iterdir())) == 1


def test_resume(folder, tmp_path, trained, monkeypatch):
    out, step, calls = tmp_path / 'run', trainer._Steps.__call__, []

    def interrupted(self, *args):
        calls.append(self)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(trainer._Steps, '__call__', interrupted)
    result = invoke('train', '--dataset', folder, '--out', out, '--seed', 1, *SMALL)
    assert result.exit_code == 130
    result = invoke('train', '--resume', out)
    assert result.exit_code == 0, result.output
    assert result.stdout.replace(str(out), str(trained[0])) == trained[1].stdout
    for name in ('model.safetensors', 'metrics.json', 'metrics-inductive_test.json'):
        assert (out / name).read_bytes() == (trained[0] / name).read_bytes()
    again = invoke('train', '--resume', out)
    assert again.exit_code == 0
    assert f'The run in {out} is finished: there is nothing to resume' in again.stderr
    assert again.stdout == result.stdout


def test_train_with_a_profile(tmp_path, folder):
    trace = tmp_path / 'trace.json'
    arguments = ['train', '--dataset', str(folder), '--model', 'complex', '--epochs', '1',
                 '--set', 'hidden_channels=8', '--profile', str(trace)]
    result = invoke(*arguments, '--out', str(tmp_path / 'run'))
    assert result.exit_code == 0, result.output
    assert json.loads(trace.read_text())['traceEvents']
    result = invoke(*arguments, '--out', str(tmp_path / 'other'))
    assert result.exit_code == 2
    assert 'exists and is not overwritten' in result.stderr
    assert not (tmp_path / 'other').exists()
