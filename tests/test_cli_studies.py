import json
import shlex

import pytest
from click.testing import CliRunner

from pyg_mmkgc.cli import main
from pyg_mmkgc.training import load_run

SMALL = ['--set', 'train.epochs=1', '--set', 'train.eval_every=1']


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_study(tmp_path):
    arguments = ['study', 'control', '--seeds', 1, '--row', 'structure only', '--out',
                 tmp_path / 's', *SMALL]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert '| structure only | 1 |' in result.stdout
    assert '1 of 1: structure only, seed 0' in result.stderr
    assert f'Study folder: {tmp_path / "s"}' in result.stdout
    assert json.loads((tmp_path / 's' / 'results.json').read_text())['missing'] == 3
    assert '0 to run' in invoke(*arguments).stderr


def test_study_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke('study', 'control', '--seeds', 1, '--row', 'structure only', '--modality',
                    'text', *SMALL)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / 'studies').iterdir()] == ['control-mocme-atlas-text']


@pytest.mark.parametrize('arguments,message', [
    (['study', 'controll'], "unknown study 'controll' (expected one of ['ablation', 'control', "),
    (['study', 'control', '--row', 'x'], "No row is named 'x' (expected some of ['true features'"),
    (['study', 'ablation', '--modality', 'text'], "Study 'ablation' is about all modalities"),
    (['study', 'noise', '--modality', 'smell'], "Unknown modality 'smell' (expected some of"),
    (['study', 'control', '--seeds', '0'], '--seeds'),
    (['train', '--recipe', 'mocme-atlsa'], "did you mean 'mocme-atlas'"),
    (['train', '--recipe', 'no.yaml'], "There is no file 'no.yaml'"),
    (['train', '--recipe', 'mocme-atlas', '--model', 'mocme'], 'expected --model or --recipe, not'),
    (['train', '--recipe', 'mocme-atlas', '--set', 'model.modality_dropout={smell: 0.5}'],
     "recipe 'mocme-atlas' names it in 'model.modality_dropout'"),
    (['results'], "Missing argument 'RUN...'"),
    (['results', 'nowhere'], "There is no folder 'nowhere'"),
    (['tune', '--set', 'select=test'], "chooses on 'val' alone"),
])
def test_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in ' '.join(result.stderr.split())
    assert not (tmp_path / 'runs').exists()


def test_train_by_a_recipe_takes_its_dataset(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('{dataset: atlas, model: {name: complex, hidden_channels: 4}}')
    result = invoke('train', '--recipe', path, '--epochs', 1, '--out', tmp_path / 'run')
    assert result.exit_code == 0, result.output
    config = load_run(tmp_path / 'run').config
    assert (config['dataset'], config['recipe']) == ('atlas', 'mine')
    assert config['model']['hidden_channels'] == 4
    # A dataset that is named wins over that of the recipe:
    result = invoke('train', '--recipe', path, '--dataset', 'nowhere')
    assert "Unknown dataset 'nowhere'" in result.stderr


def test_tune_and_results(tmp_path):
    pytest.importorskip('optuna')
    result = invoke('tune', '--model', 'complex', '--trials', 2, '--out', tmp_path / 't', '--set',
                    'train.epochs=2', '--set', 'train.eval_every=1')
    assert result.exit_code == 0, result.output
    recipe = tmp_path / 't' / 'recipe.yaml'
    assert f'Next: pyg-mmkgc train --recipe {recipe}' in result.stdout
    assert '2 trials, 0 pruned' in result.stdout
    result = invoke('train', '--recipe', recipe, '--out', tmp_path / 'run')
    assert result.exit_code == 0, result.output
    result = invoke('results', tmp_path / 'run')
    assert result.exit_code == 0
    mrr = json.loads((tmp_path / 'run' / 'metrics.json').read_text())['both']['mrr']
    assert f'| recipe | 1 | {100 * mrr:.1f} |' in result.stdout


@pytest.mark.parametrize('name', ['results', 'study', 'tune'])
def test_example_of_the_help_is_a_call(name):
    result = invoke(name, '--help')
    assert result.exit_code == 0
    program, called, *arguments = shlex.split(result.stdout.split('Example:')[1])
    assert (program, called) == ('pyg-mmkgc', name)
    if '>' in arguments:
        arguments = arguments[:arguments.index('>')]
    main.commands[name].make_context(name, arguments)  # Parses, so its options are there.
