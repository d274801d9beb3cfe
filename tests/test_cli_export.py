import json
import shlex

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pyg_mmkgc.cli import main
from pyg_mmkgc.cli.export import export
from pyg_mmkgc.cli.neighbours import neighbours
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.export import entity_vectors, predict_split
from pyg_mmkgc.nn import KGModel, MoCME
from pyg_mmkgc.training import load_run, train_run

NAMES = ['France', 'Spain', 'Portugal', 'Italy', 'Fiji', 'Euro', 'Dollar']
TRIPLES = {'train': '0 0 1\n1 0 2\n3 0 0\n0 1 5\n1 1 5\n3 1 5\n4 1 6',
           'val': '2 1 5\n1 0 0', 'test': '0 0 3\n2 0 1\n4 1 5'}


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'tiny'
    folder.mkdir()
    for split, lines in TRIPLES.items():
        rows = [line.split() for line in lines.split('\n')]
        (folder / f'{split}.tsv').write_text('\n'.join(
            f'{NAMES[int(h)]}\t{["borders", "uses"][int(r)]}\t{NAMES[int(t)]}'
            for h, r, t in rows) + '\n')
    (folder / 'entities.txt').write_text('\n'.join(NAMES) + '\n')
    x = np.random.default_rng(0).normal(size=(len(NAMES), 5)).astype(np.float32)
    np.save(folder / 'text.npy', x)
    return train_run(folder, epochs=2, device='cpu', out=folder.parent / 'run',
                     overrides={'model.hidden_channels': 8, 'model.num_experts': 2})


@pytest.mark.parametrize('file_format,files', [
    ('parquet', {'entities.parquet', 'relations.parquet'}),
    ('npy', {f'{what}-{view}{suffix}.npy' for what in ('entities', 'relations') for view in (
        'joint', 'structure', 'text') for suffix in ('', '-mask')}
     | {'entities.json', 'relations.json'}),
    ('word2vec', {f'{what}-{view}.txt' for what in ('entities', 'relations') for view in (
        'joint', 'structure', 'text')}),
])
def test_vectors(file_format, files, run, tmp_path):
    result = invoke('export', run.path, '--out', tmp_path / 'out', '--format', file_format)
    assert result.exit_code == 0, result.output
    assert result.stdout == f'Written: {tmp_path / "out"}\n'
    assert {path.name for path in (tmp_path / 'out').iterdir()} == files


def test_what(run, tmp_path):
    result = invoke('export', run.path, '--out', tmp_path / 'out', '--format', 'npy', '--what',
                    'entities')
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / 'out').glob('relations*'))
    found = np.load(tmp_path / 'out' / 'entities-text.npy', allow_pickle=False)
    expected = entity_vectors(run.model, run.data)['text'].x.numpy()
    assert (found == expected).all()


def test_predictions(run, tmp_path):
    pq = pytest.importorskip('pyarrow.parquet')
    result = invoke('export', run.path, '--out', tmp_path / 'x.parquet', '--predictions', '--top',
                    3, '--split', 'val')
    assert result.exit_code == 0, result.output
    expected = predict_split(run.model, run.data, 'val', 3,
                             temperature=run.calibration['temperature'])
    assert pq.read_table(tmp_path / 'x.parquet').to_pydict() == expected
    result = invoke('export', run.path, '--out', tmp_path / 'x.nt', '--predictions', '--new',
                    '--top', 1)
    assert result.exit_code == 0, result.output
    lines = (tmp_path / 'x.nt').read_text().splitlines()
    assert lines
    assert all(line.startswith('<urn:pyg-mmkgc:entity:') for line in lines)


def test_pretrained(run, tmp_path):
    result = invoke('export', run.path, '--out', tmp_path / 'out', '--format', 'pretrained',
                    '--features')
    assert result.exit_code == 0, result.output
    model = KGModel.from_pretrained(tmp_path / 'out')
    assert isinstance(model, MoCME)
    assert model.temperature == run.calibration['temperature']
    assert model.predict(head='France', relation='borders') == run.predict(
        head='France', relation='borders')
    assert evaluate(model, run.data, 'test').to_dict() == evaluate(
        run.model, run.data, 'test').to_dict()

    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'Dataset `tiny`: 7 entities, 2 relations; triples: 7 in `train`, 2 in `val`, 3' in card
    assert 'Entities that have a modality: `text` 100%.' in card
    for values in (run.metrics['test'], run.metrics['test']['baseline']):
        both = values['both']
        assert (f'| test | {values["model"]} | both | {both["mrr"]:.4f} | {both["hits@1"]:.4f} | '
                f'{both["hits@3"]:.4f} | {both["hits@10"]:.4f} | {both["mr"]:.4f} |') in card
    assert 'filtered by train, val, test; realistic ties' in card
    assert run.config['data']['triples'] in card
    assert '`model.attach' not in card
    # Nothing says whose machine it was.
    everything = ''.join(path.read_text() for path in (tmp_path / 'out').iterdir()
                         if path.suffix != '.safetensors')
    assert str(run.path.parent) not in everything

    # And it is reproduced from what stands there.
    again = train_run(run.config['dataset'], str(tmp_path / 'out' / 'recipe.yaml'),
                      out=tmp_path / 'again')
    assert all(torch.equal(x, y) for x, y in zip(again.model.state_dict().values(),
                                                 run.model.state_dict().values(), strict=True))


def test_pretrained_of_an_interrupted_run(run, tmp_path):
    loaded = load_run(run.path, data=run.data, device='cpu')
    loaded.metrics, loaded.calibration = {}, {}
    loaded.save_pretrained(tmp_path / 'out', triples=False)
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'The training was interrupted, so there are none.' in card
    assert 'Not calibrated.' in card
    assert MoCME.from_pretrained(tmp_path / 'out').temperature is None


def test_scorer(run, tmp_path):
    result = invoke('export', run.path, '--out', tmp_path / 'x.pt2', '--format', 'scorer')
    assert result.exit_code == 0, result.output
    index = torch.tensor([0, 3, 6]), torch.tensor([0, 1, 3])
    found = torch.export.load(tmp_path / 'x.pt2').module()(*index)
    torch.testing.assert_close(found, run.model.score_all(*index).detach())


def test_neighbours(run):
    result = invoke('neighbours', run.path, 'france', '--modality', 'text', '--top', 2, '--json')
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found) == 2
    assert 'France' not in [neighbour['entity'] for neighbour in found]
    result = invoke('neighbours', run.path, 'France', '--modality', 'text', '--top', 2)
    assert [line for line in result.stdout.splitlines() if found[0]['entity'] in line]
    assert f'{found[1]["similarity"]:.4f}' in result.stdout
    assert 'France, by text' in result.stdout


@pytest.mark.parametrize('command', [export, neighbours], ids=['export', 'neighbours'])
def test_examples_of_the_help_parse(command):
    result = invoke(command.name, '--help')
    assert result.exit_code == 0
    examples = [shlex.split(line) for line in map(str.strip, result.stdout.splitlines())
                if line.startswith('pyg-mmkgc ')]
    assert examples
    for _, name, *arguments in examples:
        assert name == command.name
        command.make_context(name, arguments)


@pytest.mark.parametrize('arguments,message', [
    (['export', '--out', 'x', '--format', 'pretrained', '--what', 'entities'],
     '--what is for vectors'),
    (['export', '--out', 'x', '--predictions', '--what', 'entities'], '--what is for vectors'),
    (['export', '--out', 'x', '--features'], '--features and --no-triples are for --format'),
    (['export', '--out', 'x.csv', '--predictions'], 'x.csv: expected a file of predictions'),
    (['export', '--out', 'x', '--format', 'scorer'], "'path' needs to end in '.pt2'"),
    (['export', '--out', '.'], "'.' exists and is not overwritten"),
    (['export', '--out', 'x', '--format', 'csv'], "'csv' is not one of"),
    (['neighbours', 'Frankreich'], "Unknown entity 'Frankreich'"),
    (['neighbours', 'France', '--modality', 'smell'], "Unknown view 'smell' of MoCME"),
])
def test_errors(arguments, message, run):
    result = invoke(arguments[0], run.path, *arguments[1:])
    assert result.exit_code == 2, result.output
    assert message in ' '.join(result.stderr.split())
    assert 'Traceback' not in result.output
