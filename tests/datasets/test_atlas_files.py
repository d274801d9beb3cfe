"""The files of Atlas that ship in the wheel, read without the library."""

import json
import struct
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

Triple = tuple[str, str, str]

FOLDER = Path(__file__).resolve().parents[2] / 'pyg_mmkgc' / 'datasets' / 'data' / 'atlas'
SPLITS = ('train', 'val', 'test', 'inductive_test')
NUM_TRIPLES = {'train': 1723, 'val': 308, 'test': 1080, 'inductive_test': 347}
NUM_PER_RELATION = {
    'borders': 646, 'calling_zone': 244, 'formerly_used_currency': 88, 'in_family': 421,
    'in_subregion': 249, 'official_language': 483, 'part_of': 22, 'spoken_language': 528,
    'subfamily_of': 51, 'uses_currency': 256, 'written_in': 470,
}
NUM_PER_TYPE = {'calling_zone': 9, 'country': 249, 'currency': 167, 'family': 73,
                'language': 470, 'region': 27, 'script': 38}
FEATURES = {'image': (249, 192), 'numeric': (248, 71), 'outline': (237, 192), 'text': (1033, 384)}
SIGNATURE = {
    'borders': ('country', 'country'), 'calling_zone': ('country', 'calling_zone'),
    'formerly_used_currency': ('country', 'currency'), 'in_family': ('language', 'family'),
    'in_subregion': ('country', 'region'), 'official_language': ('country', 'language'),
    'part_of': ('region', 'region'), 'spoken_language': ('country', 'language'),
    'subfamily_of': ('family', 'family'), 'uses_currency': ('country', 'currency'),
    'written_in': ('language', 'script'),
}


def read_rows(name: str) -> list[tuple[str, ...]]:
    text = (FOLDER / f'{name}.tsv').read_text(encoding='utf-8')
    return [tuple(line.split('\t')) for line in text.splitlines()]


@pytest.fixture(scope='module')
def entities() -> list[tuple[str, ...]]:
    header, *rows = read_rows('entities')
    assert header == ('label', 'type', 'code')
    return rows


@pytest.fixture(scope='module')
def splits() -> dict[str, list[Triple]]:
    return {name: read_rows(name) for name in SPLITS}


@pytest.fixture(scope='module')
def triples(splits: dict[str, list[Triple]]) -> list[Triple]:
    return [triple for part in splits.values() for triple in part]


@pytest.fixture(scope='module')
def card() -> dict:
    return json.loads((FOLDER / 'modalities.json').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def features() -> dict[str, np.ndarray]:
    return load_file(FOLDER / 'features.safetensors')


def test_entities(entities):
    assert Counter(type_ for _, type_, _ in entities) == NUM_PER_TYPE
    assert len({label for label, _, _ in entities}) == len(entities)
    assert all(label.strip() == label != '' for label, _, _ in entities)
    assert [row[1:] for row in entities] == sorted({row[1:] for row in entities})


def test_relations(triples):
    header, *rows = read_rows('relations')
    assert header == ('label', 'description')
    labels = [label for label, _ in rows]
    assert labels == sorted(NUM_PER_RELATION)
    assert all(description for _, description in rows)
    assert Counter(relation for _, relation, _ in triples) == NUM_PER_RELATION


def test_triples_fit_their_relation(entities, triples):
    type_of = {label: type_ for label, type_, _ in entities}
    assert {label for head, _, tail in triples for label in (head, tail)} == set(type_of)
    for head, relation, tail in triples:
        assert (type_of[head], type_of[tail]) == SIGNATURE[relation]
        assert head != tail


def test_splits_are_disjoint(splits, triples):
    assert {name: len(part) for name, part in splits.items()} == NUM_TRIPLES
    assert all(part == sorted(part) for part in splits.values())
    assert len(set(triples)) == len(triples)


def test_one_pair_one_relation(triples):
    # In particular: official and spoken languages, current and former currencies are disjoint.
    assert len({(head, tail) for head, _, tail in triples}) == len(triples)


def test_training_mentions_everything(splits):
    seen = {label for triple in splits['train'] for label in triple}
    for name in ('val', 'test'):
        assert {label for triple in splits[name] for label in triple} <= seen
    assert {relation for _, relation, _ in splits['train']} == set(NUM_PER_RELATION)
    assert all(relation != 'part_of' for name in SPLITS[1:] for _, relation, _ in splits[name])


def test_held_out_countries(entities, splits, card):
    held_out = {entities[i][0] for i in card['held_out']}
    assert len(held_out) == 22
    assert {entities[i][1] for i in card['held_out']} == {'country'}
    for name in ('train', 'val', 'test'):
        assert all(held_out.isdisjoint((head, tail)) for head, _, tail in splits[name])
    for head, _, tail in splits['inductive_test']:
        assert not held_out.isdisjoint((head, tail))
    assert held_out <= {label for triple in splits['inductive_test'] for label in triple}


def test_borders_are_symmetric_within_a_split(splits):
    for part in splits.values():
        pairs = {(head, tail) for head, relation, tail in part if relation == 'borders'}
        assert pairs
        assert pairs == {(tail, head) for head, tail in pairs}


@pytest.mark.parametrize('modality, shape', sorted(FEATURES.items()))
def test_features(features, entities, card, modality, shape):
    values, index = features[modality], features[f'{modality}_index']
    assert values.shape == shape
    assert values.dtype == np.float16
    assert index.shape == shape[:1]
    assert index.dtype == np.int32
    assert (np.diff(index) > 0).all()
    assert 0 <= index[0]
    assert index[-1] < len(entities)
    assert np.isfinite(values).all()
    assert (values.astype(np.float32).std(axis=0) > 0).any()
    assert len(np.unique(values, axis=0)) > 0.8 * len(values)
    info = card['modalities'][modality]
    assert (info['num_entities'], info['num_columns']) == shape
    assert info['coverage'] == pytest.approx(shape[0] / len(entities), abs=1e-4)
    if modality != 'text':
        assert {entities[i][1] for i in index} == {'country'}


def test_features_has_no_other_tensors(features, card):
    assert set(features) == {*FEATURES, *(f'{name}_index' for name in FEATURES)}
    assert set(card['modalities']) == set(FEATURES)


def test_numeric_columns(features, entities, card):
    columns = card['modalities']['numeric']['columns']
    row_of = {entities[i][0]: row for row, i in enumerate(features['numeric_index'])}
    table = dict(zip(columns, features['numeric'].astype(np.float64).T, strict=True))
    position = np.stack([table[axis] for axis in 'xyz'], axis=1) / 3**0.5
    assert np.linalg.norm(position, axis=1) == pytest.approx(1, abs=2e-3)

    def distance_km(a: str, b: str) -> float:
        return 6371 * np.arccos(np.clip(position[row_of[a]] @ position[row_of[b]], -1, 1))

    assert distance_km('France', 'Belgium') < 700
    assert distance_km('Portugal', 'New Zealand') > 18000
    assert table['z'][row_of['Brazil']] < 0 < table['z'][row_of['Canada']]
    assert table['log_area'].argmax() == row_of['Russia']
    assert table['log_population'][row_of['India']] > table['log_population'][row_of['Norway']]

    held_out = set(card['held_out'])
    train = np.array([i not in held_out for i in features['numeric_index']])
    for name in ('log_area', 'log_population', 'log_gdp_per_head', 'literacy'):
        missing = table[f'{name}_missing']
        assert set(np.unique(missing)) == {0, 1}
        assert (table[name][missing == 1] == 0).all()
        known = table[name][train & (missing == 0)]
        assert known.mean() == pytest.approx(0, abs=1e-2)
        assert known.std() == pytest.approx(1, abs=1e-2)


def test_text_is_a_unit_vector_and_means_something(features, entities):
    text = features['text'].astype(np.float32)
    assert np.linalg.norm(text, axis=1) == pytest.approx(1, abs=1e-2)
    row = {label: i for i, (label, _, _) in enumerate(entities)}
    french = text @ text[row['French']]
    assert french[row['France']] > french[row['Thailand']]


def test_same_flag_same_features(features, entities):
    row = {entities[i][0]: row for row, i in enumerate(features['image_index'])}
    flags = features['image'].astype(np.float32)
    for a, b in [('Réunion', 'France'), ('U.S. Outlying Islands', 'United States')]:
        assert np.abs(flags[row[a]] - flags[row[b]]).max() < 0.02
    assert np.abs(flags[row['Japan']] - flags[row['France']]).max() > 1


def test_thumbnails(features):
    with zipfile.ZipFile(FOLDER / 'thumbnails.zip') as archive:
        names = archive.namelist()
        assert names == [f'{modality}/{i}.png' for modality in ('image', 'outline')
                         for i in features[f'{modality}_index']]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for name in names:
            png = archive.read(name)
            assert png[:8] == b'\x89PNG\r\n\x1a\n'
            width, height = struct.unpack('>II', png[16:24])  # the header chunk comes first
            assert (width, height) == (64, 48 if name.startswith('image') else 64)


def test_sizes():
    assert (FOLDER / 'thumbnails.zip').stat().st_size < 700_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_700_000
    assert (FOLDER / 'features.safetensors').stat().st_size < 2_000_000


def test_card_names_its_sources(card):
    assert all(len(source['sha256']) == 64 for source in card['sources'].values())
    assert 'world-countries' not in card['sources']  # ODbL, which this package could not carry
    assert isinstance(card['build']['seed'], int)


@pytest.mark.parametrize('fact', [
    ('France', 'borders', 'Spain'),
    ('Spain', 'borders', 'France'),
    ('Brazil', 'official_language', 'Portuguese'),
    ('Switzerland', 'official_language', 'Romansh'),
    ('Japan', 'uses_currency', 'Japanese Yen'),
    ('Germany', 'formerly_used_currency', 'German Mark'),
    ('Ecuador', 'uses_currency', 'US Dollar'),
    ('Kenya', 'in_subregion', 'Eastern Africa'),
    ('Eastern Africa', 'part_of', 'Africa'),
    ('Canada', 'calling_zone', 'Calling zone 1'),
    ('Russian', 'written_in', 'Cyrillic'),
    ('Hindi', 'written_in', 'Devanagari'),
    ('Swahili', 'in_family', 'Bantu languages'),
    ('Germanic languages', 'subfamily_of', 'Indo-European languages'),
    ('United Kingdom', 'spoken_language', 'Scots'),
])
def test_known_facts(triples, fact):
    assert fact in triples


@pytest.mark.parametrize('error', [
    ('France', 'borders', 'Portugal'),
    ('Japan', 'uses_currency', 'Euro'),
    ('Germany', 'uses_currency', 'German Mark'),
    ('English', 'written_in', 'Cyrillic'),
])
def test_known_falsehoods(triples, error):
    assert error not in triples
