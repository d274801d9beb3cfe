import itertools

import pytest
import torch

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.data.triples import MAX_KEY, check_ids

NUM_ENTITIES, NUM_RELATIONS = 7, 3


def random_triples(num, seed=0, num_entities=NUM_ENTITIES, num_relations=NUM_RELATIONS):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(num_entities, (num, ), generator=generator),
            torch.randint(num_relations, (num, ), generator=generator),
            torch.randint(num_entities, (num, ), generator=generator))


def as_set(triples):
    return set(zip(*(part.tolist() for part in triples), strict=True))


def with_inverses(triples):
    known = as_set(triples)
    return known | {(t, r + NUM_RELATIONS, h) for h, r, t in known}


@pytest.fixture(params=[0, 1, 60])
def triples(request):
    triples = random_triples(request.param)
    if request.param == 60:  # Repeats and self-loops are there.
        assert len(as_set(triples)) < 60
        assert bool((triples[0] == triples[2]).any())
    return triples


@pytest.fixture
def index(triples):
    return TripleIndex(*triples, NUM_ENTITIES, NUM_RELATIONS)


def test_size_and_repr(index, triples):
    assert len(index) == len(as_set(triples))
    assert repr(index) == f'TripleIndex({len(as_set(triples))}, num_entities=7, num_relations=3)'


def test_keys_are_sorted_and_unique(index, triples):
    expected = sorted((r * NUM_ENTITIES + h) * NUM_ENTITIES + t for h, r, t in
                      with_inverses(triples))
    assert index.keys.tolist() == expected


def test_contains_every_possible_triple(index, triples):
    known = with_inverses(triples)
    every = list(itertools.product(range(NUM_ENTITIES), range(2 * NUM_RELATIONS),
                                   range(NUM_ENTITIES)))
    head_index, rel_type, tail_index = torch.tensor(every).t()
    out = index.contains(head_index, rel_type, tail_index)
    assert out.dtype == torch.bool
    assert out.tolist() == [triple in known for triple in every]


def test_contains_broadcasts(index, triples):
    known = with_inverses(triples)
    head_index, rel_type = torch.tensor([[0], [5]]), torch.tensor([[1], [4]])
    out = index.contains(head_index, rel_type, torch.arange(NUM_ENTITIES))
    assert out.tolist() == [[(h, r, t) in known for t in range(NUM_ENTITIES)]
                            for h, r in [(0, 1), (5, 4)]]


def test_answers_of_every_query(index, triples):
    known = with_inverses(triples)
    queries = list(itertools.product(range(NUM_ENTITIES), range(2 * NUM_RELATIONS)))
    queries += queries[:3]  # A batch may ask twice.
    head_index, rel_type = torch.tensor(queries).t()
    row, answer = index.answers(head_index, rel_type)
    assert row.tolist() == sorted(row.tolist())
    for i, (h, r) in enumerate(queries):
        expected = [t for t in range(NUM_ENTITIES) if (h, r, t) in known]
        assert answer[row == i].tolist() == expected
    start, stop = index.bounds(head_index, rel_type)
    assert (stop - start).tolist() == torch.bincount(row, minlength=len(queries)).tolist()


def test_answers_of_an_empty_batch(index):
    none = torch.empty(0, dtype=torch.long)
    row, answer = index.answers(none, none)
    assert row.numel() == answer.numel() == 0


def test_answers_live_where_the_index_does(index):
    # Another default device would be that of a tensor which is made without one.
    head_index, rel_type = torch.arange(NUM_ENTITIES), torch.ones(NUM_ENTITIES, dtype=torch.long)
    expected = index.answers(head_index, rel_type)
    with torch.device('meta'):
        out = index.answers(head_index, rel_type)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


def test_queries(index, triples):
    head_index, rel_type = index.queries()
    found = list(zip(head_index.tolist(), rel_type.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == {(h, r) for h, r, _ in with_inverses(triples)}


def test_ids_of_smaller_types(triples):
    narrow = [part.to(torch.int32) for part in triples]
    index = TripleIndex(*narrow, NUM_ENTITIES, NUM_RELATIONS)
    assert torch.equal(index.keys, TripleIndex(*triples, NUM_ENTITIES, NUM_RELATIONS).keys)
    assert bool(index.contains(*narrow).all())


def test_keys_do_not_overflow():
    num_entities, num_relations = 2_000_000, 1_000_000
    ends = torch.tensor([0, num_entities - 1])
    rel_type = torch.tensor([num_relations - 1, num_relations - 1])
    index = TripleIndex(ends, rel_type, ends.flip(0), num_entities, num_relations)
    assert bool((index.keys >= 0).all())
    row, answer = index.answers(ends, rel_type)
    assert row.tolist() == [0, 1]
    assert answer.tolist() == [num_entities - 1, 0]
    assert 2 * num_relations * num_entities**2 <= MAX_KEY


def test_to(index):
    other = index.to(torch.device('meta'))
    assert other.keys.device.type == 'meta'
    assert index.keys.device.type == 'cpu'
    assert (other.num_entities, other.num_relations) == (NUM_ENTITIES, NUM_RELATIONS)


def test_too_many_for_a_key():
    none = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match='3000000000 entities and 1 relations do not fit into 64'):
        TripleIndex(none, none, none, 3_000_000_000, 1)
    TripleIndex(none, none, none, 2**30, 2)  # 2^62 keys
    with pytest.raises(ValueError, match='4 relations do not fit'):  # 2^63, one too many
        TripleIndex(none, none, none, 2**30, 4)


@pytest.mark.parametrize('column,name,size', [(0, 'head_index', 7), (1, 'rel_type', 3),
                                              (2, 'tail_index', 7)])
@pytest.mark.parametrize('wrong', [-1, 'size'])
def test_id_out_of_range(column, name, size, wrong):
    triples = [part.clone() for part in random_triples(10)]
    value = size if wrong == 'size' else wrong
    triples[column][4] = value
    with pytest.raises(ValueError, match=rf"'{name}' holds id {value} at position 4 "
                       rf'.expected 0 to {size - 1}'):
        TripleIndex(*triples, NUM_ENTITIES, NUM_RELATIONS)


def test_lengths_that_differ():
    head_index, rel_type, tail_index = random_triples(10)
    for rel in (rel_type[:4], rel_type[:1]):
        with pytest.raises(ValueError, match=r"one length .got \[10\], \[\d\] and \[10\]"):
            TripleIndex(head_index, rel, tail_index, NUM_ENTITIES, NUM_RELATIONS)


def test_check_ids_reports_the_first():
    check_ids('x', torch.tensor([0, 4]), 5)
    check_ids('x', torch.empty(0, dtype=torch.long), 0)
    with pytest.raises(ValueError, match="'x' holds id 9 at position 1 .expected 0 to 4"):
        check_ids('x', torch.tensor([0, 9, -1]), 5)
    with pytest.raises(ValueError, match="'x' holds id 5 at position 0"):
        check_ids('x', torch.tensor([5]), 5)
