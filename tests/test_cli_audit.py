import json

import click
import numpy as np
import pytest
from click.testing import CliRunner

from pyg_mmkgc.cli.audit import audit
from pyg_mmkgc.cli.base import CommandGroup
from pyg_mmkgc.data.audit import audit as audit_data
from pyg_mmkgc.datasets import Atlas, MMKGFolder

TRIPLES = {
    'train': ['France\tborders\tSpain', 'Spain\tborders\tPortugal', 'Italy\tborders\tFrance',
              'France\tuses\tEuro', 'Spain\tuses\tEuro', 'Fiji\tuses\tDollar'],
    'val': ['Portugal\tuses\tEuro', 'Spain\tborders\tFrance'],
    'test': ['France\tborders\tItaly', 'Portugal\tborders\tSpain'],
}
ENTITIES = ['France', 'Spain', 'Portugal', 'Italy', 'Fiji', 'Euro', 'Dollar']


@click.group(cls=CommandGroup, context_settings={'show_default': True})
def main():
    pass


main.add_command(audit)


def invoke(*arguments):
    return CliRunner().invoke(main, ['audit', *(str(argument) for argument in arguments)])


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'tiny'
    path.mkdir()
    for split, lines in TRIPLES.items():
        (path / f'{split}.tsv').write_text('\n'.join(lines) + '\n')
    (path / 'entities.txt').write_text('\n'.join(ENTITIES) + '\n')
    np.save(path / 'text.npy', np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32))
    return path


def test_report_of_a_folder(folder):
    result = invoke(folder)
    assert result.exit_code == 0, result.output
    expected = audit_data(MMKGFolder(folder)[0], str(folder))
    assert result.stdout == f'{expected}\n'
    assert 'Modalities' in result.stdout
    assert '\x1b' not in result.stdout


def test_json_and_nothing_else():
    result = invoke('atlas', '--json')
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == audit_data(Atlas()[0], 'atlas').to_dict()
    assert result.stderr == ''


def test_plot(folder, tmp_path):
    result = invoke(folder, '--plot', tmp_path / 'audit.png')
    assert result.exit_code == 0, result.output
    assert (tmp_path / 'audit.png').read_bytes().startswith(b'\x89PNG')


def test_strict(folder):
    assert invoke(folder).exit_code == 0
    assert invoke(folder, '--strict').exit_code == 0  # No error among its findings.
    lines = TRIPLES['val'] + TRIPLES['train'][:2]
    (folder / 'test.tsv').write_text('\n'.join(lines) + '\n')
    assert invoke(folder).exit_code == 0
    result = invoke(folder, '--strict')
    assert result.exit_code == 1
    assert 'test overlaps with train: 2 of 4 distinct triples (50 %)' in ' '.join(
        result.stdout.split())


@pytest.mark.parametrize('arguments, message', [
    (['nothing'], "Unknown dataset 'nothing'"),
    (['nothing', '--splits', 'clean'], "Unknown dataset 'nothing'"),
    (['./nowhere', '--splits', 'clean'], "has no choice of 'splits'"),
    (['./nowhere'], "There is no folder './nowhere'"),
    (['atlas', '--splits', 'clean'], "Dataset 'atlas' has no choice of 'splits' (got 'clean')"),
    (['atlas', '--features', 'none'], "Dataset 'atlas' has no choice of 'features' (got None)"),
    (['atlas', '--encoder', 'minilm'], "Dataset 'atlas' has no choice of 'encoder' (got 'minilm')"),
    (['db15k', '--encoder', 'word2vec'], "Unknown encoder 'word2vec' of DB15K"),
    (['db15k', '--splits', 'x', '--features', 'none'], "Unknown splits 'x' of DB15K"),
    (['db15k', '--mirror', 'nowhere', '--features', 'none'],
     "The mirror 'nowhere' of DB15K has no file"),
])
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count('\n') == 1
    assert result.stdout == ''


def test_a_folder_without_the_option(folder):
    result = invoke(folder, '--features', 'labels')
    assert result.exit_code == 2
    assert f"Dataset '{folder}' has no choice of 'features'" in result.stderr


def test_help():
    result = invoke('--help')
    assert result.exit_code == 0
    for option in ('--root', '--mirror', '--splits', '--features', '--json', '--plot', '--strict'):
        assert option in result.stdout
    assert 'NAME|FOLDER' in result.stdout


@pytest.mark.real_data
def test_a_benchmark(mirror, tmp_path):
    result = invoke('db15k', '--mirror', mirror, '--root', tmp_path, '--features', 'none', '--json')
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found['overlap']['val']['train'] == 6584
    assert found['modalities'] == {}
    assert invoke('DB15K', '--root', tmp_path, '--features', 'none', '--strict').exit_code == 1


@pytest.mark.real_data
def test_clean_splits_and_features_of_a_benchmark(mirror, tmp_path):
    result = invoke('db15k', '--mirror', mirror, '--root', tmp_path, '--splits', 'clean', '--json')
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found['overlap']['val']['train'] == 0
    assert {m: found['modalities'][m]['entities'] for m in ('text', 'numeric')} == {
        'text': 12842, 'numeric': 10947}
