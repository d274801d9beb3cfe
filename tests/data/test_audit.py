import builtins
import json
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import build_data, clean_splits, set_modality
from pyg_mmkgc.data.audit import (
    MIN_SHARE,
    MIN_SHARED,
    RELATION_CLASSES,
    Audit,
    Finding,
    audit,
    relation_classes,
)
from pyg_mmkgc.datasets.openke import read_openke
from pyg_mmkgc.testing import FakeMMKG

AUDIT = sys.modules['pyg_mmkgc.data.audit']
PNG = b'\x89PNG\r\n\x1a\n'

# A married couple is one both ways round (relation 0, symmetric), `parent` (1) is `child` (2) in
# reverse, `plays` (3) says what `member` (4) says, `lives` (5) says nothing of the kind.
RELATIONS = ['spouse', 'parent', 'child', 'plays', 'member', 'lives', 'never']
TRAIN = [
    *[row for i in range(6) for row in [(2 * i, 0, 2 * i + 1), (2 * i + 1, 0, 2 * i)]],
    (12, 0, 13),
    *[row for i in range(5) for row in [(i, 1, i + 10), (i + 10, 2, i)]],
    (6, 1, 16), (7, 1, 17), (17, 2, 7),
    *[row for i in range(8) for row in [(i, 3, 18), (i, 4, 18)]],
    *[(i, 5, 19) for i in range(18)],
    (18, 5, 18),
    (0, 0, 1), (0, 0, 1), (18, 5, 18),
]
TEST = [(13, 0, 12),  # symmetric
        (16, 2, 6),  # inverse
        (9, 4, 18),  # linked by `lives`? no: neither
        (9, 5, 18), (19, 4, 3),  # the second is linked: 3 lives in 19
        (0, 5, 19), (0, 5, 19),  # in train
        (20, 6, 1)]  # unseen entity and relation
VAL = [(9, 3, 18), (19, 5, 19), (16, 2, 6)]

ids = st.integers(0, 4)
rows = st.lists(st.tuples(ids, st.integers(0, 2), ids), min_size=1, max_size=60)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.long).view(-1, 3)


def family(**splits):
    splits = {'train': TRAIN, 'val': VAL, 'test': TEST, **splits}
    return build_data({name: tensor(rows) for name, rows in splits.items()},
                      [f'entity {i}' for i in range(22)], RELATIONS)


def texts(found, topic=None):
    return [f'{f.severity}: {f.text}' for f in found.findings if topic in (None, f.topic)]


def test_splits_by_hand():
    found = audit(family(), 'family')
    assert (found.name, found.num_entities, found.num_relations) == ('family', 22, 7)
    assert found.splits == {
        'train': {'lines': 64, 'distinct': 61, 'repeats': 3, 'unseen_entities': 0,
                  'unseen_entities_distinct': 0, 'unseen_relations': 0,
                  'unseen_relations_distinct': 0},
        'val': {'lines': 3, 'distinct': 3, 'repeats': 0, 'unseen_entities': 0,
                'unseen_entities_distinct': 0, 'unseen_relations': 0,
                'unseen_relations_distinct': 0},
        'test': {'lines': 8, 'distinct': 7, 'repeats': 1, 'unseen_entities': 1,
                 'unseen_entities_distinct': 1, 'unseen_relations': 1,
                 'unseen_relations_distinct': 1},
    }
    assert found.overlap == {'train': {'train': 61, 'val': 0, 'test': 1},
                             'val': {'train': 0, 'val': 3, 'test': 1},
                             'test': {'train': 1, 'val': 1, 'test': 7}}
    assert found.entities == {'seen': 20, 'unseen': 1, 'isolated': 1}
    assert found.relations_never_in_train == [6]
    assert found.num_without_modality == 22
    assert found.modalities == {}


def test_relation_pairs_and_leakage_by_hand():
    found = audit(family())
    pairs = {(p['kind'], p['source_label'], p['target_label']): (p['shared'], p['triples'])
             for p in found.relation_pairs}
    # The reverse of (12, spouse, 13) and of (6, parent, 16) stand in test, and those count.
    assert pairs == {('symmetric', 'spouse', 'spouse'): (13, 13),
                     ('inverse', 'parent', 'child'): (7, 7),
                     ('inverse', 'child', 'parent'): (6, 6),
                     ('duplicate', 'plays', 'member'): (8, 8),
                     ('duplicate', 'member', 'plays'): (8, 8)}
    assert [p['shared'] for p in found.relation_pairs] == [13, 8, 8, 7, 6]
    assert found.relation_pairs[0] == {
        'kind': 'symmetric', 'source': 0, 'target': 0, 'source_label': 'spouse',
        'target_label': 'spouse', 'triples': 13, 'shared': 13, 'share': 1.0}
    assert found.leakage == {
        'val': {'distinct': 3, 'inverse': 1, 'symmetric': 0, 'duplicate': 0, 'any': 1,
                'linked': 1},
        'test': {'distinct': 6, 'inverse': 1, 'symmetric': 1, 'duplicate': 0, 'any': 2,
                 'linked': 3}}
    # A triple that is told twice counts once:
    found = audit(family(test=[(13, 0, 12), (6, 4, 18)], train=[*TRAIN, (6, 3, 18), (18, 4, 6)]))
    assert found.leakage['test']['any'] == 1


@pytest.mark.parametrize('shared, alone, found', [(8, 2, True), (8, 3, False), (5, 0, True),
                                                  (4, 0, False)])
def test_threshold_of_relation_pairs(shared, alone, found):
    train = [row for i in range(shared) for row in [(i, 0, 20), (i, 1, 20)]]
    train += [(i, 0, 21) for i in range(alone)]
    train += [(i, 1, 22) for i in range(20)]  # So that 1 says nothing about 0.
    pairs = audit({'train': tensor(train)}).relation_pairs
    assert [(p['source'], p['target'], p['shared']) for p in pairs] == (
        [(0, 1, shared)] if found else [])


def by_hand(splits):
    # Everything about leakage with sets and loops.
    sets = {name: set(rows) for name, rows in splits.items()}
    train, graph = sets['train'], set.union(*sets.values())
    proper = {(h, r, t) for h, r, t in train if h != t}
    pairs = {}
    for source in range(3):
        triples = {(h, t) for h, r, t in proper if r == source}
        for target in range(3):
            for reverse in (False, True):
                shared = sum(((t, target, h) if reverse else (h, target, t)) in graph
                             for h, t in triples)
                if (shared >= MIN_SHARED and shared >= MIN_SHARE * len(triples)
                        and (reverse or source != target)):
                    kind = (('symmetric' if source == target else 'inverse') if reverse else
                            'duplicate')
                    pairs[kind, source, target] = (shared, len(triples))
    leakage = {}
    for name in sets:
        if name == 'train':
            continue
        fresh = sets[name] - train
        hits = {kind: set() for kind in ('inverse', 'symmetric', 'duplicate', 'linked')}
        for h, r, t in fresh:
            for source in range(3):
                same, back = (h, source, t) in train, (t, source, h) in train
                if same or back:
                    hits['linked'].add((h, r, t))
                for kind in ('inverse', 'symmetric', 'duplicate'):
                    if (kind, source, r) in pairs and (same if kind == 'duplicate' else back):
                        hits[kind].add((h, r, t))
        told = hits['inverse'] | hits['symmetric'] | hits['duplicate']
        leakage[name] = {'distinct': len(fresh), 'any': len(told),
                         **{kind: len(found) for kind, found in hits.items()}}
    return pairs, leakage


@settings(max_examples=200, deadline=None)
@given(rows, rows, rows)
def test_against_sets(train, val, test):
    splits = {'train': train, 'val': val, 'test': test}
    found = audit({name: tensor(rows) for name, rows in splits.items()})
    sets = {name: set(rows) for name, rows in splits.items()}
    seen = {e for h, _, t in train for e in (h, t)}
    rel_seen = {r for _, r, _ in train}
    for name, part in splits.items():
        row = found.splits[name]
        assert row['lines'] == len(part)
        assert row['distinct'] == len(sets[name])
        assert row['repeats'] == len(part) - len(sets[name])
        for suffix, triples in [('', part), ('_distinct', sets[name])]:
            assert row[f'unseen_entities{suffix}'] == sum(
                not {h, t} <= seen for h, _, t in triples)
            assert row[f'unseen_relations{suffix}'] == sum(
                r not in rel_seen for _, r, _ in triples)
        for other in splits:
            assert found.overlap[name][other] == len(sets[name] & sets[other])
    pairs, leakage = by_hand(splits)
    assert {(p['kind'], p['source'], p['target']): (p['shared'], p['triples'])
            for p in found.relation_pairs} == pairs
    assert found.leakage == leakage
    everything = {e for part in sets.values() for h, _, t in part for e in (h, t)}
    assert found.entities == {'seen': len(seen), 'unseen': len(everything - seen),
                              'isolated': found.num_entities - len(everything)}
    degree = sorted(sum((h == e) + (t == e) for h, _, t in sets['train']) for e in seen)
    assert found.degrees['mean'] == pytest.approx(sum(degree) / len(degree))
    assert found.degrees['median'] == degree[(len(degree) - 1) // 2]
    assert found.degrees['max'] == degree[-1]
    bins = found.degrees['histogram']
    assert sum(row['entities'] for row in bins) == found.num_entities
    for row in bins[1:]:
        assert row['entities'] == sum(row['from'] <= d <= row['to'] for d in degree)


def test_degrees_by_hand():
    # Entity 0 has five distinct triples and a loop, which counts twice; 6 has none in train.
    train = [*[(0, 0, i) for i in range(1, 6)], (0, 0, 0), (0, 0, 1)]
    degrees = audit({'train': tensor(train), 'test': tensor([(6, 0, 1)])}).degrees
    assert degrees == {
        'mean': 12 / 6, 'median': 1, 'max': 7, 'max_entity': '0',
        'histogram': [{'from': 0, 'to': 0, 'entities': 1}, {'from': 1, 'to': 1, 'entities': 5},
                      {'from': 2, 'to': 3, 'entities': 0}, {'from': 4, 'to': 7, 'entities': 1}]}


def test_relation_classes_by_hand():
    train = [(0, 0, 1), (1, 0, 2),  # one to one
             *[(0, 1, i) for i in range(1, 4)],  # one head, three tails
             *[(i, 2, 0) for i in range(1, 4)],
             *[(i, 3, j) for i in range(2) for j in range(2, 4)],
             (0, 4, 1), (0, 4, 2), (1, 4, 3), (2, 4, 1)]  # 4/3 on both sides
    data = build_data({'train': tensor(train), 'test': tensor([(0, 1, 1), (1, 5, 2)])},
                      list('abcd'), list('rstuvw'))
    assert [RELATION_CLASSES[i] for i in relation_classes(data)] == [
        '1-1', '1-N', 'N-1', 'N-N', '1-1', 'unseen']
    assert audit(data).relation_classes == {
        '1-1': {'relations': 2, 'train': 6, 'test': 0},
        '1-N': {'relations': 1, 'train': 3, 'test': 1},
        'N-1': {'relations': 1, 'train': 3, 'test': 0},
        'N-N': {'relations': 1, 'train': 4, 'test': 0},
        'unseen': {'relations': 1, 'train': 0, 'test': 1}}


# Features #####################################################################################


def with_features(x, mask=None, name='image'):
    data = build_data({'train': tensor([(i, 0, (i + 1) % len(x)) for i in range(len(x))])},
                      [f'entity {i}' for i in range(len(x))], ['next'])
    set_modality(data, name, x, mask)
    return audit(data)


def test_features_by_hand():
    x = torch.tensor([[1., 2.], [1., 2.], [3., 3.], [0., 0.], [-0., 0.], [1., 2.001], [9., 1.],
                      [5., 4.], [1., 2.]])
    mask = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0]).bool()
    found = with_features(x, mask)
    assert found.modalities == {'image': {
        'channels': 2, 'entities': 8, 'share': 8 / 9, 'constant': 3, 'duplicate': 2,
        'largest_group': 2, 'near': 2}}
    assert found.num_without_modality == 1
    assert texts(found, 'features') == [
        'warning: image: 3 of 8 rows (38 %) hold one and the same number or zeros, which tell '
        'nothing; mask them if they are missing.',
        'info: image: 1 of 9 entities lack it.',
        'info: image: 2 of 8 rows (25 %) equal that of an earlier entity, up to 2 at once; models '
        'cannot tell these entities apart by it.',
        'info: image: 2 of 8 rows (25 %) nearly equal another one; look whether they are one '
        'entity.',
        'info: 1 of 9 entities (11 %) have no modality at all.']


def test_a_single_number_is_constant_only_if_zero():
    found = with_features(torch.tensor([[0.], [1.], [2.], [0.]]))
    assert found.modalities['image']['constant'] == 2
    assert found.modalities['image']['duplicate'] == 1


def test_a_placeholder_is_warned_of():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x[[3, 9, 20]] = x[0].clone()
    found = with_features(x)
    assert found.modalities['image']['duplicate'] == 3
    assert found.modalities['image']['largest_group'] == 4
    assert texts(found, 'features') == [
        'warning: image: 3 of 40 rows (7.5 %) equal that of an earlier entity, up to 4 at once; '
        'perhaps a placeholder: mask it if so.']


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('chunk', [1, 7, 1024])
def test_features_against_loops(monkeypatch, dtype, chunk):
    monkeypatch.setattr(AUDIT, '_CHUNK', chunk)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator).to(dtype)
    x[10] = x[3] * 1.004
    x[11] = x[4] * 1.02
    x[12] = x[5]
    x[29] = x[0] * 0.996
    mask = torch.rand(30, generator=generator) < 0.9
    mask[[0, 3, 4, 5, 10, 11, 12, 29]] = True
    row = with_features(x, mask).modalities['image']
    present = x[mask].double()
    distinct = present.unique(dim=0)
    near = 0
    for i, a in enumerate(distinct):
        near += any(i != j and (a - b).norm() <= 0.01 * max(a.norm(), b.norm())
                    for j, b in enumerate(distinct))
    assert row['entities'] == int(mask.sum())
    assert row['duplicate'] == len(present) - len(distinct) >= 1
    assert row['near'] == near >= 2


def test_too_many_rows_are_not_compared(monkeypatch):
    monkeypatch.setattr(AUDIT, 'MAX_ROWS', 4)
    found = with_features(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    assert found.modalities['image']['near'] is None
    assert texts(found, 'features') == [
        'info: image: nearly equal rows were not looked for (more than 4 rows).']
    assert 'image' in str(found)


def test_a_modality_that_nobody_has():
    found = with_features(torch.randn(5, 3), torch.zeros(5, dtype=torch.bool))
    assert found.modalities['image'] == {
        'channels': 3, 'entities': 0, 'share': 0.0, 'constant': 0, 'duplicate': 0,
        'largest_group': 0, 'near': 0}
    assert found.num_without_modality == 5


def test_same_labels():
    labels = ['Straße', 'STRASSE', 'New  York', 'new york ', 'Ｎｅｗ York', 'Newyork', 'a']
    data = build_data({'train': tensor([(i, 0, i) for i in range(7)])}, labels, ['r'])
    found = audit(data)
    assert found.same_label == {'entities': 5, 'examples': [[0, 1], [2, 3, 4]]}
    assert texts(found, 'duplicates') == [
        'warning: 5 entities share their label with another but for case, width and spaces; merge '
        'those that are one: 0 (Straße) = 1 (STRASSE), 2 (New  York) = 3 (new york ) = '
        '4 (Ｎｅｗ York).']


# Findings and output ##########################################################################


def test_findings_by_hand():
    found = audit(family(), 'family')
    clean = "use splits='clean' (or `pyg_mmkgc.data.clean_splits`)"
    assert texts(found) == [
        f'error: val and test overlap: 1 of 3 distinct triples (33 %) of the smaller stand in '
        f'both, so that they do not check each other; {clean}.',
        f'error: test overlaps with train: 1 of 7 distinct triples (14 %) stand there, and figures '
        f'on test reward memory; {clean}, which takes them out of train.',
        'error: val leaks: of its 3 triples outside train, 1 (33 %) stand there through another '
        'relation or in reverse (1 inverse, 0 symmetric, 0 duplicate); a rule answers them '
        'without any learning, so report figures by relation or leave one of each pair out of the '
        'graph.',
        'error: test leaks: of its 6 triples outside train, 2 (33 %) stand there through another '
        'relation or in reverse (1 inverse, 1 symmetric, 0 duplicate); a rule answers them '
        'without any learning, so report figures by relation or leave one of each pair out of the '
        'graph.',
        f'warning: train repeats itself: 3 of 64 lines (4.7 %) are copies of others and count '
        f'twice or more in training; {clean}.',
        f'warning: test repeats itself: 1 of 8 lines (12 %) are copies of others and count twice '
        f'or more in its figures; {clean}.',
        'warning: test names entities that train lacks in 1 of 8 lines (12 %); structure alone '
        'can only guess there, so report seen and unseen ones apart.',
        'warning: test uses relations that train lacks in 1 of 8 lines (12 %); no model can learn '
        'them, so expect chance there or leave the lines out.',
        'info: test: of 3 of 6 triples (50 %) outside train, some training triple joins the two '
        'entities; compare with a baseline that knows only which entities are joined.',
        'info: never in train: 1 of 7 relations, 6 (never).',
        'info: 1 of 22 entities (4.5 %) are in no triple, yet candidates where all entities are.']
    assert found.worst() == 'error'
    assert all(isinstance(f, Finding) for f in found.findings)


def test_spent_validation():
    train = [(i, 0, i + 1) for i in range(60)]
    found = audit({'train': tensor(train), 'val': tensor([*train[:3], (0, 0, 9), (0, 0, 8)])})
    assert [f.severity for f in found.findings if f.topic == 'overlap'] == ['error']
    assert texts(found, 'overlap')[0].startswith(
        'error: val is spent: 3 of 5 distinct triples (60 %) stand in train')
    found = audit({'train': tensor(train), 'val': tensor([*train[:2], (0, 0, 9), (0, 0, 8)])})
    assert texts(found, 'overlap')[0].startswith(
        'error: val overlaps with train: 2 of 4 distinct triples (50 %) stand there')


def test_inductive_splits_are_judged_the_other_way_round():
    found = audit(FakeMMKG(inductive=True)[0])
    assert not any('inductive_test' in text for text in texts(found, 'unseen entities'))
    found = audit({'train': tensor([(0, 0, 1), (1, 0, 2)]),
                   'inductive_test': tensor([(0, 0, 2), (3, 0, 1)])})
    assert texts(found, 'unseen entities') == [
        'warning: inductive_test has 1 of 2 lines (50 %) whose entities are all seen in train: '
        'they are not inductive; move them to another split.']


def test_a_sound_graph_has_no_findings(tmp_path):
    train = tensor([(i, 0, (i + 1) % 10) for i in range(10)])
    found = audit({'train': train, 'test': tensor([(0, 0, 5)])}, 'ring')
    assert found.findings == []
    assert found.worst() is None
    assert str(found).splitlines()[-1] == 'No findings'
    found.plot(tmp_path / 'ring.png')
    assert (tmp_path / 'ring.png').read_bytes().startswith(PNG)


def test_json():
    found = audit(FakeMMKG(inductive=True)[0], 'fake')
    values = json.loads(json.dumps(found.to_dict()))
    assert values == found.to_dict()
    assert Audit(**{**values, 'findings': [Finding(**f) for f in values['findings']]}) == found
    assert set(values['modalities']) == {'image', 'numeric', 'text'}


def test_fake_graph_shows_its_oddities():
    dataset = FakeMMKG(inductive=True)
    found = audit(dataset[0])
    assert dataset.unseen_relation in found.relations_never_in_train
    assert found.entities['isolated'] >= 3
    assert all(row['duplicate'] == 1 for row in found.modalities.values())  # The twins.
    assert found.splits['test']['unseen_entities'] == 2


def test_report():
    lines = str(audit(family(), 'family')).splitlines()
    assert lines[0] == 'family: 22 entities, 7 relations, 75 lines'
    cells = [[cell.strip() for cell in line.split('│')[1:-1]] for line in lines]
    assert ['train', '64', '61', '3', '0', '0'] in cells
    assert ['test', '8', '7', '1', '1', '1'] in cells
    assert ['val', '0', '', '1'] in cells
    assert ['test', '6', '1', '1', '0', '2', '3'] in cells
    assert ['duplicate', 'plays', 'member', '8', '8', '100.0%'] in cells
    assert 'Findings' in lines
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)
    # Names that are addresses differ at the end.
    data = build_data({'train': tensor([(0, r, i) for i in range(1, 9) for r in (0, 1)])},
                      list('abcdefghi'), [f'<http://example.org/ontology/relation_{i}>'
                                          for i in range(2)])
    assert '│ <http://exa...relation_0> │ <http://exa...relation_1> │' in str(audit(data))


@pytest.mark.parametrize('data', [family(), FakeMMKG(inductive=True)[0],
                                  {'train': tensor([(0, 0, 1)])}])
def test_picture(tmp_path, data):
    path = tmp_path / 'new' / 'audit.png'
    audit(data, '$x_{').plot(path)  # A name is no formula.
    assert path.read_bytes().startswith(PNG)
    assert [p.name for p in path.parent.iterdir()] == ['audit.png']


def test_a_graph_without_other_splits():
    found = audit({'train': tensor(TRAIN)})
    assert found.leakage == {}
    assert 'What train tells' not in str(found)


def test_the_report_needs_no_matplotlib(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        assert not name.startswith('matplotlib')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', refuse)
    str(audit(family()))


def test_the_graph_is_not_changed():
    data = FakeMMKG()[0]
    before = {key: value.clone() for key, value in data['entity'].items()
              if isinstance(value, torch.Tensor)}
    audit(data)
    assert all(torch.equal(data['entity'][key], value) for key, value in before.items())


@pytest.mark.parametrize('splits, message', [
    ({'test': [(0, 0, 0)]}, "'splits' has no 'train'"),
    ({'train': []}, "split 'train' is empty"),
    ({'train': [(0, 0, -1)]}, "'train tails' holds id -1 at position 0"),
])
def test_refuses(splits, message):
    with pytest.raises(ValueError, match=message):
        audit({name: tensor(rows) for name, rows in splits.items()})


def test_refuses_what_has_no_keys():
    data = family()
    data['entity'].num_nodes = 2**32
    with pytest.raises(ValueError, match='do not fit into 64-bit triple keys'):
        audit(data)


# The published files ##########################################################################

BENCHMARKS = {
    # Test lines with unseen entities, relations never in train, test and validation in train.
    'DB15K': (77, [40, 124, 171, 194, 272, 274], 0, 6584),
    'MKG-W': (306, [168], 0, 0),
    'MKG-Y': (388, [], 0, 0),
    'TIVA': (326, [], 1664, 1675),
    'KVC16K': (13, [], 48, 30),
}


@pytest.fixture(scope='module', params=list(BENCHMARKS))
def benchmark(request, mirror):
    entities, relations, splits = read_openke(mirror / request.param)
    return request.param, splits, build_data(splits, entities, relations)


@pytest.mark.real_data
def test_counts_of_the_benchmarks(benchmark):
    name, splits, data = benchmark
    start = time.process_time()
    found = audit(data, name)
    assert time.process_time() - start < 10  # A look at the order of growth; no clock decides.
    unseen, never, test, val = BENCHMARKS[name]
    assert found.splits['test']['unseen_entities'] == unseen
    assert found.relations_never_in_train == never
    assert found.overlap['test']['train'] == test
    assert found.overlap['val']['train'] == val
    if name == 'DB15K':
        assert (found.splits['val']['lines'], found.splits['val']['distinct']) == (9904, 7481)
        assert found.overlap['val']['test'] == 824
        assert any('val is spent: 6,584 of 7,481 distinct triples (88 %)' in text
                   for text in texts(found))
    if name == 'TIVA':
        assert (found.splits['train']['lines'], found.splits['train']['distinct']) == (20071, 11652)
        assert found.splits['test']['distinct'] == 1906
    assert found.worst() == ('warning' if name == 'KVC16K' else 'error')


@pytest.mark.real_data
def test_leakage_of_the_benchmarks(benchmark):
    name, splits, data = benchmark
    found = audit(data, name)
    sets = {split: set(map(tuple, rows.tolist())) for split, rows in splits.items()}
    linked = {(h, t) for h, _, t in sets['train']} | {(t, h) for h, _, t in sets['train']}
    fresh = sets['test'] - sets['train']
    assert found.leakage['test']['linked'] == sum((h, t) in linked for h, _, t in fresh)
    rules = {(p['kind'] == 'duplicate', p['source'], p['target']) for p in found.relation_pairs}
    told = 0
    for h, r, t in fresh:
        told += any(((h, source, t) if same else (t, source, h)) in sets['train']
                    for same, source, target in rules if target == r)
    assert found.leakage['test']['any'] == told
    if name == 'MKG-Y':
        assert [(p['kind'], p['source_label'], p['target_label'])
                for p in found.relation_pairs[:3]] == [
            ('duplicate', 'isAffiliatedTo', 'playsFor'),
            ('duplicate', 'playsFor', 'isAffiliatedTo'),
            ('symmetric', 'isMarriedTo', 'isMarriedTo')]


@pytest.mark.real_data
def test_clean_splits_have_no_repeats_and_no_overlap(benchmark):
    name, splits, data = benchmark
    found = audit(build_data(clean_splits(splits), data['entity'].label,
                             data['entity', 'to', 'entity'].label))
    assert not {finding.topic for finding in found.findings} & {'repeats', 'overlap'}
    assert all(row['repeats'] == 0 for row in found.splits.values())
