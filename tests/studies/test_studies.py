import json
from functools import partial

import pytest
import torch

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.studies import STUDIES, Line, run_study
from pyg_mmkgc.studies.base import structure_row, with_modalities
from pyg_mmkgc.studies.negatives import probe
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, Recipe, find_recipe

SMALL = {'model.hidden_channels': 8, 'train.epochs': 1, 'train.eval_every': 1}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(inductive=True)[0]


def recipe(model='mocme', **overrides):
    values = {**find_recipe(model).override(SMALL).override(overrides).to_dict(),
              'dataset': 'fakemmkg'}
    return Recipe.from_dict(model, values)


def rows(study, data, model='mocme', modalities=None, **overrides):
    found = STUDIES[study].rows(recipe(model, **overrides), data, modalities)
    names = [row.name for row in found]
    looks = [look.name for row in found for look in row.looks]
    assert len(set(names)) == len(names)
    assert len(set(looks)) == len(looks)
    return {row.name: row for row in found}


def run(study, path, **kwargs):
    kwargs = {'seeds': 1, 'overrides': SMALL, **kwargs}
    return run_study(STUDIES[study], FakeMMKG(inductive=True), 'mocme', out=path, **kwargs)


def line(name, mrr, curves=(), x=None):
    return Line(name, name, curves, x, [0], {'test': {'mrr': [mrr]}}, [], 1.0)


@pytest.mark.parametrize('name', STUDIES)
@pytest.mark.parametrize('model', ['mocme', 'momok', 'additive', 'complex'])
def test_every_row_builds_its_model(name, model, data):
    if (name, model) == ('negatives', 'momok'):
        return  # It says that it takes no sampler, see below.
    for row in rows(name, data, model).values():
        changed = data
        for change in row.changes:
            changed = change(seed=3)(changed)
        row.recipe.build(changed)
        for look in row.looks:
            assert all('seed=3' in repr(change(seed=3)) for change in look.changes)


# ablation


def test_ablation_of_mocme(data):
    found = rows('ablation', data)
    assert list(found) == [
        'full', 'without intra', 'without inter', 'without gates', 'joint head only',
        'bernoulli negatives', 'self_adversarial negatives', 'uniform negatives', 'no negatives',
        'estimator club', 'K = 1', 'K = 2', 'K = 4',
        'without image', 'without numeric', 'without text', 'without structure',
        'image alone', 'numeric alone', 'text alone', 'structure alone']
    assert found['K = 4'].recipe.model['num_experts'] == 4
    assert found['without intra'].recipe.model['intra'] is False
    assert found['no negatives'].recipe.sampler is None
    assert found['structure alone'].recipe.build(data).modalities == ['structure']
    assert found['without text'].recipe.build(data).modalities == ['image', 'numeric', 'structure']
    assert found['text alone'].recipe.build(data).modalities == ['text']


def test_ablation_has_what_the_recipe_has(data):
    assert 'without held-out gates' in rows('ablation', data, **{'train.gate_split': 'val'})
    assert 'K = 1' not in rows('ablation', data, **{'model.num_experts': 1})
    assert 'uniform negatives' not in rows('ablation', data, sampler=None)
    assert list(rows('ablation', data, 'complex')) == ['full']
    some = rows('ablation', data, **{'model.modalities': ['text']})
    assert [name for name in some if 'image' in name] == []
    assert STUDIES['ablation'].pairs(['full', 'K = 1']) == [('full', 'K = 1')]


def test_options_forget_a_modality():
    given = recipe(**{'model.modality_dropout': {'text': 0.5, 'structure': 0.1},
                      'model.heads': ['text', 'image', 'structure'],
                      'model.norm_weight': {'joint': 2.0, 'text': 1.0}})
    model = with_modalities(given, ['image', 'structure']).model
    assert model['modality_dropout'] == {'structure': 0.1}
    assert model['heads'] == ['image', 'structure']
    assert model['norm_weight'] == {'joint': 2.0}
    assert model['modalities'] == ['image']
    assert with_modalities(given, ['text']).model['structure_channels'] == 0
    assert with_modalities(recipe('complex'), []) is None


def test_structure_row_is_the_baselines_own_recipe():
    row = structure_row(find_recipe('mocme', 'atlas').override({'train.epochs': 3}))
    assert row.recipe.name == 'complex-atlas'
    assert row.recipe.train['epochs'] == 3
    assert row.recipe.model == find_recipe('complex', 'atlas').model


# control


def test_control(data, tmp_path):
    found = rows('control', data, modalities=['text'])
    assert repr(found['permuted features'].changes[0](seed=2)) == (
        "PermuteModality(modalities=['text'], seed=2)")
    assert found['without features'].recipe.build(data).modalities == ['image', 'numeric',
                                                                      'structure']
    assert list(rows('control', data, 'complex')) == ['true features', 'permuted features',
                                                      'structure only']
    report = run('control', tmp_path, modalities=['text'])
    first = report.comparisons[0]
    assert (first.first, first.second) == ('true features', 'permuted features')
    gain = 100 * (report.lines[0].mrr() - report.lines[1].mrr())
    assert report.findings[0].startswith(
        f'True features are worth {gain:+.1f} points of test MRR over permuted ones')


# missing


def test_missing_in_test_trains_once(data, tmp_path):
    found = rows('missing', data)
    assert list(found) == ['full', '10% in training', '30% in training', '50% in training',
                           '70% in training', '90% in training', 'structure only']
    looks = {look.name: look for look in found['full'].looks}
    assert len(looks) == 1 + 5 + 3 * 5
    assert looks['30% in test'].curves == ('in test', )
    assert repr(looks['30% of text in test'].changes[0](seed=1)) == (
        "DropModality(0.3, modalities=['text'], seed=1, where='all')")
    trained = found['50% in training']
    assert [(look.name, look.changes) for look in trained.looks] == [
        ('50% in training', ()), ('50% in both', trained.changes)]
    assert [look.name for look in rows('missing', data, modalities=['text'])['full'].looks] == [
        'full', *(f'{share}% in test' for share in (10, 30, 50, 70, 90))]

    report = run('missing', tmp_path, rows=['full', '50%*'])
    assert {file.name for file in (tmp_path / 'cells').iterdir()} == {
        'full-0.json', '50-in-training-0.json'}
    lines = {found.look: found for found in report.lines}
    assert lines['50% in both'].mrr() != lines['50% in training'].mrr()
    assert lines['90% in test'].mrr() != lines['full'].mrr()
    assert (tmp_path / 'figure.png').stat().st_size > 0


def test_missing_says_how_much_of_the_gain_is_left():
    lines = [line('full', 0.5, ('in test', ), 0.0), line('50% in test', 0.4, ('in test', ), 0.5),
             line('structure only', 0.3)]
    assert STUDIES['missing'].findings({part.look: part for part in lines}) == [
        'Of the gain over structure alone, 20.0 points of test MRR, is left in test: '
        '50% missing 50%.']
    assert STUDIES['missing'].findings({'full': lines[0]}) == []
    worse = {part.look: part for part in [*lines[:2], line('structure only', 0.6)]}
    assert STUDIES['missing'].findings(worse) == []


# noise and sparsity


def test_noise(data):
    found = rows('noise', data)
    assert len(found) == 2 * (1 + 10) + 1
    both = found['plain mean, 30% swap in both']
    assert both.recipe.model['uniform']
    assert both.looks[0].changes == both.changes
    assert repr(both.changes[0](seed=1)) == (
        "AddModalityNoise(0.3, modalities=['image', 'numeric', 'text'], seed=1, kind='swap')")
    assert len(found['mocme'].looks) == 11
    assert len(found['mocme'].looks[0].curves) == 4
    pairs = STUDIES['noise'].pairs(
        ['mocme', 'plain mean', 'mocme, 10% swap in test', 'structure only'])
    assert pairs == [('mocme', 'plain mean'),
                     ('mocme, 10% swap in test', 'plain mean, 10% swap in test')]
    lines = {name: line(name, mrr) for name, mrr in [
        ('mocme', 0.5), ('plain mean', 0.4), ('mocme, x', 0.2), ('plain mean, x', 0.3)]}
    assert STUDIES['noise'].findings(lines) == [
        'Above the plain mean in 1 of 2 comparisons on test.']
    assert len(rows('noise', data, 'additive')) == 1 + 10 + 1


def test_sparsity_asks_the_same_of_all_shares(data, tmp_path):
    found = rows('sparsity', data)
    assert list(found)[:3] == ['mocme, 10%', 'structure, 10%', 'mocme, 20%']
    assert STUDIES['sparsity'].pairs(['mocme, 10%', 'structure, 10%']) == [
        ('mocme, 10%', 'structure, 10%')]
    run('sparsity', tmp_path, rows=['*, 10%', '*, 100%'])
    protocols = [json.loads(file.read_text())['looks'] for file in (tmp_path / 'cells').iterdir()]
    assert len(protocols) == 4
    test = [next(iter(looks.values()))['test'] for looks in protocols]
    assert all(metrics['protocol'] == test[0]['protocol'] for metrics in test)
    assert all(metrics['both']['count'] == test[0]['both']['count'] for metrics in test)


# negatives


def test_probe_counts_classes_by_hand(data):
    fit = Fit(recipe(**{'sampler.num_negatives': 6}), data)
    with torch.no_grad():
        fit.model.structure.weight.mul_(500)  # So that not all scores are nearly equal.
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = probe(fit)
    assert torch.equal(torch.get_rng_state(), before)
    triples = torch.stack(get_triples(data, 'train'))
    chosen = torch.randperm(triples.size(1), generator=torch.Generator().manual_seed(0))[:256]
    head_index, rel_type, tail_index = triples[:, chosen]
    neg_index, mask = fit.model.neg_sampling.corrupt(head_index, rel_type, tail_index)
    fit.model.eval()
    probability = []
    for i in range(chosen.numel()):
        scores = fit.model(head_index[i].expand(6), rel_type[i].expand(6), neg_index[i])
        probability += scores.sigmoid().double()[mask[i]].tolist()
    p = torch.tensor(probability).clamp(1e-12, 1 - 1e-12)
    entropy = -p * p.log() - (1 - p) * (1 - p).log()
    counted = torch.where(p > 0.9, torch.tensor(0.6931), entropy)  # Confidently wrong is hard.
    classes = [float(((counted >= low) & (counted < high)).double().mean())
               for low, high in [(0, 0.2), (0.2, 0.5), (0.5, 1)]]
    assert found['entropy_classes'] == pytest.approx(classes, abs=2e-3)
    assert found['entropy'] == pytest.approx(float(entropy.mean()), abs=1e-3)
    assert found['probability'] == pytest.approx(float(p.mean()), abs=1e-3)
    assert found['known'] == pytest.approx(float((~mask).double().mean()))
    assert isinstance(fit.model.neg_sampling, EGNS)


@pytest.mark.parametrize('sampler', ['egns', None])
def test_probe_does_not_change_the_training(data, sampler):
    given = recipe(**{'train.epochs': 3, 'sampler': sampler})
    plain = Fit(given, data)()
    fit = Fit(given, data, on_epoch=lambda entry: entry.update(probe(fit)))
    probed = fit()
    assert [e['loss'] for e in probed.history] == [e['loss'] for e in plain.history]
    assert probed.best_mrr == plain.best_mrr
    assert sum(probed.history[0]['entropy_classes']) == pytest.approx(1)


def test_negatives(data, tmp_path):
    found = rows('negatives', data)
    assert list(found) == ['egns', 'bernoulli', 'self_adversarial', 'uniform', 'no negatives']
    assert {row.recipe.train['patience'] for row in found.values()} == {None}
    assert len({row.recipe.sampler['num_negatives'] for row in list(found.values())[:4]}) == 1
    sampled = rows('negatives', data, **{'model.objective': 'sampled'})
    assert 'no negatives' not in sampled
    run('negatives', tmp_path, rows=['egns', 'no negatives'])
    cell = json.loads((tmp_path / 'cells' / 'no-negatives-0.json').read_text())
    assert len(cell['history'][0]['entropy_classes']) == 3


def test_negatives_of_a_model_that_takes_no_sampler(tmp_path):
    with pytest.raises(ValueError, match="row 'egns', seed 0: 'MoMoK' trains each head over all"):
        run_study(STUDIES['negatives'], FakeMMKG(), 'momok', seeds=1, overrides=SMALL,
                  rows=['egns'], out=tmp_path)


def test_changes_are_partials_so_that_workers_get_them(data):
    for name in STUDIES:
        for row in rows(name, data).values():
            assert all(type(change) is partial for change in row.changes)
