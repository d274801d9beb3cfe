"""What holds for any ranking, any split and any saved model, tried on many small ones."""
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pyg_mmkgc.data import TripleIndex, build_data, split_triples
from pyg_mmkgc.evaluation import compute_metrics, evaluate, rank
from pyg_mmkgc.nn import KGModel
from pyg_mmkgc.training.recipe import MODELS

N, R = 7, 2
SETTINGS = settings(max_examples=25, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))
triple = st.tuples(st.integers(0, N - 1), st.integers(0, R - 1), st.integers(0, N - 1))
rows = st.lists(triple, min_size=1, max_size=15)


def columns(triples):
    return torch.tensor(triples, dtype=torch.long).reshape(-1, 3).t().unbind(0)


# Ranking


@given(queries=rows, known=st.lists(triple, max_size=15),
       values=st.lists(st.integers(-2, 2), min_size=2 * R * N * N, max_size=2 * R * N * N),
       allowed=st.lists(st.booleans(), min_size=N, max_size=N), all_allowed=st.booleans(),
       batch_size=st.integers(1, 5), chunk_size=st.integers(1, N))
@SETTINGS
def test_ranks_are_those_of_a_plain_count(queries, known, values, allowed, all_allowed, batch_size,
                                          chunk_size):
    # Few distinct scores, so that there are ties.
    table = torch.tensor(values, dtype=torch.float).view(2 * R, N, N)
    head_index, rel_type, tail_index = columns(queries)
    allowed = torch.tensor(allowed) | all_allowed
    allowed[tail_index] = True
    found = rank(lambda h, r, start, stop: table[r, h, start:stop], head_index, rel_type,
                 tail_index, TripleIndex(*columns(known), N, R), num_entities=N,
                 candidates=allowed, batch_size=batch_size, chunk_size=chunk_size)
    reciprocal = []
    for i, (h, r, t) in enumerate(queries):
        own, better, tied, count = table[r, h, t], 0, 0, 0
        for e in range(N):
            if e == t or (allowed[e] and (h, r, e) not in known):
                count += 1
                better += int(table[r, h, e] > own)
                tied += int(e != t and table[r, h, e] == own)
        assert float(found.rank[i]) == 1 + better + tied / 2
        assert int(found.num_candidates[i]) == count
        reciprocal.append(1 / (1 + better + tied / 2))
    assert compute_metrics(found)['mrr'] == pytest.approx(sum(reciprocal) / len(reciprocal))


@given(queries=rows, order=st.permutations(range(N)), scale=st.sampled_from([0.5, 3.0, 1e4]),
       seed=st.integers(0, 99))
@SETTINGS
def test_ranks_know_order_alone(queries, order, scale, seed):
    # Neither the names of entities nor the unit of scores change a rank.
    table = torch.rand(2 * R, N, N, generator=torch.Generator().manual_seed(seed))
    head_index, rel_type, tail_index = columns(queries)
    known = TripleIndex(head_index, rel_type, tail_index, N, R)
    first = rank(lambda h, r, start, stop: table[r, h, start:stop], head_index, rel_type,
                 tail_index, known, num_entities=N)
    new = torch.tensor(order)
    other = torch.empty_like(table)
    other[:, new.unsqueeze(1), new] = scale * table - 1
    second = rank(lambda h, r, start, stop: other[r, h, start:stop], new[head_index], rel_type,
                  new[tail_index], TripleIndex(new[head_index], rel_type, new[tail_index], N, R),
                  num_entities=N)
    assert torch.equal(first.rank, second.rank)


# Splits


@given(triples=st.lists(triple, min_size=10, max_size=60), seed=st.integers(0, 99),
       val=st.floats(0.05, 0.3), test=st.floats(0.05, 0.3))
@SETTINGS
def test_splits_are_disjoint_and_complete(triples, seed, val, test):
    try:
        parts = split_triples(torch.tensor(triples), [1 - val - test, val, test], seed)
    except ValueError:  # Too few can be spared; that is tested on its own.
        reject()
    sets = {name: [tuple(row) for row in part.tolist()] for name, part in parts.items()}
    everything = [row for part in sets.values() for row in part]
    assert set(everything) == set(triples)
    for name, part in sets.items():
        for other in set(sets) - {name}:
            assert not set(part) & set(sets[other])
    train = sets['train']
    assert {e for h, _, t in train for e in (h, t)} == {e for h, _, t in triples for e in (h, t)}
    assert {r for _, r, _ in train} == {r for _, r, _ in triples}


# Save and load


label = st.text(min_size=1, max_size=8)


@given(name=st.sampled_from(sorted(MODELS)), train=rows, test=rows, seed=st.integers(0, 99),
       hidden_channels=st.sampled_from([2, 4, 6]), features=st.booleans(), triples=st.booleans(),
       exclude_loops=st.booleans(), masks=st.lists(st.booleans(), min_size=2 * N, max_size=2 * N),
       labels=st.lists(label, min_size=N + R, max_size=N + R, unique=True),
       candidates=st.sampled_from(['all', 'seen']))
@SETTINGS
def test_models_come_back(name, train, test, seed, hidden_channels, features, triples,
                          exclude_loops, masks, labels, candidates):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.tensor(masks).view(2, N)
    data = build_data(
        {'train': torch.tensor(train), 'val': torch.tensor(test), 'test': torch.tensor(test)},
        labels[:N], labels[N:],
        {m: (torch.randn(N, size, generator=generator), mask)
         for (m, size), mask in zip([('image', 3), ('text', 2)], masks, strict=True)})
    data.candidates = candidates
    options = {} if name == 'nearest' else {'hidden_channels': hidden_channels,
                                            'exclude_loops': exclude_loops}
    torch.manual_seed(seed)
    model = MODELS[name].from_data(data, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    triples = triples or name == 'nearest'
    every = torch.arange(N).repeat_interleave(2 * R), torch.arange(2 * R).repeat(N)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model'
        model.save_pretrained(path, features=features, triples=triples)
        loaded = KGModel.from_pretrained(path)
    if features:
        with torch.no_grad():
            assert torch.equal(loaded.score_all(*every), model.score_all(*every))
        question = {'head': 0, 'relation': 0, 'top': N}
        found, expected = loaded.predict(**question), model.predict(**question)
        for answers in (found, expected):
            for answer in answers:
                if not triples:
                    answer['known'] = None
        assert found == expected
    loaded.attach(data)
    with torch.no_grad():
        assert torch.equal(loaded.score_all(*every), model.score_all(*every))
    if candidates == 'all':
        assert torch.equal(evaluate(loaded, data, 'test').ranks['tail'].rank,
                           evaluate(model, data, 'test').ranks['tail'].rank)
