import json
import shutil

import pytest
import torch
import yaml

from pyg_mmkgc.evaluation import Interval, evaluate
from pyg_mmkgc.report import PairedTest, compare_runs
from pyg_mmkgc.training import load_run


@pytest.fixture(scope='module')
def comparison(runs):
    return compare_runs([runs / 'mocme', runs / 'complex'], device='cpu')


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs / 'complex', tmp_path / 'other')


def change(path, edit):
    values = yaml.safe_load(path.read_text())
    edit(values)
    path.write_text(json.dumps(values) if path.suffix == '.json' else yaml.safe_dump(values))


def test_metrics_are_those_of_the_runs(runs, comparison):
    for name in ('mocme', 'complex'):
        stored = json.loads((runs / name / 'metrics.json').read_text())
        found = comparison.metrics[name]
        assert found['both'] == pytest.approx(stored['both'], rel=1e-4)
        assert found['by_relation'].keys() == stored['by_relation'].keys()
        assert (found['model'], found['seed']) == (name, 0)
    assert comparison.protocol == stored['protocol']


def test_paired_test(runs, comparison):
    test, = comparison.tests
    parts = []
    for name in ('mocme', 'complex'):
        run = load_run(runs / name, device='cpu')
        ranks = evaluate(run.model, run.data, 'test').ranks
        parts.append([(1 / a + 1 / b) / 2 for a, b in zip(
            ranks['head'].rank.tolist(), ranks['tail'].rank.tolist(), strict=True)])
    gains = [a - b for a, b in zip(*parts, strict=True)]
    assert (test.first, test.second) == ('mocme', 'complex')
    assert test.gain.mean == pytest.approx(sum(gains) / len(gains))
    assert test.gain.mean == pytest.approx(
        comparison.metrics['mocme']['both']['mrr'] - comparison.metrics['complex']['both']['mrr'])
    error = torch.tensor(gains).double().std().item() / len(gains)**0.5
    assert test.gain.high - test.gain.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert test.better == pytest.approx(sum(gain > 0 for gain in gains) / len(gains))
    assert test.worse == pytest.approx(sum(gain < 0 for gain in gains) / len(gains))


def test_a_run_beside_itself(runs, tmp_path):
    shutil.copytree(runs / 'complex', tmp_path / 'again')
    comparison = compare_runs([runs / 'complex', tmp_path / 'again'], device='cpu')
    test, = comparison.tests
    assert test.gain == (0.0, 0.0, 0.0)
    assert test.verdict() == 'no clear difference'
    assert (test.better, test.worse) == (0, 0)
    assert comparison.differences() == {}
    assert len(comparison.notes) == 1


@pytest.mark.parametrize('gain,verdict', [
    ((0.1, 0.01, 0.2), 'a is better than b'),
    ((-0.1, -0.2, -0.01), 'b is better than a'),
    ((0.1, -0.01, 0.2), 'no clear difference'),
])
def test_verdict(gain, verdict):
    assert PairedTest('a', 'b', Interval(*gain), 0.5, 0.4).verdict() == verdict


def test_differences_and_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict()))
    assert found['differences']['model.name'] == ['mocme', 'complex']
    assert found['differences']['model.num_experts'][1] is None
    assert 'train.epochs' not in found['differences']
    assert found['tests'][0]['gain'].keys() == {'mean', 'low', 'high'}
    assert found['tests'][0]['verdict'] == comparison.tests[0].verdict()


def test_three_runs_and_notes(runs, copied):
    change(copied / 'config.yaml', lambda config: config['versions'].update(torch='1.0'))
    comparison = compare_runs([runs / 'mocme', runs / 'complex', copied], 'inductive_test',
                              device='cpu')
    assert [(test.first, test.second) for test in comparison.tests] == [
        ('mocme', 'complex'), ('mocme', 'other'), ('complex', 'other')]
    assert comparison.protocol['candidates'] == 'all'
    assert any(note.startswith('These are 3 tests') for note in comparison.notes)
    assert any('different versions' in note for note in comparison.notes)


def test_names(runs, tmp_path):
    first = shutil.copytree(runs / 'complex', tmp_path / 'a' / 'run')
    second = shutil.copytree(runs / 'complex', tmp_path / 'b' / 'run')
    comparison = compare_runs([first, second], device='cpu')
    assert list(comparison.metrics) == [str(first), str(second)]
    with pytest.raises(ValueError, match='is named twice'):
        compare_runs([first, first])


def test_refuses_other_data(runs, markup):
    with pytest.raises(ValueError, match=r'cannot be compared: their triples or splits are not the '
                                         r'same \(data atlas and graph\)'):
        compare_runs([runs / 'mocme', markup.path], device='cpu')


def test_refuses_another_protocol(runs, copied):
    change(copied / 'metrics.json', lambda m: m['protocol'].update(ties='optimistic'))
    with pytest.raises(ValueError, match=r"different protocols \(ties: 'realistic' and "
                                         r"'optimistic'\)"):
        compare_runs([runs / 'mocme', copied], device='cpu')


def test_refuses_what_is_not_there(runs, copied):
    with pytest.raises(ValueError, match=r'at least two runs to compare \(got 1\)'):
        compare_runs([copied])
    with pytest.raises(ValueError, match=r"no metrics of split 'val' \(expected one of \['induct"):
        compare_runs([runs / 'mocme', copied], 'val', device='cpu')
    with pytest.raises(FileNotFoundError, match='There is no run folder'):
        compare_runs([runs / 'mocme', runs / 'gone'], device='cpu')
    for file in copied.glob('metrics*.json'):
        file.unlink()
    with pytest.raises(ValueError, match=r'is not finished, and has no metrics'):
        compare_runs([runs / 'mocme', copied], device='cpu')
