import json
import logging
import re
import statistics

import pytest
import yaml

from pyg_mmkgc.studies import results_tables
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import train_run

SMALL = ['hidden_channels=8', 'model.num_experts=1', 'sampler.num_negatives=4']


def train(path, seed=0, model='mocme', overrides=SMALL, **kwargs):
    return train_run(FakeMMKG(inductive=True), model, epochs=1, seed=seed, overrides=overrides,
                     out=path, **kwargs)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs')
    for seed in (0, 1, 2):
        train(path / f'a{seed}', seed)
    train(path / 'b', overrides=[*SMALL, 'lr=0.3'])
    return path


@pytest.fixture
def copied(runs, tmp_path):
    # What is committed of a run: no weights.
    for run in runs.iterdir():
        (tmp_path / run.name).mkdir()
        for name in ('config.yaml', 'metrics.json', 'metrics-inductive_test.json'):
            (tmp_path / run.name / name).write_text((run / name).read_text())
    return tmp_path


def metrics(path, split=''):
    return json.loads((path / f'metrics{split}.json').read_text())


def table(text, title, first):
    r"""The cells of a row of the first table behind a title."""
    part = text[text.index(title):]
    row = next(line for line in part.splitlines() if line.startswith(f'| {first} |'))
    return [cell.strip() for cell in row.strip('|').split('|')]


def spread(values):
    values = [100 * value for value in values]
    return f'{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}'


def test_rows_are_mean_and_deviation_over_seeds(copied):
    text = results_tables([copied])
    assert re.findall('^## .*', text, re.MULTILINE) == ['## fakemmkg: test',
                                                         '## fakemmkg: inductive_test']
    for split, title in [('', '## fakemmkg: test'),
                         ('-inductive_test', '## fakemmkg: inductive_test')]:
        seeds = [metrics(copied / f'a{seed}', split) for seed in (0, 1, 2)]
        row = table(text, title, 'mocme (train.lr=0.1)')
        assert row[1:3] == ['3', spread([run['both']['mrr'] for run in seeds])]
        mean = statistics.mean(run['both']['mr'] for run in seeds)
        assert row[7].startswith(f'{mean:.0f} ± ')
        assert table(text, title, 'mocme (train.lr=0.3)')[1] == '1'
        baseline = [run['baseline']['both']['mrr'] for run in seeds]
        assert table(text, title, 'complex')[1:3] == ['3', spread(baseline)]
    assert 'filtered by train, val, test, inductive_test, realistic ranks' in text


@pytest.mark.parametrize('key,title', [('by_relation_class', 'MRR by relation class'),
                                       ('by_seen', 'MRR by whether both'),
                                       ('by_degree', 'MRR by degree'),
                                       ('by_modalities', 'MRR by the modalities')])
def test_groups(copied, key, title):
    text = results_tables([copied])
    header, row = table(text, title, 'model'), table(text, title, 'mocme (train.lr=0.1)')
    seeds = [metrics(copied / f'a{seed}') for seed in (0, 1, 2)]
    assert len(header) == 1 + len(seeds[0][key])
    for column, value in zip(header[1:], row[1:], strict=True):
        name, count = re.fullmatch(r'(.*) \((\d+)\)', column).groups()
        assert int(count) == seeds[0][key][name]['count']
        assert value == spread([run[key][name]['mrr'] for run in seeds])
    if key == 'by_degree':
        bins = ['0', '1-2', '3-5', '6-10', '11-20', '>20']
        names = [column.split(' ')[0] for column in header[1:]]
        assert names == [name for name in bins if name in names]


def test_a_single_run_and_one_of_the_baseline(copied, tmp_path):
    text = results_tables([copied / 'a0'])
    assert '±' not in text.split('\n\n')[1]
    assert table(text, '## fakemmkg: test', 'mocme')[1] == '1'
    train(tmp_path / 'c', model='complex', overrides=['lr=0.2'])
    text = results_tables([copied / 'a0', tmp_path / 'c'])
    assert text.count('| complex |') == text.count('| mocme |')  # Not those beside the runs, too.
    assert table(text, '## fakemmkg: test', 'complex')[2] == (
        f'{100 * metrics(tmp_path / "c")["both"]["mrr"]:.1f}')


def test_runs_without_a_group_leave_its_cells_empty(copied):
    values = metrics(copied / 'b')
    for part in (values, values['baseline']):
        del part['by_degree']
    (copied / 'b' / 'metrics.json').write_text(json.dumps(values))
    row = table(results_tables([copied]), 'MRR by degree', 'mocme (train.lr=0.3)')
    assert set(row[1:]) == {''}


def test_unfinished_runs_are_left_out(copied, caplog):
    (copied / 'b' / 'metrics.json').unlink()
    with caplog.at_level(logging.WARNING):
        text = results_tables([copied])
    assert 'train.lr' not in text
    assert re.search(r"The run '.*b' is not finished, and left out", caplog.text)


def test_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder '.*nowhere'"):
        results_tables([tmp_path / 'nowhere'])
    with pytest.raises(FileNotFoundError, match='There is no finished run in'):
        results_tables([tmp_path])


def test_what_does_not_belong_together(copied):
    values = metrics(copied / 'a1')
    values['seed'] = 0
    (copied / 'a1' / 'metrics.json').write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"a0.*' and '.*a1.*' have the same options and the "
                                         r'seed 0, but other figures'):
        results_tables([copied])
    values = metrics(copied / 'b')
    values['protocol']['ties'] = 'optimistic'
    (copied / 'b' / 'metrics.json').write_text(json.dumps(values))
    with pytest.raises(ValueError, match='was ranked by another protocol than'):
        results_tables([copied / 'a0', copied / 'b'])
    config = yaml.safe_load((copied / 'a2' / 'config.yaml').read_text())
    config['data']['features'] = 'x'
    (copied / 'a2' / 'config.yaml').write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match='are of one dataset, but not of the same data'):
        results_tables([copied / 'a0', copied / 'a2'])


@pytest.mark.parametrize('name,text,message', [
    ('metrics.json', '{"split"', r"metrics.json' is damaged \("),
    ('metrics.json', '{"split": 1}', r"metrics.json' is damaged or of another version \('seed'"),
    ('config.yaml', 'a: 1', r"config.yaml' is damaged or of another version \('name'"),
])
def test_damaged_files(copied, name, text, message):
    (copied / 'a0' / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        results_tables([copied / 'a0'])
    (copied / 'a1' / 'config.yaml').unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*config.yaml'"):
        results_tables([copied / 'a1'])
