import json

import pytest
from click.testing import CliRunner

from pyg_mmkgc.cli import main
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.training import load_run

NUMBERS = 'latitude=49.8,longitude=15.5,area=50000'


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'run'
    result = invoke('train', '--model', 'nearest', '--epochs', 2, '--out', out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize('side', ['tail', 'head'])
def test_new_by_numbers(run, side):
    result = invoke('predict', run, '--new', 'Ruritania', '--relation', 'borders', '--side', side,
                    '--numeric', NUMBERS, '--top', 5, '--json')
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    loaded = load_run(run, device='cpu')
    features = loaded.encode_entity({'numeric': {'latitude': 49.8, 'longitude': 15.5,
                                                 'area': 50000.0}})
    assert answers == loaded.predict(relation='borders', top=5, features=features,
                                     **{'head' if side == 'tail' else 'tail': 'Ruritania'})
    # In the middle of Europe:
    assert {a['entity'] for a in answers} & {'Germany', 'Poland', 'Austria', 'Czechia', 'Slovakia'}


def test_new_by_a_file(run, tmp_path):
    data = Atlas()[0]
    i = list(data['entity'].label).index('Spain')
    path = tmp_path / 'x.json'
    path.write_text(json.dumps({m: data['entity'][m][i].tolist() for m in ('text', 'image')}))
    question = ['predict', run, '--new', 'Iberia', '--relation', 'official_language']
    result = invoke(*question, '--features', path)
    assert result.exit_code == 0, result.output
    assert 'Iberia --official_language--> ?' in result.stdout
    assert 'Probabilities are calibrated on validation.' in result.stdout
    both = invoke(*question, '--features', path, '--numeric', NUMBERS)
    assert both.exit_code == 0
    assert both.stdout != result.stdout
    twice = invoke(*question, '--features', path, '--text', 'Iberia (country)')
    assert twice.exit_code == 2
    assert 'expected one source of text' in twice.stderr


def test_the_model_abstains(run):
    question = ['predict', run, '--head', 'France', '--relation', 'borders']
    result = invoke(*question, '--min-probability', 1)
    assert result.exit_code == 0
    assert ('France --borders--> ?: the model abstains, no answer has a probability of at least 1'
            in result.stdout)
    answers = json.loads(invoke(*question, '--json', '--min-probability', 0.02).stdout)
    assert answers
    assert all(answer['probability'] >= 0.02 for answer in answers)


def test_suspects(run):
    result = invoke('suspects', run, '--top', 3, '--json')
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == load_run(run, device='cpu').suspects(top=3)
    shown = invoke('suspects', run, '--top', 3).stdout
    assert all(triple['head'] in shown and triple['relation'] in shown for triple in found)
    folds = invoke('suspects', run, '--top', 3, '--folds', 2, '--json')
    assert folds.exit_code == 0
    assert len(json.loads(folds.stdout)) == 3


@pytest.mark.parametrize('arguments, match', [
    (['--new', 'X'], 'expected --new together with --features, --text, --image or --numeric'),
    (['--head', 'France', '--text', 'x'], 'expected --new together with'),
    (['--new', 'X', '--head', 'France'], 'expected exactly one of --head, --tail and --new'),
    (['--new', 'X', '--numeric', 'a'], "expected NAME=NUMBER (got 'a')"),
    (['--new', 'X', '--numeric', 'a=b'], "expected NAME=NUMBER (got 'a=b')"),
    (['--new', 'France', '--numeric', NUMBERS], "new entity 'France' is in the graph already"),
    (['--new', 'X', '--numeric', 'area=1'], "expected 'latitude' and 'longitude'"),
    (['--new', 'X', '--features', 'no.json'], "There is no file 'no.json'"),
    (['--new', 'X', '--image', 'no.png'], 'no.png'),
])
def test_errors(run, arguments, match):
    result = invoke('predict', run, '--relation', 'borders', *arguments)
    assert result.exit_code == 2
    assert match in ' '.join(result.stderr.split())
