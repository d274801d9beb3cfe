import time

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import clean_splits, split_entities, split_triples
from pyg_mmkgc.data.splits import spare_triples
from pyg_mmkgc.datasets.openke import read_openke

SHAPES = [('DB15K', 71814, 7481, 9902), ('MKG-W', 34196, 4276, 4274),
          ('MKG-Y', 21310, 2665, 2663), ('KVC16K', 179971, 22485, 22523), ('TIVA', 9892, 182, 1906)]

ids = st.integers(0, 5)
triple = st.tuples(ids, st.integers(0, 2), ids)
rows = st.lists(triple, max_size=40)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.long).view(-1, 3)


def as_list(triples):
    return [tuple(row) for row in triples.tolist()]


def entities(triples):
    return {e for h, _, t in as_list(triples) for e in (h, t)}


def relations(triples):
    return {r for _, r, _ in as_list(triples)}


def random_graph(num_triples, num_entities=100, num_relations=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (num_triples, ), generator=generator)
                        for n in (num_entities, num_relations, num_entities)], dim=1)


def cleaned_by_hand(splits):
    # What must be left before anything is drawn, and whether something is.
    out, taken = {}, set()
    order = ['test', *(name for name in splits if name not in ('test', 'train', 'val')), 'train',
             'val']
    for name in order:
        if name in splits:
            out[name] = [row for row in dict.fromkeys(splits[name]) if row not in taken]
            taken |= set(out[name])
    spent = 2 * len(out.get('val', [])) < len(set(splits.get('val', [])))
    return out, spent


# The published splits, cleaned ################################################################


def test_clean_splits_by_hand():
    a, b, c, d, e, f = ((0, 0, 1), (1, 0, 2), (2, 1, 0), (1, 1, 0), (2, 0, 2), (0, 1, 1))
    splits = {'train': [a, b, b, c, a], 'val': [d, a, d, e], 'test': [f, f, b], 'more': [f, b]}
    out = clean_splits({name: tensor(rows) for name, rows in splits.items()})
    assert list(out) == list(splits)
    assert {name: as_list(triples) for name, triples in out.items()} == {
        'train': [a, c], 'val': [d, e], 'test': [f, b], 'more': []}
    assert all(triples.dtype == torch.long for triples in out.values())


def test_a_repeat_in_reverse_stays():
    splits = {'train': tensor([(0, 0, 1), (1, 0, 0), (1, 1, 0)]), 'test': tensor([(0, 1, 1)])}
    assert {k: as_list(v) for k, v in clean_splits(splits).items()} == {
        k: as_list(v) for k, v in splits.items()}


@settings(max_examples=300, deadline=None)
@given(rows, rows, rows, rows, st.integers(0, 3))
def test_clean_splits_against_sets(train, val, test, more, seed):
    splits = {'val': val, 'train': train, 'more': more, 'test': test}
    expected, spent = cleaned_by_hand(splits)
    assume(expected['train'])
    tensors = {name: tensor(rows) for name, rows in splits.items()}
    try:
        out = clean_splits(tensors, seed)
    except ValueError as error:
        assert 'nothing is left of \'val\'' in str(error)  # noqa: PT017
        assert spent
        assert not expected['val']
        return
    assert all(torch.equal(tensors[k], tensor(splits[k])) for k in splits)  # Left as they were.
    out = {name: as_list(triples) for name, triples in out.items()}
    assert out['test'] == expected['test']
    assert out['more'] == expected['more']
    if not spent:
        assert out == expected
        return
    left = expected['val']
    drawn = out['val'][len(left):]
    assert out['val'][:len(left)] == left
    assert len(drawn) <= max(0, min(len(set(val)), len(expected['train']) // 10) - len(left))
    assert [row for row in expected['train'] if row in set(drawn)] == drawn
    assert [row for row in expected['train'] if row not in set(drawn)] == out['train']
    assert entities(tensor(out['train'])) == entities(tensor(expected['train']))
    assert relations(tensor(out['train'])) == relations(tensor(expected['train']))


@pytest.mark.parametrize('num_val, size', [(60, 60), (200, 97)])
def test_a_spent_validation_is_filled_up(num_val, size):
    train = torch.unique(random_graph(1000), dim=0)
    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(1))][:970]
    new = tensor([(0, 6, 1), (1, 6, 2)])
    splits = {'train': train, 'val': torch.cat([train[:num_val - 2], new])}
    out = clean_splits(splits, seed=0)
    assert out['val'].size(0) == size
    assert as_list(out['val'][:2]) == as_list(new)
    assert out['train'].size(0) == 970 - size + 2
    again, other = clean_splits(splits, seed=0), clean_splits(splits, seed=1)
    assert torch.equal(out['val'], again['val'])
    assert not torch.equal(out['val'], other['val'])
    assert other['val'].size(0) == size


def test_half_of_a_validation_is_not_spent():
    train = random_graph(100)
    new = tensor([(0, 7, 1), (1, 7, 2)])
    out = clean_splits({'train': train, 'val': torch.cat([train[:1], train[:1], train[1:2], new])})
    assert as_list(out['val']) == as_list(new)


def test_the_draw_is_the_same_everywhere():
    train = tensor([(i, 0, (i + 1) % 40) for i in range(40)])  # A ring.
    out = clean_splits({'train': train, 'val': train[:30]}, seed=0)
    assert out['val'][:, 0].tolist() == [0, 10, 15, 21]  # As noted down when it was written.


@pytest.mark.parametrize('splits, message', [
    ({'val': [(0, 0, 0)]}, r"'splits' has no 'train' \(got \['val'\]\)"),
    ({'train': [(0, 0, 1)], 'test': [(0, 0, 1)]}, "nothing is left of 'train'"),
    ({'train': []}, "nothing is left of 'train'"),
    ({'train': [(0, 0, 1), (2, 0, 3)], 'val': [(0, 0, 1)]},
     "nothing is left of 'val'.*none of the 2 triples of 'train' can be spared"),
    ({'train': [(0, 0, 1), (2, -1, 3)]},
     r"split 'train' has a negative id in row 1 \(got \[2, -1, 3\]\)"),
    ({'train': [(2**40, 0, 2**40)]}, 'do not fit into 64-bit triple keys'),
])
def test_clean_splits_refuses(splits, message):
    with pytest.raises(ValueError, match=message):
        clean_splits({name: tensor(rows) for name, rows in splits.items()})


@pytest.mark.parametrize('triples, message', [
    (torch.zeros(3, 2, dtype=torch.long), r"split 'train' needs .* \[T, 3\] \(got \[3, 2\]\)"),
    (torch.zeros(3, 3), r"split 'train' needs integers \(got torch.float32\)"),
])
def test_clean_splits_refuses_tensors(triples, message):
    with pytest.raises(ValueError, match=message):
        clean_splits({'train': triples})


@pytest.mark.real_data
@pytest.mark.parametrize('name, num_train, num_val, num_test', SHAPES)
def test_clean_splits_of_the_benchmarks(mirror, name, num_train, num_val, num_test):
    _, _, official = read_openke(mirror / name)
    out = clean_splits(official)
    sets = {split: set(as_list(triples)) for split, triples in out.items()}
    assert {split: len(triples) for split, triples in sets.items()} == {
        'train': num_train, 'val': num_val, 'test': num_test}
    assert all(len(out[split]) == len(sets[split]) for split in out)
    assert not sets['train'] & sets['val']
    assert not sets['train'] & sets['test']
    assert not sets['val'] & sets['test']
    assert list(dict.fromkeys(as_list(official['test']))) == as_list(out['test'])
    # The draw has cost train no entity and no relation:
    before = tensor([row for row in dict.fromkeys(as_list(official['train']))
                     if row not in sets['test']])
    assert entities(before) == entities(out['train'])
    assert relations(before) == relations(out['train'])
    drawn = sets['val'] - set(as_list(official['val']))
    assert (len(drawn) > 0) == (name in ('DB15K', 'TIVA'))
    assert drawn <= set(as_list(official['train']))


# A ratio split ################################################################################


@settings(max_examples=200, deadline=None)
@given(st.lists(triple, min_size=1, max_size=60), st.integers(0, 3))
def test_spare_triples_leave_a_cover(rows, seed):
    triples = tensor(sorted(set(rows)))
    spare = spare_triples(triples, seed).tolist()
    assert len(set(spare)) == len(spare)
    kept = tensor([row for i, row in enumerate(as_list(triples)) if i not in spare])
    assert entities(kept) == entities(triples)
    assert relations(kept) == relations(triples)
    # What is kept beyond the spare ones is there for something it alone has, or nearly so: two
    # triples at most for each entity and one for each relation.
    assert len(kept) <= len(entities(triples)) + len(relations(triples))


@pytest.mark.parametrize('ratios, sizes', [
    ((0.8, 0.1, 0.1), (1600, 200, 200)),
    ((0.5, 0.2, 0.3), (1000, 400, 600)),
])
def test_split_triples(ratios, sizes):
    triples = torch.unique(random_graph(2600, num_relations=2), dim=0)[:2000]
    assert len(triples) == 2000
    triples = triples[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    out = split_triples(torch.cat([triples, triples[:50]]), ratios)
    assert tuple(out) == ('train', 'val', 'test')
    assert tuple(len(part) for part in out.values()) == sizes
    position = {row: i for i, row in enumerate(as_list(triples))}
    order = [[position[row] for row in as_list(part)] for part in out.values()]
    assert all(part == sorted(part) for part in order)
    assert sorted(sum(order, [])) == list(range(2000))
    assert entities(out['train']) == entities(triples)
    assert relations(out['train']) == relations(triples)
    assert torch.equal(split_triples(triples, ratios)['test'], out['test'])
    assert not torch.equal(split_triples(triples, ratios, seed=1)['test'], out['test'])


def test_split_triples_is_random():
    # In a dense graph every triple is as likely to be tested: 30 seeds, 10 % each.
    triples = torch.unique(random_graph(20000, num_entities=40, num_relations=3), dim=0)
    count = torch.zeros(3, 40, 40)
    for seed in range(30):
        h, r, t = split_triples(triples, seed=seed)['test'].unbind(1)
        count[r, h, t] += 1
    rates = count[triples[:, 1], triples[:, 0], triples[:, 2]] / 30
    assert rates.mean() == pytest.approx(0.1, abs=1e-3)
    assert rates.std() == pytest.approx((0.1 * 0.9 / 30)**0.5, rel=0.1)


@pytest.mark.parametrize('ratios', [
    (0.8, 0.2), (0.8, 0.1, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), (float('nan'), 0.1, 0.1),
])
def test_split_triples_refuses_ratios(ratios):
    with pytest.raises(ValueError, match="'ratios' needs to be three positive numbers of sum 1"):
        split_triples(random_graph(100), ratios)


@pytest.mark.parametrize('rows, message', [
    ([], "'triples' is empty"),
    ([(0, 0, 1)] * 50, r"1 distinct triples are too few for 'ratios' \(0.8, 0.1, 0.1\) "
                       r"\(got 0 for 'val', 0 for 'test'\)"),
    ([(2 * i, 0, 2 * i + 1) for i in range(50)],
     r"only 0 of 50 distinct triples can leave 'train' .* \(expected 10 for 'ratios'"),
    ([(0, 0, -1)], "'triples' has a negative id in row 0"),
])
def test_split_triples_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        split_triples(tensor(rows))


# An inductive split ###########################################################################


@pytest.mark.parametrize('ratio', [0.05, 0.3])
@pytest.mark.parametrize('seed', [0, 1])
def test_split_entities(ratio, seed):
    triples = torch.unique(random_graph(1500, num_entities=300), dim=0)
    out = split_entities(torch.cat([triples, triples[:9]]), ratio, seed=seed)
    assert tuple(out) == ('train', 'val', 'test', 'inductive_test')
    sets = {split: set(as_list(part)) for split, part in out.items()}
    assert sum(map(len, out.values())) == sum(map(len, sets.values())) == len(triples)
    assert set.union(*sets.values()) == set(as_list(triples))

    held = entities(triples) - entities(out['train'])
    assert len(held) == round(ratio * len(entities(triples)))
    assert sets['inductive_test'] == {row for row in as_list(triples)
                                      if row[0] in held or row[2] in held}
    assert relations(out['train']) == relations(triples)
    both = {row for row in sets['inductive_test'] if row[0] in held and row[2] in held}
    assert (len(both) > 0) or ratio == 0.05
    rest = len(triples) - len(sets['inductive_test'])
    assert len(out['val']) == len(out['test']) == round(0.1 * rest)
    other = split_entities(triples, ratio, seed=seed + 2)
    assert entities(triples) - entities(other['train']) != held


@settings(max_examples=200, deadline=None)
@given(st.lists(triple, min_size=12, max_size=80), st.integers(0, 5))
def test_split_entities_keeps_all_others(rows, seed):
    triples = tensor(rows)
    try:
        out = split_entities(triples, ratio=0.2, ratios=(0.6, 0.2, 0.2), seed=seed)
    except ValueError as error:
        assert 'only ' in str(error) or 'too few' in str(error)  # noqa: PT017
        return
    held = entities(triples) - entities(out['train'])
    assert len(held) == round(0.2 * len(entities(triples)))
    assert relations(out['train']) == relations(triples)
    for split in ('val', 'test'):
        assert entities(out[split]) <= entities(out['train'])
    for h, _, t in as_list(out['inductive_test']):
        assert h in held or t in held


@pytest.mark.parametrize('ratio', [0, 1, -0.1, float('nan')])
def test_split_entities_refuses_ratio(ratio):
    with pytest.raises(ValueError, match="'ratio' needs to be between 0 and 1"):
        split_entities(random_graph(100), ratio)


@pytest.mark.parametrize('rows, ratio, message', [
    ([(0, 0, 1), (1, 0, 2)], 0.1, "3 entities are too few for 'ratio' 0.1"),
    ([(2 * i, 0, 2 * i + 1) for i in range(50)], 0.05,
     r"only 0 of 100 entities can be held out .* \(expected 5 for 'ratio' 0.05\)"),
])
def test_split_entities_refuses(rows, ratio, message):
    with pytest.raises(ValueError, match=message):
        split_entities(tensor(rows), ratio)


def test_a_million_triples():
    triples = random_graph(1_000_000, num_entities=100_000, num_relations=200)
    start = time.process_time()
    out = split_triples(triples)
    split_entities(triples)
    clean_splits({'train': out['train'], 'val': out['train'][:300_000], 'test': out['test']})
    assert time.process_time() - start < 20  # About two on one core.
