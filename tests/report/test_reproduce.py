import shlex

import pytest

from pyg_mmkgc.cli import main
from pyg_mmkgc.report import train_command
from pyg_mmkgc.training import find_recipe, load_recipe
from pyg_mmkgc.training.recipe import SECTIONS


def config(recipe, dataset='atlas', baseline=None, **kwargs):
    return {'name': dataset, 'dataset': dataset, 'recipe': recipe.name, 'baseline': baseline,
            **{section: recipe.to_dict()[section] for section in SECTIONS}, **kwargs}


def resolved(command):
    r"""The recipe that a command trains by, parsed by the command line itself."""
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ('pyg-mmkgc', 'train')
    parsed = main.commands['train'].make_context('train', arguments).params
    given = {'train.seed': parsed['seed'], 'train.epochs': parsed['epochs']}
    recipe = load_recipe(parsed['recipe'] or parsed['model'], parsed['dataset'])
    return parsed, recipe.override(parsed['overrides']).override(
        {key: value for key, value in given.items() if value is not None})


@pytest.mark.parametrize('model', ['mocme', 'complex', 'momok', 'nearest'])
@pytest.mark.parametrize('overrides', [
    {},
    {'train.seed': 7, 'train.lr': 1e-5, 'train.gate_split': None},
    {'model.hidden_channels': 12, 'train.epochs': 3, 'train.eval_every': 1},
])
def test_command_gives_the_same_recipe(model, overrides):
    if model == 'nearest':
        overrides = {key: value for key, value in overrides.items() if 'hidden' not in key}
    recipe = find_recipe(model, 'atlas').override(overrides)
    _, found = resolved(train_command(config(recipe)))
    assert {s: found.to_dict()[s] for s in SECTIONS} == {s: recipe.to_dict()[s] for s in SECTIONS}


def test_options_of_all_types():
    recipe = find_recipe('mocme', 'atlas').override({
        'sampler': 'uniform', 'sampler.num_negatives': 5,
        'model.modality_dropout': {'text': 0.5, 'structure': 0.1}, 'model.heads': ['text'],
        'model.uniform': True})
    command = train_command(config(recipe))
    assert '''--set 'sampler="uniform"' ''' in command
    _, found = resolved(command)
    assert {s: found.to_dict()[s] for s in SECTIONS} == {s: recipe.to_dict()[s] for s in SECTIONS}
    without = recipe.override({'sampler': None})
    _, found = resolved(train_command(config(without)))
    assert found.sampler is None


def test_epochs_of_the_baseline():
    recipe = find_recipe('mocme', 'atlas').override({'train.epochs': 3})
    for epochs, expected in ((3, 3), (2, 3), (30, None)):
        command = train_command(config(recipe, baseline={'train': {'epochs': epochs}}))
        assert resolved(command)[0]['epochs'] == expected
        assert resolved(command)[1].train['epochs'] == 3


def test_datasets(tmp_path):
    recipe = find_recipe('complex')
    command = train_command(config(recipe, 'mkgw', dataset_options={
        'splits': 'clean', 'features': None, 'encoder': 'minilm'}, root='/home/me', mirror='/data'))
    parsed, _ = resolved(command)
    assert (parsed['dataset'], parsed['splits'], parsed['features'], parsed['encoder']) == (
        'mkgw', 'clean', 'none', 'minilm')
    assert '/home/me' not in command
    assert '/data' not in command
    folder = tmp_path / 'my graph'
    folder.mkdir()
    command = train_command({**config(recipe, 'my graph'), 'dataset': str(folder)})
    assert resolved(command)[0]['dataset'] == str(folder)
    # Nothing that a command line could name:
    assert train_command(config(recipe, 'fakemmkg')) is None
    assert train_command(config(recipe, dataset_options={'transform': 'x'})) is None


def test_recipe_of_a_file_that_is_gone():
    recipe = find_recipe('complex', 'atlas').override({'train.lr': 0.5})
    command = train_command({**config(recipe), 'recipe': 'gone'})
    parsed, found = resolved(command)
    assert (parsed['model'], parsed['recipe']) == ('complex', None)
    assert found.train['lr'] == 0.5
