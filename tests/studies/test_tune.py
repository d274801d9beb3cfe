import builtins
import json

import pytest
import torch
import yaml

from pyg_mmkgc.data import get_triples, set_triples
from pyg_mmkgc.studies import Parameter, search_space, tune
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import MODELS, Recipe, find_recipe, load_recipe, train_run, trainer

optuna = pytest.importorskip('optuna')

SMALL = {'model.hidden_channels': 8, 'train.epochs': 2, 'train.eval_every': 1}
SPACE = {'model.regularization': {'low': 0.001, 'high': 0.1, 'log': True},
         'train.lr': {'choices': [0.01, 0.1, 0.3]}}


def search(path, trials=3, model='complex', **kwargs):
    kwargs = {'overrides': SMALL, 'space': SPACE, **kwargs}
    return tune(kwargs.pop('dataset', FakeMMKG()), model, trials=trials, out=path, **kwargs)


def journal(path):
    from optuna.storages.journal import JournalFileBackend
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name='tune', storage=storage)


def spent():
    r"""A graph whose validation triples all stand in train."""
    dataset = FakeMMKG()
    set_triples(dataset._data, 'val', torch.stack(get_triples(dataset._data, 'train'), dim=1)[:30])
    return dataset


@pytest.mark.parametrize('model', MODELS)
def test_spaces_of_all_models_fit_their_signatures(model):
    data = FakeMMKG()[0]
    recipe = find_recipe(model)
    parameters = search_space(recipe, data)
    assert len({parameter.name for parameter in parameters}) == len(parameters) >= 2
    each = [parameter for parameter in parameters if parameter.modality is not None]
    assert (model in ('additive', 'mocme')) == bool(each)
    if each:
        assert [p.modality for p in each] == ['image', 'numeric', 'text', 'structure']


def test_parameter_needs_choices_or_limits():
    with pytest.raises(ValueError, match="'lr' needs either 'choices' or 'low' and 'high'"):
        Parameter('lr', 'train.lr', low=0.1).contains(0.2)


@pytest.mark.parametrize('space,message', [
    ({'model.hiden_channels': {'choices': [1]}}, "Unknown option 'model.hiden_channels'; did you"),
    ({'train.lr': {'choices': [0.1, 'fast']}}, r"'train.lr' needs a number \(got 'fast'\)"),
    ({'train.lr': {'low': -1.0, 'high': 1.0}}, "'lr' needs to be positive"),
    ({'train.lr': {'low': 0.1}}, "needs either 'choices' or 'low' and 'high'"),
    ({'train.lr': {'low': 0.1, 'high': 0.2, 'step': 1}}, "needs either 'choices' or"),
    ({'train.lr': [0.1]}, "needs either 'choices' or"),
    ({'train.lr': {'low': 0.2, 'high': 0.1}}, "needs 'low' below 'high'"),
    ({'model.hidden_channels': {'low': 0.5, 'high': 2.5}}, "needs an integer"),
])
def test_bad_space(space, message):
    with pytest.raises(ValueError, match=message):
        search_space(find_recipe('complex'), FakeMMKG()[0], space)


def test_best_trial_becomes_a_recipe_that_train_accepts(tmp_path):
    found = search(tmp_path / 'a', trials=4)
    study = journal(tmp_path / 'a' / 'journal.log')
    assert found.trials == 4
    assert found.val_mrr == study.best_value == max(
        trial.value for trial in study.trials if trial.state.name == 'COMPLETE')
    recipe = Recipe.from_file(found.path)
    assert recipe.to_dict() == found.recipe.to_dict()
    assert recipe.train['lr'] == study.best_params['train.lr']
    assert recipe.model['regularization'] == study.best_params['model.regularization']
    assert recipe.train['select'] == 'val'
    assert recipe.expected == {'val': {'mrr': round(found.val_mrr, 4)}}
    assert 'best of 4 trials by MRR on val, seed 0' in recipe.protocol
    assert recipe.machine['threads'] == torch.get_num_threads()
    assert set(recipe.time) == {'trial_seconds', 'search_seconds'}
    assert load_recipe(str(found.path)) == recipe
    # And it is what it says:
    run = train_run(FakeMMKG(), str(found.path), out=tmp_path / 'run')
    assert run.config['result']['best_val_mrr'] == pytest.approx(found.val_mrr, abs=2e-3)


def test_first_trial_has_the_values_of_the_recipe(tmp_path):
    search(tmp_path, trials=1)
    params = journal(tmp_path / 'journal.log').trials[0].params
    assert params == {'model.regularization': find_recipe('complex').model['regularization'],
                      'train.lr': 0.1}


def test_values_for_each_modality(tmp_path):
    space = {'model.modality_dropout': {'low': 0.0, 'high': 0.5, 'each_modality': True},
             'model.num_experts': {'low': 1, 'high': 2}}
    found = search(tmp_path, 1, 'mocme', space=space)
    assert set(found.recipe.model['modality_dropout']) == {'image', 'numeric', 'structure', 'text'}
    assert found.recipe.model['num_experts'] in (1, 2)


def test_goes_on_where_it_was(tmp_path, monkeypatch):
    search(tmp_path, trials=2)
    values = [trial.value for trial in journal(tmp_path / 'journal.log').trials]
    real, calls = trainer.Trainer._epoch, []

    def stopped(self, *args):
        calls.append(self)
        if len(calls) == 3:  # The second epoch of the second trial from here on is the fourth.
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(trainer.Trainer, '_epoch', stopped)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, trials=5)
    trials = journal(tmp_path / 'journal.log').trials
    assert [trial.value for trial in trials[:2]] == values
    left = trials[-1]
    assert left.state.name in ('RUNNING', 'FAIL')
    monkeypatch.setattr(trainer.Trainer, '_epoch', real)
    found = search(tmp_path, trials=5)
    trials = journal(tmp_path / 'journal.log').trials
    assert found.trials == 5
    ended = [trial for trial in trials if trial.state.name in ('COMPLETE', 'PRUNED')]
    assert len(ended) == 5
    assert left.params in [trial.params for trial in ended]
    before = (tmp_path / 'recipe.yaml').read_text()
    assert search(tmp_path, trials=5).val_mrr == found.val_mrr  # Nothing is left to do.
    assert (tmp_path / 'recipe.yaml').read_text() == before


@pytest.mark.parametrize('change,words', [
    ({'overrides': {**SMALL, 'train.batch_size': 7}}, 'recipe differ'),
    ({'dataset': FakeMMKG(seed=1)}, 'data differ'),
    ({'space': {'train.lr': {'choices': [0.1, 0.2]}}}, 'space differ'),
])
def test_journal_of_another_search(tmp_path, change, words):
    search(tmp_path, trials=1)
    with pytest.raises(ValueError, match=rf"journal.log' is the journal of another .*: {words}"):
        search(tmp_path, trials=2, **change)


def test_workers_share_the_journal(tmp_path):
    found = search(tmp_path / 'a', trials=4, workers=2, storage=tmp_path / 'there.log')
    assert 4 <= found.trials <= 5  # Who works beside the last one finishes his own.
    assert (tmp_path / 'there.log').exists()
    assert (tmp_path / 'a' / 'recipe.yaml').exists()


def test_trials_that_fall_behind_are_pruned(tmp_path):
    space = {'train.lr': {'choices': [0.1, 1e-6]}}
    found = search(tmp_path, trials=14, space=space, overrides={**SMALL, 'train.epochs': 6})
    assert found.pruned > 0
    assert found.recipe.train['lr'] == 0.1
    pruned = [trial for trial in journal(tmp_path / 'journal.log').trials
              if trial.state.name == 'PRUNED']
    assert all(len(trial.intermediate_values) < 6 for trial in pruned)


def test_a_diverging_trial_is_pruned(tmp_path, monkeypatch):
    real, calls = trainer.Trainer._epoch, []

    def diverging(self, *args):
        calls.append(self)
        if len(calls) == 1:
            raise FloatingPointError('the loss is not finite')
        return real(self, *args)

    monkeypatch.setattr(trainer.Trainer, '_epoch', diverging)
    found = search(tmp_path, trials=2)
    assert (found.trials, found.pruned) == (2, 1)


def test_no_trial_is_finished(tmp_path, monkeypatch):
    def diverging(self, *args):
        raise FloatingPointError('the loss is not finite')

    monkeypatch.setattr(trainer.Trainer, '_epoch', diverging)
    with pytest.raises(ValueError, match=r'No trial was finished \(2 were begun\)'):
        search(tmp_path, trials=2)
    assert not (tmp_path / 'recipe.yaml').exists()


def test_a_spent_validation_split_is_replaced_by_a_part_of_train(tmp_path, monkeypatch):
    dataset, looked, real = spent(), [], trainer.evaluate

    def spy(model, data, split, **kwargs):
        known = {tuple(row) for row in zip(*(x.tolist() for x in get_triples(data, 'train')),
                                           strict=True)}
        held = {tuple(row) for row in zip(*(x.tolist() for x in get_triples(data, split)),
                                          strict=True)}
        looked.append((split, len(known & held)))
        return real(model, data, split, **kwargs)

    monkeypatch.setattr(trainer, 'evaluate', spy)
    overrides = {**SMALL, 'train.select': None, 'train.epochs': 3}
    found = search(tmp_path, trials=2, dataset=dataset, overrides=overrides)
    assert looked
    assert set(looked) == {('val', 0)}
    assert found.recipe.train['select'] is None
    best = journal(tmp_path / 'journal.log').best_trial
    assert found.recipe.train['epochs'] == best.user_attrs['epoch']
    assert 'MRR on 5% of train, held out' in found.recipe.protocol


def test_recipe_file_is_plain_yaml(tmp_path):
    found = search(tmp_path, trials=1)
    values = yaml.safe_load(found.path.read_text())
    assert list(values) == ['dataset', 'model', 'sampler', 'train', 'expected', 'protocol',
                            'machine', 'time']
    assert values['dataset'] == 'fakemmkg'
    assert json.loads(json.dumps(values)) == values


def test_without_optuna(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split('.')[0] == 'optuna':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', missing)
    with pytest.raises(ImportError, match=r'tuning needs Optuna: pip install "pyg-mmkgc\[tune\]"'):
        tune(FakeMMKG(), 'complex', out=tmp_path)


@pytest.mark.parametrize('kwargs,message', [
    ({'trials': 0}, "'trials' needs to be at least 1"),
    ({'workers': 0}, "'workers' needs to be at least 1"),
    ({'overrides': {'train.select': 'test'}}, "chooses on 'val' alone"),
])
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        search(tmp_path, **kwargs)
