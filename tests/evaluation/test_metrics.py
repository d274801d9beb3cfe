import pytest
import torch

from pyg_mmkgc.data import TripleIndex
from pyg_mmkgc.evaluation import Ranks, compute_metrics, rank


def make_ranks(optimistic, pessimistic, num_candidates):
    return Ranks(*map(torch.tensor, (optimistic, pessimistic, num_candidates)))


def test_metrics_by_hand():
    # Realistic ranks 1, 2.5, 10, 10.5 among 5, 9, 21 and 41 candidates.
    ranks = make_ranks([1, 2, 10, 10], [1, 3, 10, 11], [5, 9, 21, 41])
    out = compute_metrics(ranks)
    assert list(out) == ['mrr', 'mr', 'amri', 'hits@1', 'hits@3', 'hits@10', 'count']
    assert out['mrr'] == pytest.approx((1 + 1 / 2.5 + 1 / 10 + 1 / 10.5) / 4)
    assert out['mr'] == 6.0
    # A random scorer has mean rank (3 + 5 + 11 + 21) / 4 = 10.
    assert out['amri'] == pytest.approx(1 - 5 / 9)
    assert (out['hits@1'], out['hits@3'], out['hits@10']) == (0.25, 0.5, 0.75)
    assert out['count'] == 4
    assert isinstance(out['count'], int)
    assert all(isinstance(out[key], float) for key in list(out)[:-1])


def test_other_ks():
    out = compute_metrics(make_ranks([1, 2], [1, 3], [5, 5]), ks=[2])
    assert list(out) == ['mrr', 'mr', 'amri', 'hits@2', 'count']
    assert out['hits@2'] == 0.5


def test_amri_bounds():
    assert compute_metrics(make_ranks([1, 1], [1, 1], [5, 7]))['amri'] == 1.0
    assert compute_metrics(make_ranks([5, 7], [5, 7], [5, 7]))['amri'] == -1.0
    assert compute_metrics(make_ranks([1, 1], [5, 7], [5, 7]))['amri'] == 0.0  # All tie.


def test_amri_without_choice():
    out = compute_metrics(make_ranks([1, 1], [1, 1], [1, 1]))
    assert (out['mrr'], out['mr'], out['amri']) == (1.0, 1.0, 0.0)


def test_amri_of_random_scores_is_zero():
    num_entities, num_queries = 200, 3000
    generator = torch.Generator().manual_seed(0)

    def draw(num, high):
        return torch.randint(high, (num, ), generator=generator)

    index = TripleIndex(draw(5000, num_entities), draw(5000, 2), draw(5000, num_entities),
                        num_entities, 2)
    scores = torch.rand(num_entities, 4, num_entities, generator=generator)
    ranks = rank(lambda h, r, start, stop: scores[h, r, start:stop],
                 draw(num_queries, num_entities), draw(num_queries, 4),
                 draw(num_queries, num_entities), index, num_entities=num_entities)
    # One standard deviation is 1 / sqrt(3 * num_queries), about 0.01.
    assert compute_metrics(ranks)['amri'] == pytest.approx(0., abs=0.04)


def test_large_ranks_are_exact():
    # Half ranks above 2^24 do not exist in single precision.
    big = 2**25 + 1
    assert compute_metrics(make_ranks([big], [big + 1], [2 * big]))['mr'] == big + 0.5


def test_no_ranks_raise():
    empty = Ranks(*torch.empty(3, 0, dtype=torch.long))
    with pytest.raises(ValueError, match='^There are no ranks to compute metrics of'):
        compute_metrics(empty)


def test_invalid_ks_raise():
    with pytest.raises(ValueError, match=r"'ks' needs to hold numbers of at least 1 \(got 0\)"):
        compute_metrics(make_ranks([1], [1], [1]), ks=(1, 0))
