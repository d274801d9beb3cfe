import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch_geometric.testing import withCUDA

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.evaluation import Ranks, rank, ranking

N, R = 7, 2
# Columns head, relation, tail. With self-loops (2, 2), parallel relations (0 -> 1), a repeated
# triple, a head with all tails, and a query (6, 1) that is answered by ranked triples alone.
KNOWN = [(0, 0, 1), (0, 1, 1), (0, 0, 1), (0, 0, 2), (0, 0, 6), (2, 0, 2), (2, 1, 2), (3, 1, 0),
         (3, 1, 3), (3, 1, 6), (5, 0, 5), *[(4, 0, t) for t in range(N)], (1, 0, 0), (1, 1, 5)]
QUERIES = [(0, 0, 1), (0, 0, 2), (0, 0, 6), (0, 0, 1), (2, 0, 2), (3, 1, 6), (3, 1, 3), (4, 0, 0),
           (4, 0, 3), (4, 0, 6), (5, 0, 4), (6, 1, 2), (6, 1, 2), (1, 1, 5), (5, 1, 5), (0, 1, 0)]
SIZES = [None, 1, 2, 3, 4, 5, 6, 7, 8, 100]


def columns(triples):
    return torch.tensor(triples).t().contiguous().unbind(0)


def make_index(triples, num_entities=N, num_relations=R):
    return TripleIndex(*columns(triples), num_entities, num_relations)


def table_scorer(table):
    # table: [N, 2R, N]
    return lambda head_index, rel_type, start, stop: table[head_index, rel_type, start:stop]


def integer_table(seed=0, high=4, num_entities=N, num_relations=R):
    generator = torch.Generator().manual_seed(seed)
    size = (num_entities, 2 * num_relations, num_entities)
    return torch.randint(high, size, generator=generator).float()


def with_inverse(triples, num_relations=R):
    return set(triples) | {(t, r + num_relations, h) for h, r, t in triples}


def brute_force(table, queries, known, candidates=None):
    r"""Optimistic rank, pessimistic rank and number of candidates by loops over sets."""
    known = with_inverse(known)
    out = []
    for h, r, t in queries:
        own = float(table[h, r, t])
        others = [e for e in range(table.size(2))
                  if e != t and (h, r, e) not in known
                  and (candidates is None or bool(candidates[e]))]
        above = sum(float(table[h, r, e]) > own for e in others)
        ties = sum(float(table[h, r, e]) == own for e in others)
        out.append((1 + above, 1 + above + ties, 1 + len(others)))
    return out


def to_list(ranks):
    return list(zip(ranks.optimistic.tolist(), ranks.pessimistic.tolist(),
                    ranks.num_candidates.tolist(), strict=True))


def inverse(queries):
    return [(t, r + R, h) for h, r, t in queries]


@pytest.mark.parametrize('chunk_size', SIZES)
@pytest.mark.parametrize('batch_size', SIZES)
def test_rank_against_brute_force(batch_size, chunk_size):
    table = integer_table()
    queries = QUERIES + inverse(QUERIES)
    ranks = rank(table_scorer(table), *columns(queries), make_index(KNOWN), num_entities=N,
                 batch_size=batch_size, chunk_size=chunk_size)
    expected = brute_force(table, queries, KNOWN)
    assert to_list(ranks) == expected
    assert ranks.rank.tolist() == [(low + high) / 2 for low, high, _ in expected]


@pytest.mark.parametrize('seed', range(20))
def test_rank_of_random_graphs_against_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    table = integer_table(seed, high=2 + seed % 5)

    def draw(num):
        size = torch.tensor([N, R, N])
        return list(map(tuple, (torch.rand(num, 3, generator=generator) * size).long().tolist()))

    known, queries = draw(30), draw(20)
    queries = queries + inverse(queries)
    known = known + queries[:10]
    candidates = torch.rand(N, generator=generator) < 0.6
    for chunk_size in [2, 7]:
        ranks = rank(table_scorer(table), *columns(queries), make_index(known), num_entities=N,
                     candidates=candidates, batch_size=9, chunk_size=chunk_size)
        assert to_list(ranks) == brute_force(table, queries, known, candidates)


def test_rank_by_hand():
    # Entities 0..4; (0, 0, ?) has the known answers 1, 2 and 3; scores with a tie of 2 and 4.
    table = torch.zeros(5, 2, 5)
    table[0, 0] = torch.tensor([9., 7., 5., 1., 5.])
    index = make_index([(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 3)], 5, 1)
    head_index, rel_type, tail_index = columns([(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4)])

    ranks = rank(table_scorer(table), head_index, rel_type, tail_index, index, num_entities=5)
    # 1: below 0. 2: below 0, beside 4. 3: below 0 and 4. 4: below 0 only, as 2 is known.
    assert ranks.rank.tolist() == [2., 2.5, 3., 2.]
    assert ranks.optimistic.tolist() == [2, 2, 3, 2]
    assert ranks.pessimistic.tolist() == [2, 3, 3, 2]
    assert ranks.num_candidates.tolist() == [3, 3, 3, 2]
    assert ranks.rank.dtype == torch.float64
    assert len(ranks) == 4
    assert str(ranks) == 'Ranks(4)'

    empty = TripleIndex(*torch.empty(3, 0, dtype=torch.long), 5, 1)
    ranks = rank(table_scorer(table), head_index, rel_type, tail_index, empty, num_entities=5)
    assert ranks.rank.tolist() == [2., 3.5, 5., 3.5]
    assert ranks.num_candidates.tolist() == [5, 5, 5, 5]


def test_heads_rank_as_tails_of_inverse():
    # Heads of (?, 0, 4): 0 and 1 are known; scores of the heads 0..4.
    table = torch.zeros(5, 2, 5)
    table[4, 1] = torch.tensor([3., 4., 4., 8., 0.])
    index = make_index([(0, 0, 4), (1, 0, 4)], 5, 1)
    head_index, rel_type, tail_index = columns([(0, 0, 4), (1, 0, 4)])
    ranks = rank(table_scorer(table), tail_index, rel_type + 1, head_index, index, num_entities=5)
    assert ranks.rank.tolist() == [3., 2.5]


def test_answer_counts_as_candidate():
    table = torch.zeros(5, 2, 5)
    table[0, 0] = torch.tensor([9., 7., 5., 1., 5.])
    index = make_index([(0, 0, 2)], 5, 1)
    candidates = torch.tensor([True, False, False, True, True])
    ranks = rank(table_scorer(table), *columns([(0, 0, 2), (0, 0, 4)]), index, num_entities=5,
                 candidates=candidates)
    assert ranks.rank.tolist() == [2.5, 2.]
    assert ranks.num_candidates.tolist() == [4, 3]


def test_narrow_ids():
    table = integer_table()
    query = [x.to(torch.int32) for x in columns(QUERIES)]
    ranks = rank(table_scorer(table), *query, make_index(KNOWN), num_entities=N)
    assert to_list(ranks) == brute_force(table, QUERIES, KNOWN)


def test_repeated_known_triples_leave_once():
    table = integer_table()
    once = rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N)
    many = rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN * 3), num_entities=N)
    assert to_list(once) == to_list(many)


@pytest.mark.parametrize('chunk_size', [None, 3])
def test_infinite_scores(chunk_size):
    generator = torch.Generator().manual_seed(1)
    values = torch.tensor([-float('inf'), 0., float('inf')])
    table = values[torch.randint(3, (N, 2 * R, N), generator=generator)]
    queries = QUERIES + inverse(QUERIES)
    ranks = rank(table_scorer(table), *columns(queries), make_index(KNOWN), num_entities=N,
                 chunk_size=chunk_size)
    assert to_list(ranks) == brute_force(table, queries, KNOWN)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64, torch.long])
def test_score_types(dtype):
    # In bfloat16, the scores below differ by less than one step and tie; none may be flattered.
    generator = torch.Generator().manual_seed(2)
    table = (100 + torch.rand(N, 2 * R, N, generator=generator)).to(dtype)
    ranks = rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N,
                 chunk_size=4)
    assert to_list(ranks) == brute_force(table, QUERIES, KNOWN)
    if dtype == torch.bfloat16:
        assert int((ranks.pessimistic > ranks.optimistic).sum()) > len(QUERIES) / 2


def test_constant_scores_rank_in_the_middle():
    table = torch.full((N, 2 * R, N), 3.)
    ranks = rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N)
    assert torch.equal(ranks.rank, (ranks.num_candidates + 1) / 2)
    assert bool((ranks.optimistic == 1).all())
    assert torch.equal(ranks.pessimistic, ranks.num_candidates)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.long])
@pytest.mark.parametrize('block', [1, 2000, 2**18])
def test_more_entities_than_a_block_of_counts(monkeypatch, block, dtype):
    # Ones are added up in blocks of 128, since half precision cannot count to more than 256 or
    # 2,048: 300 entities above, 300 ties and a rest.
    monkeypatch.setattr(ranking, 'BLOCK', block)
    num_entities = 777
    table = torch.zeros(1, 2, num_entities, dtype=dtype)
    table[0, 0, :300], table[0, 0, 300:600] = 2, 1
    table = table.expand(num_entities, 2, num_entities)
    index = make_index([(0, 0, 600)], num_entities, 1)
    query = columns([(0, 0, 599), (0, 0, 600), (0, 0, 0)])
    for chunk_size in [127, 128, 129, 256, 300, 776, 777]:
        ranks = rank(table_scorer(table), *query, index, num_entities=num_entities,
                     chunk_size=chunk_size)
        assert ranks.optimistic.tolist() == [301, 601, 1]
        assert ranks.pessimistic.tolist() == [600, 777, 300]
        assert ranks.num_candidates.tolist() == [776, 777, 776]


def test_more_blocks_than_half_precision_can_count():
    num_entities = 128 * 301  # There is no 301 in bfloat16.
    index, zero = make_index([(0, 0, 1)], num_entities, 1), torch.tensor([0])
    ranks = rank(lambda h, r, start, stop: torch.zeros(1, stop - start, dtype=torch.bfloat16),
                 zero, zero, zero, index, num_entities=num_entities)
    assert to_list(ranks) == [(1, num_entities - 1, num_entities - 1)]


@pytest.mark.parametrize('block,expected', [
    (12, [slice(0, 1), slice(1, 5)]),  # Sums 3, 6, 7, 10 and 11: the first is below 6.
    (1, [slice(i, i + 1) for i in range(5)]),
])
def test_blocks_of_answers(monkeypatch, block, expected):
    monkeypatch.setattr(ranking, 'BLOCK', block)
    head_index, rel_type = torch.tensor([[0, 0, 5, 3, 1], [0, 0, 0, 1, 0]])  # 3, 3, 1, 3, 1
    assert ranking._blocks_of_answers(make_index(KNOWN), head_index, rel_type) == expected


def test_known_answers_live_where_the_index_does():
    # Another default device would be that of a tensor which is made without one.
    head_index, rel_type = torch.tensor([[0, 4], [0, 0]])
    index = make_index(KNOWN)
    with torch.device('meta'):
        row, entity = ranking._answers_between(index, head_index, rel_type, 2, 5)
    assert row.tolist() == [0, 1, 1, 1]
    assert entity.tolist() == [2, 2, 3, 4]


def test_half_precision_flatters_no_rank():
    # Rounding keeps the order and makes ties, so that the exact rank stays between the two, and
    # the realistic one favours nobody on average.
    generator = torch.Generator().manual_seed(0)
    num_entities, num_queries = 500, 300
    query = torch.randn(num_queries, 8, generator=generator)
    table = torch.randn(num_entities, 8, generator=generator)
    score = 100 + query @ table.t()
    head_index = torch.arange(num_queries)
    rel_type = torch.zeros_like(head_index)
    tail_index = torch.randint(num_entities, (num_queries, ), generator=generator)
    known = TripleIndex(head_index, rel_type, tail_index, num_entities, 1)

    def ranks(dtype):
        return rank(lambda head, rel, start, stop: score.to(dtype)[head, start:stop], head_index,
                    rel_type, tail_index, known, num_entities=num_entities)

    exact, half = ranks(torch.float32), ranks(torch.bfloat16)
    assert bool((half.optimistic <= exact.optimistic).all())
    assert bool((half.pessimistic >= exact.pessimistic).all())
    assert float((half.pessimistic - half.optimistic).double().mean()) > 20
    difference = half.rank - exact.rank
    assert abs(float(difference.mean())) < 2
    # What an optimistic rank would report is another matter:
    assert float((half.optimistic - exact.rank).mean()) < -10


def test_default_batches_on_a_cpu():
    sizes = []

    def scorer(head_index, rel_type, start, stop):
        sizes.append(head_index.numel())
        return torch.zeros(head_index.numel(), stop - start)

    head_index = torch.zeros(600, dtype=torch.long)
    rank(scorer, head_index, head_index, head_index, make_index(KNOWN), num_entities=N)
    assert sizes == [256, 256, 88]


@pytest.mark.parametrize('chunk_size', [None, 3])
def test_noisy_scorer_stays_within_bounds(chunk_size):
    # A scorer that answers differently each time cannot push a rank below one.
    generator = torch.Generator().manual_seed(3)

    def scorer(head_index, rel_type, start, stop):
        return torch.randn(head_index.numel(), stop - start, generator=generator)

    for _ in range(20):
        ranks = rank(scorer, *columns(QUERIES), make_index(KNOWN), num_entities=N, batch_size=5,
                     chunk_size=chunk_size)
        assert int(ranks.optimistic.min()) >= 1
        assert bool((ranks.pessimistic <= ranks.num_candidates).all())


def record_calls(batch_size=None, chunk_size=None, **kwargs):
    table, calls = integer_table(), []

    def scorer(head_index, rel_type, start, stop):
        assert not torch.is_grad_enabled()
        calls.append((head_index.numel(), start, stop))
        return table[head_index, rel_type, start:stop]

    rank(scorer, *columns(QUERIES), make_index(KNOWN), num_entities=N, batch_size=batch_size,
         chunk_size=chunk_size, **kwargs)
    return calls


def test_one_chunk_is_scored_once():
    assert record_calls() == [(16, 0, 7)]
    assert record_calls(batch_size=6) == [(6, 0, 7), (6, 0, 7), (4, 0, 7)]


def test_chunks_are_scored_in_bounded_memory():
    calls = record_calls(batch_size=4, chunk_size=3)
    assert all(num <= 4 and stop - start <= 3 for num, start, stop in calls)
    # Queries are ordered by the chunk of their answer, so that at most one batch at each of the
    # two borders between chunks has answers in several and scores them again.
    assert 12 <= len(calls) <= 14


def test_default_sizes_keep_within_max_elements():
    assert record_calls(max_elements=30) == [(4, 0, 7)] * 4
    calls = record_calls(max_elements=5)
    assert all(num * (stop - start) <= 5 for num, start, stop in calls)
    assert record_calls(max_elements=3, chunk_size=7) == [(1, 0, 7)] * 16
    calls = record_calls(max_elements=6, chunk_size=2)
    assert all(num <= 3 and stop - start <= 2 for num, start, stop in calls)


def test_scorer_sees_few_relations_at_once():
    seen = []

    def scorer(head_index, rel_type, start, stop):
        seen.append(rel_type.unique().numel())
        return torch.zeros(head_index.numel(), stop - start)

    queries = [(h, r, 0) for h in range(N) for r in range(2 * R)]
    rank(scorer, *columns(queries), make_index(KNOWN), num_entities=N, batch_size=7)
    assert seen == [1, 1, 1, 1]


def test_no_queries():
    empty = torch.empty(0, dtype=torch.long)
    ranks = rank(table_scorer(integer_table()), empty, empty, empty, make_index(KNOWN),
                 num_entities=N)
    assert len(ranks) == 0
    assert ranks.rank.shape == (0, )


def test_ranks_select_and_join():
    ranks = Ranks(torch.tensor([1, 2, 3]), torch.tensor([1, 4, 4]), torch.tensor([5, 6, 7]))
    assert ranks.rank.tolist() == [1., 3., 3.5]
    assert to_list(ranks[torch.tensor([True, False, True])]) == [(1, 1, 5), (3, 4, 7)]
    assert to_list(ranks[:1]) == [(1, 1, 5)]
    assert to_list(Ranks.cat([ranks[2:], ranks[:1]])) == [(3, 4, 7), (1, 1, 5)]


@withCUDA
def test_rank_follows_the_device_of_the_queries(device):
    table = integer_table()
    query = [x.to(device) for x in columns(QUERIES)]
    candidates = torch.arange(N) != 2
    for chunk_size in [None, 3]:
        ranks = rank(table_scorer(table.to(device)), *query, make_index(KNOWN), num_entities=N,
                     candidates=candidates, chunk_size=chunk_size)
        assert ranks.rank.device == torch.device('cpu')
        assert to_list(ranks) == brute_force(table, QUERIES, KNOWN, candidates)


def test_progress_bar_only_if_asked(capsys):
    scorer, query, index = table_scorer(integer_table()), columns(QUERIES), make_index(KNOWN)
    rank(scorer, *query, index, num_entities=N)
    assert capsys.readouterr() == ('', '')
    rank(scorer, *query, index, num_entities=N, log=True)
    out, err = capsys.readouterr()
    assert out == ''
    assert err.startswith('\rRanking:   0%')
    assert ' 0/16 ' in err
    assert '\n' not in err  # It does not stay.


@pytest.mark.parametrize('chunk_size', [None, 1, 3])
@pytest.mark.parametrize('entity', [0, 3, 6])
def test_nan_scores_raise(entity, chunk_size):
    # NaN compares as false: an answer that is NaN would have rank 1, and a candidate none at all.
    table = integer_table()
    table[3, 1, entity] = float('nan')
    match = r'2 of 16 queries in a batch have NaN scores \(first: head 3, relation 1\)'
    if chunk_size is not None:
        match = r'NaN scores \(first: head 3, relation 1\)'
    with pytest.raises(ValueError, match=match):
        rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N,
             chunk_size=chunk_size)


def test_one_query_with_nan_scores_raises():
    table = integer_table()
    table[5, 1, 3] = float('nan')
    with pytest.raises(ValueError, match=r'1 of 16 .* \(first: head 5, relation 1\)'):
        rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N)


class Processes:
    """Stands in for `torch.distributed`: the processes of a group are threads."""
    def __init__(self, size):
        self.size, self.own, self.parts = size, threading.local(), [None] * size
        self.barrier = threading.Barrier(size, timeout=10)

    def get_world_size(self, group):
        assert group is self
        return self.size

    def get_rank(self, group):
        assert group is self
        return self.own.rank

    def all_reduce(self, x, group):
        assert group is self
        self.parts[self.own.rank] = x.clone()
        self.barrier.wait()
        total = sum(self.parts)
        self.barrier.wait()
        x.copy_(total)

    def run(self, function):
        def call(rank):
            self.own.rank = rank
            try:
                return function()
            except BaseException:
                self.barrier.abort()  # Else the others would wait.
                raise

        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(call, rank) for rank in range(self.size)]
        return [future.result() for future in futures]


@pytest.mark.parametrize('chunk_size', [None, 1, 2, 3])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_processes_share_the_candidates(monkeypatch, size, chunk_size):
    table, queries = integer_table(), QUERIES + inverse(QUERIES)
    candidates = torch.arange(N) != 2
    processes = Processes(size)
    monkeypatch.setattr(ranking, 'dist', processes)
    calls = [set() for _ in range(size)]

    def scorer(head_index, rel_type, start, stop):
        calls[processes.own.rank].add((start, stop))
        return table[head_index, rel_type, start:stop]

    out = processes.run(lambda: rank(scorer, *columns(queries), make_index(KNOWN), num_entities=N,
                                     candidates=candidates, batch_size=9, chunk_size=chunk_size,
                                     process_group=processes))
    expected = brute_force(table, queries, KNOWN, candidates)
    assert [to_list(ranks) for ranks in out] == [expected] * size
    # Each entity in one process and one chunk; as many chunks in each, and none of them empty.
    entities = sorted(e for part in calls for start, stop in part for e in range(start, stop))
    assert entities == list(range(N))
    most = -(-N // size)
    num_chunks = min(-(-most // (chunk_size or most)), N // size)
    assert [len(part) for part in calls] == [num_chunks] * size
    assert max(stop - start for part in calls for start, stop in part) == -(-most // num_chunks)


def test_nan_in_one_process_raises_in_all(monkeypatch):
    table = integer_table()
    table[3, 1, 6] = float('nan')  # Scored by the second process.
    processes = Processes(2)
    monkeypatch.setattr(ranking, 'dist', processes)

    def call():
        with pytest.raises(ValueError, match=r'2 of 16 .* \(first: head 3, relation 1\)'):
            rank(table_scorer(table), *columns(QUERIES), make_index(KNOWN), num_entities=N,
                 process_group=processes)

    processes.run(call)


def test_more_processes_than_entities_raise(monkeypatch):
    zero, processes = torch.tensor([0]), Processes(8)
    processes.own.rank = 0
    monkeypatch.setattr(ranking, 'dist', processes)
    with pytest.raises(ValueError, match="'process_group' has 8 processes for 7 entities"):
        rank(table_scorer(integer_table()), zero, zero, zero, make_index(KNOWN), num_entities=N,
             process_group=processes)


def test_invalid_queries_raise():
    scorer, index = table_scorer(integer_table()), make_index(KNOWN)
    zero, one = torch.tensor([0]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r'vectors of one size \(got \[2\], \[1\], \[1\]\)'):
        rank(scorer, one, zero, zero, index, num_entities=N)
    with pytest.raises(ValueError, match=r'vectors of one size \(got \[1, 1\]'):
        rank(scorer, zero.view(1, 1), zero.view(1, 1), zero.view(1, 1), index, num_entities=N)
    with pytest.raises(ValueError, match="'head_index' holds id 7 at position 0"):
        rank(scorer, zero + N, zero, zero, index, num_entities=N)
    with pytest.raises(ValueError, match="'rel_type' holds id 4 at position 0"):
        rank(scorer, zero, zero + 2 * R, zero, index, num_entities=N)
    with pytest.raises(ValueError, match="'tail_index' holds id -1 at position 0"):
        rank(scorer, zero, zero, zero - 1, index, num_entities=N)
    with pytest.raises(ValueError, match=r"'known' is an index over 7 entities \(expected 8\)"):
        rank(scorer, zero, zero, zero, index, num_entities=8)


def test_invalid_candidates_raise():
    scorer, index, zero = table_scorer(integer_table()), make_index(KNOWN), torch.tensor([0])
    with pytest.raises(ValueError, match=r"'candidates' needs to be boolean of shape \[7\]"):
        rank(scorer, zero, zero, zero, index, num_entities=N, candidates=torch.ones(N))
    with pytest.raises(ValueError, match=r'\(got torch.bool, \[2\]\)'):
        rank(scorer, zero, zero, zero, index, num_entities=N, candidates=torch.ones(2).bool())


@pytest.mark.parametrize('name', ['batch_size', 'chunk_size', 'max_elements'])
def test_invalid_sizes_raise(name):
    scorer, index, zero = table_scorer(integer_table()), make_index(KNOWN), torch.tensor([0])
    with pytest.raises(ValueError, match=rf"'{name}' needs to be at least 1 \(got 0\)"):
        rank(scorer, zero, zero, zero, index, num_entities=N, **{name: 0})


def test_wrong_shape_of_scores_raises():
    zero = torch.tensor([0])
    with pytest.raises(ValueError, match=r'returned shape \[1, 7\] for 1 queries and the '
                                         r'entities 0 to 3 \(expected \[1, 3\]\)'):
        rank(lambda h, r, start, stop: torch.zeros(h.numel(), N), zero, zero, zero,
             make_index(KNOWN), num_entities=N, chunk_size=3)


def test_ranks_equal_those_of_ogb():
    from ogb.linkproppred import Evaluator

    num_entities, num_relations = 60, 3
    generator = torch.Generator().manual_seed(4)
    table = integer_table(4, 12, num_entities, num_relations)
    size = torch.tensor([num_entities, num_relations, num_entities])
    triples = (torch.rand(400, 3, generator=generator) * size).long()
    known = list(map(tuple, triples.tolist()))
    head_index, rel_type, tail_index = triples[:100].t()

    # The same candidate lists: each filtered one is removed by a score below all others.
    negative = table[head_index, rel_type].clone()
    for row, (h, r, t) in enumerate(known[:100]):
        for entity in range(num_entities):
            if entity == t or (h, r, entity) in known:
                negative[row, entity] = -1.
    expected = Evaluator('ogbl-wikikg2').eval({
        'y_pred_pos': table[head_index, rel_type, tail_index],
        'y_pred_neg': negative,
    })

    ranks = rank(table_scorer(table), head_index, rel_type, tail_index,
                 make_index(known, num_entities, num_relations), num_entities=num_entities,
                 batch_size=32, chunk_size=25)
    assert torch.allclose(ranks.rank.reciprocal().float(), expected['mrr_list'])
    assert int((ranks.pessimistic > ranks.optimistic).sum()) > 50
    for k in [1, 3, 10]:
        assert torch.equal((ranks.rank <= k).float(), expected[f'hits@{k}_list'])
