import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from pyg_mmkgc.data import set_triples
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.studies import Line, Look, Row, Study, run_study
from pyg_mmkgc.studies import runner as runner_module
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import Fit, find_recipe, trainer
from pyg_mmkgc.transforms import DropModality, PermuteModality

SMALL = {'model.hidden_channels': 8, 'train.epochs': 2, 'train.eval_every': 1, 'train.lr': 0.05}


def rows(recipe, data, modalities=None):
    half = (partial(DropModality, 0.5), )
    return [
        Row('a', recipe, looks=(Look('a', (), ('x', 'y'), 0.0), Look('half', half, ('x', ), 0.5))),
        Row('b', recipe.override({'train.lr': 0.2}), (partial(PermuteModality, ['text']), )),
    ]


def findings(lines):
    return [f'{name} is {line.mrr():.3f}' for name, line in lines.items()]


STUDY = Study('tiny', 'Does it run', rows, lambda names: [('a', 'b'), ('a', 'half')], findings)


def run(path, study=STUDY, dataset=None, **kwargs):
    kwargs = {'seeds': 2, 'overrides': SMALL, **kwargs}
    return run_study(study, dataset or FakeMMKG(inductive=True), 'mocme', out=path, **kwargs)


def cells(path):
    return {file.name: json.loads(file.read_text()) for file in (path / 'cells').iterdir()}


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    path = tmp_path_factory.mktemp('study')
    return path, run(path)


def test_folder(done):
    path, report = done
    assert {file.name for file in path.iterdir()} == {'cells', 'figure.png', 'results.json',
                                                      'table.md'}
    assert set(cells(path)) == {'a-0.json', 'a-1.json', 'b-0.json', 'b-1.json'}
    assert (path / 'table.md').read_text() == report.to_markdown()
    assert (path / 'figure.png').read_bytes().startswith(b'\x89PNG')
    assert report.missing == 0


def test_cell_holds_what_made_it(done):
    cell = cells(done[0])['a-1.json']
    assert (cell['study'], cell['row'], cell['seed']) == ('tiny', 'a', 1)
    assert cell['key']['recipe']['train']['seed'] == 1
    assert cell['key']['recipe']['train']['lr'] == 0.05
    assert cell['key']['looks'] == {'a': [], 'half': [
        "DropModality(0.5, modalities=None, seed=1, where='all')"]}
    assert set(cell['key']['data']) == {'triples', 'labels', 'features'}
    assert cell['machine']['threads'] == 1
    assert [entry['epoch'] for entry in cell['history']] == [1, 2]
    metrics = cell['looks']['half']['test']
    for side in ('head', 'tail'):
        ranks = torch.tensor(metrics['ranks'][side], dtype=torch.double)
        assert float(ranks.reciprocal().mean()) == pytest.approx(metrics[side]['mrr'])
    assert set(cell['looks']['a']) == {'test', 'inductive_test'}


def test_cell_is_what_fit_and_evaluate_say(done):
    cell = cells(done[0])['b-1.json']
    data = FakeMMKG(inductive=True)[0]
    recipe = find_recipe('mocme').override(SMALL).override({'train.lr': 0.2, 'train.seed': 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit = Fit(recipe, PermuteModality(['text'], seed=1)(data))
        result = fit()
        test = evaluate(fit.model, data, 'test').to_dict()
    finally:
        torch.set_num_threads(threads)
    assert cell['val_mrr'] == result.best_mrr
    assert {key: cell['looks']['b']['test'][key] for key in test} == test


def test_lines_and_comparisons(done):
    path, report = done
    assert [line.look for line in report.lines] == ['a', 'half', 'b']
    line = report.lines[1]
    assert isinstance(line, Line)
    values = [cells(path)[f'a-{seed}.json']['looks']['half']['test']['both']['mrr']
              for seed in (0, 1)]
    assert line.metrics['test']['mrr'] == values
    assert line.mrr() == pytest.approx(sum(values) / 2)
    assert line.seeds == [0, 1]
    first = report.comparisons[0]
    assert (first.first, first.second, first.split) == ('a', 'b', 'test')
    assert first.gain.mean == pytest.approx(report.lines[0].mrr() - report.lines[2].mrr())
    assert first.gain.low < first.gain.mean < first.gain.high
    assert first.by_seed == pytest.approx([
        a - b for a, b in zip(report.lines[0].metrics['test']['mrr'],
                              report.lines[2].metrics['test']['mrr'], strict=True)])
    text = report.to_markdown()
    assert f'| half | 2 | {100 * sum(line.val_mrr) / 2:.1f} ± ' in text
    assert f'{100 * line.mrr():.1f} ± ' in text
    assert 'a over half' in text
    assert f'- half is {line.mrr():.3f}' in text
    assert 'chosen on validation' in text
    saved = json.loads((path / 'results.json').read_text())
    assert saved['lines'][1]['metrics']['test']['mrr'] == values
    assert saved['comparisons'][0]['gain']['mean'] == first.gain.mean


def test_equal_seeds_give_equal_results_in_any_process(done, tmp_path):
    run(tmp_path, workers=2)
    for name, cell in cells(tmp_path).items():
        assert cell['looks'] == cells(done[0])[name]['looks']
        assert cell['val_mrr'] == cells(done[0])[name]['val_mrr']
    assert cells(tmp_path)['a-0.json']['looks'] != cells(tmp_path)['a-1.json']['looks']


def test_goes_on_where_it_was(done, tmp_path, monkeypatch):
    begun, real = [], runner_module._run

    def counting(cell):
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(cell.path.name)
        return real(cell)

    monkeypatch.setattr(runner_module, '_run', counting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert sorted(cells(tmp_path)) == ['a-0.json', 'b-0.json']
    assert '2 cells are not finished' in (tmp_path / 'table.md').read_text()
    kept = {name: (tmp_path / 'cells' / name).stat().st_mtime_ns for name in cells(tmp_path)}
    monkeypatch.setattr(runner_module, '_run', real)
    report = run(tmp_path)
    assert report.missing == 0
    assert all((tmp_path / 'cells' / name).stat().st_mtime_ns == t for name, t in kept.items())
    assert report.to_markdown().split('seconds')[0] == done[1].to_markdown().split('seconds')[0]
    assert [line.metrics for line in report.lines] == [line.metrics for line in done[1].lines]


def test_ctrl_c_in_a_training_leaves_no_cell(tmp_path, monkeypatch):
    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, '_epoch', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / 'cells').exists()


def test_killed_midway_goes_on_where_it_was(tmp_path):
    code = ('from pyg_mmkgc.cli import main; main()')
    command = [sys.executable, '-c', code, 'study', 'control', '--seeds', '3', '--out',
               str(tmp_path / 's'), '--row', 'structure only', '--set', 'train.epochs=2']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob('s/cells/*-0.json')) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(getattr(signal, 'SIGKILL', signal.SIGTERM))
        process.wait()
    first, = tmp_path.glob('s/cells/*-0.json')
    written = first.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert '| structure only | 3 |' in done.stdout
    assert first.stat().st_mtime_ns == written
    assert len([f for f in (tmp_path / 's' / 'cells').iterdir() if f.suffix == '.json'
                and not f.name.startswith('.')]) == 3


@pytest.mark.parametrize('change,words', [
    ({'overrides': {**SMALL, 'train.lr': 0.3}}, r'recipe\.train\.lr differ from row'),
    ({'dataset': FakeMMKG(inductive=True, seed=1)}, r'data\.features, data\.triples differ'),
    ({'study': replace(STUDY, rows=lambda *args: [
        replace(rows(*args)[0], looks=(Look('a', (partial(DropModality, 0.1), )), ))])},
     r'looks\.a, looks\.half differ'),
])
def test_cells_of_another_study_are_never_mixed_in(done, change, words):
    before = cells(done[0])
    with pytest.raises(ValueError, match=rf"a-0.json' is of another study: {words}.* name another "
                                         rf'folder'):
        run(done[0], **change)
    assert cells(done[0]) == before


def test_damaged_cell(done, tmp_path):
    (tmp_path / 'cells').mkdir()
    (tmp_path / 'cells' / 'a-0.json').write_text('{"study": 1}')
    with pytest.raises(ValueError, match=r"a-0.json' is damaged or no cell of a study \('key'"):
        run(tmp_path)


def test_rows_by_pattern(tmp_path):
    report = run(tmp_path, rows=['b*'], seeds=1)
    assert list(cells(tmp_path)) == ['b-0.json']
    assert report.missing == 1
    assert report.comparisons == []


def test_a_failing_cell_does_not_stop_the_others(tmp_path, monkeypatch):
    real = runner_module._run

    def failing(cell):
        if cell.row.name == 'a':
            raise FloatingPointError('the loss is not finite')
        return real(cell)

    monkeypatch.setattr(runner_module, '_run', failing)
    with pytest.raises(FloatingPointError, match=r"2 of 4 cells failed; first row 'a', seed 0"):
        run(tmp_path)
    assert set(cells(tmp_path)) == {'b-0.json', 'b-1.json'}


def test_test_triples_are_not_looked_at_before_the_end(tmp_path, monkeypatch):
    looked, real = [], evaluate

    def spy(where):
        def evaluate(model, data, split, **kwargs):
            looked.append((where, split))
            return real(model, data, split, **kwargs)
        return evaluate

    monkeypatch.setattr(trainer, 'evaluate', spy('training'))
    monkeypatch.setattr(runner_module, 'evaluate', spy('end'))
    run(tmp_path, seeds=1, rows=['a'])
    assert looked == [('training', 'val')] * 2 + [
        ('end', split) for _ in ('a', 'half') for split in ('test', 'inductive_test')]


def test_a_recipe_that_chooses_on_test_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"chooses on 'val' alone: recipe 'momok-as-released' has "
                                         r"'train.select' 'test'"):
        run_study(STUDY, FakeMMKG(), 'momok-as-released', out=tmp_path)
    with pytest.raises(ValueError, match="'train.gate_split' 'test'"):
        run(tmp_path, overrides={**SMALL, 'train.gate_split': 'test'})


@pytest.mark.parametrize('kwargs,message', [
    ({'seeds': 0}, "'seeds' needs to be at least 1"),
    ({'workers': 0}, "'workers' needs to be at least 1"),
    ({'modalities': ['text']}, r"Study 'tiny' is about all modalities \(got \['text'\]\)"),
    ({'rows': ['c']}, r"No row is named 'c' \(expected some of \['a', 'b'\]\)"),
    ({'study': replace(STUDY, by_modality=True), 'modalities': ['smell']},
     r"Unknown modality 'smell' \(expected some of \['image', 'numeric', 'text'\]\)"),
])
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **kwargs)


def test_data_without_test_triples(tmp_path):
    dataset = FakeMMKG()
    data = dataset._data
    del data['entity', 'to', 'entity'].test_edge_label_type
    with pytest.raises(ValueError, match="The data has no split 'test'"):
        run(tmp_path, dataset=dataset)
    set_triples(data, 'test', torch.tensor([[0, 0, 1]]))


def test_threads_are_left_as_they_were(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(tmp_path, seeds=1, rows=['b'])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
