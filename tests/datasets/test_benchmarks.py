"""What all five published benchmarks have in common."""
import json
import re
import time
from pathlib import Path

import pytest

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.datasets import DB15K, KVC16K, MKGW, MKGY, TIVA
from pyg_mmkgc.training import fingerprint

BENCHMARKS = [DB15K, MKGW, MKGY, TIVA, KVC16K]
CARDS = Path(__file__).resolve().parents[2] / 'datasets'

pytestmark = pytest.mark.real_data


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


@pytest.mark.parametrize('cls', BENCHMARKS)
def test_declaration_agrees_with_the_sources(cls, mirror):
    sources = json.loads((mirror / 'SOURCES.json').read_text())
    sources = {name: entry for name, entry in sources.items() if name.startswith(f'{cls.name}/')}
    assert {f'{cls.name}/{file.name}' for file in cls.files} == set(sources)
    for file in cls.files:
        entry = sources[f'{cls.name}/{file.name}']
        assert file.sha256 == entry['sha256']
        assert f'github {file.repo} @ {file.commit} : {file.path}' in entry['source']
        assert file.optional == ('joined' in entry['source'] or 'rewritten' in entry['source'])


@pytest.mark.parametrize('cls', BENCHMARKS)
def test_time(cls, mirror, root):
    start = time.process_time()
    first = cls(root, features=None, mirror=mirror)[0]
    assert time.process_time() - start < 3
    start = time.process_time()
    again = cls(root, features=None)[0]
    assert time.process_time() - start < 0.3
    assert fingerprint(first) == fingerprint(again)


@pytest.mark.parametrize('cls', BENCHMARKS)
def test_clean_splits(cls, mirror, root, benchmark_facts):
    official = benchmark_facts(cls, root, mirror)
    clean = benchmark_facts(cls, root, mirror, 'clean')
    assert clean.lines == clean.distinct
    assert clean.in_train == {'val': 0, 'test': 0}
    assert clean.in_val_and_test == 0
    assert clean.spent == []
    assert clean.sets['test'] == official.sets['test']  # Comparable with the published one.
    assert set().union(*clean.sets.values()) == set().union(*official.sets.values())
    assert clean.distinct['val'] > 0.015 * clean.distinct['train']


@pytest.mark.parametrize('cls', BENCHMARKS)
def test_features_from_labels(cls, mirror, root):
    dataset = cls(root, mirror=mirror)
    start = time.process_time()
    again = cls(root)
    assert time.process_time() - start < 0.3
    assert dataset.features == 'labels'
    data = dataset[0]
    assert list(data.feature_sources) == list(sorted(data.feature_sources, reverse=True))
    assert sorted(data.feature_sources) == modality_names(data)
    assert bool(data['entity'].text_mask.all())
    assert fingerprint(data) == fingerprint(again[0])
    assert len(set(data['entity'].label)) == dataset.num_entities
    assert data.validate()


@pytest.mark.parametrize('cls', BENCHMARKS)
def test_card(cls):
    """Every file of the benchmark has an origin, a commit and a licence there."""
    card = (CARDS / cls.__name__.lower() / 'README.md').read_text(encoding='utf-8')
    rows = [line for line in card.splitlines() if line.startswith('| `')]
    for file in cls.files:
        row, = (row for row in rows if f'`{file.name}`' in row.split('|')[1])
        assert file.repo in row
        assert file.commit[:7] in row
        assert len(row.split('|')) == 5  # File, origin, licence.
        assert row.split('|')[3].strip()
    # The same counts as in the docstring.
    for number in re.findall(r'\d+,\d{3}', cls.__doc__):
        assert number in card, number
