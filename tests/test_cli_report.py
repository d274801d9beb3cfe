import json
import shlex

import pytest
from click.testing import CliRunner

from pyg_mmkgc.cli import main
from pyg_mmkgc.training import train_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('cli') / 'run'
    train_run('atlas', 'mocme', epochs=1, device='cpu', out=out,
              overrides={'model.hidden_channels': 4, 'model.num_experts': 2})
    return out


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


ANSWER = ('--head', 'France', '--relation', 'borders', '--tail', 'Germany')


def test_explain(folder, tmp_path):
    result = invoke('explain', folder, *ANSWER, '--html', tmp_path / 'why.html')
    assert result.exit_code == 0, result.output
    assert 'France --borders--> Germany' in result.stdout
    assert 'Without a modality: masked out, not retrained' in result.stdout
    assert 'their redundancy' in result.stdout  # There are two experts.
    assert f'Page: {tmp_path / "why.html"}' in result.stdout.replace('\n', ' ')
    assert '<h1>France — borders → Germany</h1>' in (tmp_path / 'why.html').read_text('utf-8')


def test_explain_as_json(folder):
    result = invoke('explain', folder, *ANSWER, '--json', '--top', 2)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values['head']['contents']['pictures']['image'].startswith('data:image/png;base64,')
    assert len(values['similar']) == 2
    assert sum(values['contributions'].values()) == pytest.approx(values['score'], rel=1e-3)
    text = invoke('explain', folder, *ANSWER).stdout
    assert f'score {values["score"]:.3f}; rank {values["rank"]:g} of' in text
    for name, part in values['contributions'].items():
        assert f'{part:+.3f}' in text, name


def test_explain_structure_alone(structure):
    result = invoke('explain', structure.path, *ANSWER)
    assert result.exit_code == 0, result.output
    assert 'ComplEx knows entities by structure alone' in result.stdout
    assert 'Without a modality' not in result.stdout
    values = json.loads(invoke('explain', structure.path, *ANSWER, '--json').stdout)
    assert values['modalities'] is None


def test_report(folder, tmp_path):
    result = invoke('report', folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == f'Page: {folder / "report.html"}\n'
    first = (folder / 'report.html').read_bytes()
    assert invoke('report', folder).exit_code == 0  # Written anew, and the same.
    assert (folder / 'report.html').read_bytes() == first
    assert invoke('report', folder, '--out', tmp_path / 'r.html', '--split',
                  'inductive_test').exit_code == 0
    assert 'MRR by group, on inductive_test' in (tmp_path / 'r.html').read_text('utf-8')


def test_compare(folder, structure, tmp_path):
    result = invoke('compare', folder, structure.path, '--html', tmp_path / 'c.html')
    assert result.exit_code == 0, result.output
    assert 'run over structure' in result.stdout
    values = json.loads(invoke('compare', folder, structure.path, '--json').stdout)
    assert f'{values["tests"][0]["gain"]["mean"]:+.4f}' in result.stdout
    assert values['tests'][0]['verdict'] in result.stdout
    assert 'run, structure' in (tmp_path / 'c.html').read_text('utf-8')


def test_nothing_of_the_users_is_overwritten(folder, structure, tmp_path):
    path = tmp_path / 'thesis.html'
    path.write_text('my work')
    for arguments in (['explain', folder, *ANSWER, '--html'], ['report', folder, '--out'],
                      ['compare', folder, structure.path, '--html']):
        result = invoke(*arguments, path)
        assert result.exit_code == 2
        assert 'is not overwritten' in result.stderr
    assert path.read_text() == 'my work'


@pytest.mark.parametrize('arguments,message', [
    (['explain', 'RUN', '--head', 'Frnce', '--relation', 'borders', '--tail', 'Spain'],
     "Unknown entity 'Frnce' (expected the label of one of 1033; did you mean 'France'"),
    (['explain', 'RUN', '--head', 'France', '--relation', 'borders'], "Missing option '--tail'"),
    (['explain', 'nowhere', *ANSWER], "There is no run folder 'nowhere'"),
    (['report', 'nowhere'], "There is no run folder 'nowhere'"),
    (['report', 'RUN', '--split', 'val'], "'split' needs to be one of ['inductive_test', 'test']"),
    (['compare', 'RUN'], 'expected at least two runs to compare (got 1)'),
    (['compare'], "Missing argument 'RUN RUN...'"),
])
def test_errors(arguments, message, folder):
    result = invoke(*[folder if argument == 'RUN' else argument for argument in arguments])
    assert result.exit_code == 2
    assert message in ' '.join(result.stderr.split())


@pytest.mark.parametrize('name', ['explain', 'report', 'compare'])
def test_example_of_the_help_is_a_call(name):
    result = invoke(name, '--help')
    assert result.exit_code == 0
    program, called, *arguments = shlex.split(result.stdout.split('Example:')[1])
    assert (program, called) == ('pyg-mmkgc', name)
    main.commands[name].make_context(name, arguments)  # Parses, so its options are there.
