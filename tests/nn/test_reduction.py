import pytest
import torch

from pyg_mmkgc.nn import reduction as module
from pyg_mmkgc.nn.reduction import Answers, reduce_materialized, reduce_scores

B, N, C = 7, 53, 6


def inputs(dtype, scale=1.0, seed=0, times=1):
    g = torch.Generator().manual_seed(seed)
    query = scale * torch.randn(B, C, dtype=dtype, generator=g)
    table = torch.randn(N, C, dtype=dtype, generator=g)
    allowed = torch.rand(N, generator=g) > 0.2
    column = torch.randint(N, (4 * B, ), generator=g)
    row = torch.randint(B, (4 * B, ), generator=g)
    row[2], column[2] = row[0], column[0]  # Looked up twice: both gradients count.
    column[1] = (~allowed).nonzero()[0, 0]  # Looked up, although the sum leaves it out.
    pairs = row.repeat(times), column.repeat(times)
    return query.requires_grad_(), table.requires_grad_(), allowed, pairs


def plain(query, table, reduction, allowed, pairs, mass=0.0):
    score = query @ table.t()
    over = score[:, allowed]
    total = (over.logsumexp(dim=1) if reduction == 'logsumexp' else
             torch.nn.functional.softplus(over).sum(dim=1))
    return total - mass * over.sum(dim=1), score[pairs]


def some_loss(total, picked):
    weight = torch.arange(1, B + 1, dtype=total.dtype) / 3
    return (weight * total).sum() - (picked**2).sum() + picked[0]


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
@pytest.mark.parametrize('block', [1, 3 * N, 2**22])
@pytest.mark.parametrize('mass', [0.0, 0.3, torch.tensor(0.01)])
@pytest.mark.parametrize('times', [1, 3])  # Gradients of few pairs, and of many.
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_plain_form(monkeypatch, reduction, block, mass, times, dtype, tolerance):
    monkeypatch.setattr(module, 'BLOCK', block)
    query, table, allowed, pairs = inputs(dtype, times=times)
    assert (pairs[0].numel() * C < B * N) == (times == 1)
    out = reduce_scores(query, table, reduction, allowed, pairs, mass)
    expected = plain(query, table, reduction, allowed, pairs, mass)
    materialized = reduce_materialized(query @ table.t(), reduction, allowed, pairs, mass)
    for a, b in zip(materialized, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(out, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    grads = torch.autograd.grad(some_loss(*out), [query, table])
    for a, b in zip(grads, torch.autograd.grad(some_loss(*expected), [query, table]), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))
    untouched = ~allowed
    untouched[pairs[1]] = False
    assert bool(untouched.any())
    assert bool((grads[1][untouched] == 0).all())


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
@pytest.mark.parametrize('with_pairs', [1, 3, 0])
def test_a_number_added_to_each_score(reduction, with_pairs):
    query, table, allowed, pairs = inputs(torch.float64, times=with_pairs)
    bias = torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)
    group = torch.arange(B) % 3
    answers = Answers(group, 3, torch.tensor([0, 0, 2]), torch.tensor([1, 5, 7]))
    pairs = pairs if with_pairs else None
    out = reduce_scores(query, table, reduction, allowed, pairs, 0.3, answers, 0.9, bias)
    score = query @ table.t() + bias
    expected = reduce_materialized(score, reduction, allowed, pairs, 0.3, answers, 0.9)
    grads = []
    for total, picked in (out, expected):
        loss = some_loss(total, picked) if with_pairs else (total * torch.arange(B)).sum()
        grads.append(torch.autograd.grad(loss, [query, table, bias]))
    torch.testing.assert_close(out[0], expected[0], rtol=1e-12, atol=1e-12)
    if with_pairs:
        torch.testing.assert_close(out[1], expected[1], rtol=1e-12, atol=1e-12)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
@pytest.mark.parametrize('columns', [1, 20, N])
@pytest.mark.parametrize('looked_up', [None, 0, 3])
@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_weighted_sum_over_queries(monkeypatch, reduction, columns, looked_up, masked, dtype,
                                       tolerance):
    monkeypatch.setattr(module, 'BLOCK', 1)
    monkeypatch.setattr(module, 'MIN_COLUMNS', columns)
    query, table, allowed, pairs = inputs(dtype)
    allowed = allowed if masked else None
    pairs = None if looked_up is None else (pairs[0][:looked_up], pairs[1][:looked_up])
    bias = torch.tensor([-0.7], dtype=dtype, requires_grad=True)
    weight = torch.tensor([1.0, 0.0, 2.5, -1.0, 1.0, 0.0, 0.5], dtype=dtype)
    answers = Answers(torch.arange(B) % 3, 3, torch.tensor([0, 0, 2]), torch.tensor([1, 5, 7]))
    inner = allowed, pairs, 0.3, answers, 0.9
    score = query @ table.t() + bias
    rows, looked = reduce_materialized(score, reduction, *inner)
    for total, picked in (reduce_scores(query, table, reduction, *inner, bias, weight),
                          reduce_materialized(score, reduction, *inner, weight)):
        assert total.dtype == dtype
        assert total.dim() == 0
        torch.testing.assert_close(total, (weight * rows).sum(), rtol=tolerance, atol=tolerance)
        assert (picked is None) == (looked is None)
        losses = [3 * total, 3 * (weight * rows).sum()]
        if picked is not None:
            torch.testing.assert_close(picked, looked, rtol=tolerance, atol=tolerance)
            losses = [loss + (x**2).sum() for loss, x in zip(losses, (picked, looked), strict=True)]
        grads = [torch.autograd.grad(loss, [query, table, bias], retain_graph=True)
                 for loss in losses]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=10 * tolerance)


def test_a_weighted_sum_leaves_no_scores_for_the_backward_pass():
    query, table, allowed, _ = inputs(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x,
                                                  lambda x: x):
        reduce_scores(query, table, 'softplus', allowed, weight=torch.ones(B))
    assert max(kept) == N * C < N * B


def test_all_candidates_and_no_look_up():
    query, table, _, _ = inputs(torch.float64)
    total, picked = reduce_scores(query, table, 'logsumexp')
    assert picked is None
    torch.testing.assert_close(total, (query @ table.t()).logsumexp(dim=1))
    grad, = torch.autograd.grad(total.sum(), query)
    torch.testing.assert_close(grad, (query @ table.t()).softmax(dim=1) @ table)


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
def test_extreme_scores_stay_finite(reduction):
    query, table, allowed, pairs = inputs(torch.float32, scale=1e3)
    out = reduce_scores(query, table, reduction, allowed, pairs)
    expected = plain(query, table, reduction, allowed, pairs)
    torch.testing.assert_close(out[0], expected[0], rtol=1e-5, atol=1e-2)
    for grad in torch.autograd.grad(some_loss(*out), [query, table]):
        assert bool(grad.isfinite().all())


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
def test_half_precision_is_near(reduction):
    query, table, allowed, pairs = inputs(torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out = reduce_scores(query, table, reduction, allowed, pairs)
        grads = torch.autograd.grad(some_loss(*out), [query, table])
    assert out[0].dtype == torch.float32
    assert out[1].dtype == torch.bfloat16
    expected = plain(query, table, reduction, allowed, pairs)
    reference = torch.autograd.grad(some_loss(*expected), [query, table])
    torch.testing.assert_close(out[0], expected[0], rtol=0.02, atol=0.05)
    for a, b in zip(grads, reference, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.half, torch.float, torch.double])
def test_largest_of_a_row(dtype):
    inf, lowest = float('inf'), torch.finfo(dtype).min
    x = torch.tensor([[0.5, 2.0, -3.0], [-0.5, -2.0, -3.0], [-0.0, -2.0, -inf], [0.0, -0.0, -1.0],
                      [-inf, -inf, lowest], [-inf, -inf, -inf], [1.0, inf, -inf],
                      [lowest, -1e-3, -1e-3]], dtype=dtype)
    assert module._row_max(x).equal(x.amax(dim=1))
    torch.manual_seed(0)
    x = torch.randn(50, 300).mul(torch.logspace(-3, 3, 50).unsqueeze(1)).to(dtype)
    for y in (x, -x.abs(), x.abs(), x[:, ::2]):
        assert module._row_max(y).equal(y.amax(dim=1))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float])
@pytest.mark.parametrize('sign', [1, -1])
def test_nan_is_not_lost(dtype, sign):
    query = torch.ones(2, 4, dtype=dtype)
    query[1, 0] = torch.tensor(float('nan')).copysign(torch.tensor(float(sign)))
    total, _ = reduce_scores(query, torch.ones(6, 4, dtype=dtype), 'logsumexp')
    assert total.isnan().tolist() == [False, True]


def test_a_weighted_sum_in_half_precision_is_near(monkeypatch):
    monkeypatch.setattr(module, 'BLOCK', 1)
    monkeypatch.setattr(module, 'MIN_COLUMNS', 10)
    query, table, allowed, _ = inputs(torch.float32)
    weight = torch.arange(B) / B
    with torch.autocast('cpu', torch.bfloat16):
        total, _ = reduce_scores(query, table, 'softplus', allowed, weight=weight)
        grads = torch.autograd.grad(total, [query, table])
    assert total.dtype == torch.float32
    expected = (weight * plain(query, table, 'softplus', allowed, ([0], [0]))[0]).sum()
    torch.testing.assert_close(total, expected, rtol=0.005, atol=0)
    for a, b in zip(grads, torch.autograd.grad(expected, [query, table]), strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 0.02


def test_one_query_and_one_candidate():
    query = torch.tensor([[2.0, -1.0]], requires_grad=True)
    table = torch.tensor([[1.0, 0.5]])
    first = torch.tensor([0])
    total, picked = reduce_scores(query, table, 'logsumexp', pairs=(first, first))
    assert total.tolist() == [1.5]
    assert picked.tolist() == [1.5]
    assert torch.autograd.grad((total - picked).sum(), query)[0].tolist() == [[0.0, 0.0]]


def test_unknown_reduction():
    query, table, *_ = inputs(torch.float32)
    with pytest.raises(ValueError, match="Unknown reduction 'mean'"):
        reduce_scores(query, table, 'mean')
    with pytest.raises(ValueError, match="Unknown reduction 'mean'"):
        reduce_materialized(query @ table.t(), 'mean')


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
@pytest.mark.parametrize('times', [1, 3])
def test_small_gradients_are_exact_and_zero_ones_zero(reduction, times):
    query, table, allowed, pairs = inputs(torch.float32, times=times)
    total, picked = reduce_scores(query, table, reduction, allowed, pairs)
    small = torch.autograd.grad(1e-30 * some_loss(total, picked), [query, table])
    expected = torch.autograd.grad(some_loss(*plain(query, table, reduction, allowed, pairs)),
                                   [query, table])
    for a, b in zip(small, expected, strict=True):
        torch.testing.assert_close(a, 1e-30 * b, rtol=1e-4, atol=1e-35)
    total, _ = reduce_scores(query, table, reduction, allowed, (pairs[0][:0], pairs[1][:0]))
    for grad in torch.autograd.grad(0 * total.sum(), [query, table]):
        assert not grad.any()


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
@pytest.mark.parametrize('piece', [1, 4, 2**13])
@pytest.mark.parametrize('masked', [True, False])
def test_answers_of_queries_that_ask_the_same(monkeypatch, reduction, piece, masked):
    monkeypatch.setattr(module, 'PIECE', piece)
    query, table, allowed, pairs = inputs(torch.float64)
    allowed = allowed if masked else None
    truth = torch.rand(3, N, generator=torch.Generator().manual_seed(3)) > 0.8
    truth[1] = False  # A query without any answer.
    group = torch.tensor([0, 2, 2, 1, 0, 0, 2])
    answers = Answers(group, 3, *truth.nonzero().unbind(1))
    score = query @ table.t()
    every = torch.ones(N, dtype=torch.bool) if allowed is None else allowed
    expected = plain(query, table, reduction, every, pairs, 0.1)
    expected = expected[0] - 0.7 * (score * (truth[group] & every)).sum(dim=1), expected[1]
    for out in (reduce_scores(query, table, reduction, allowed, pairs, 0.1, answers, 0.7),
                reduce_materialized(score, reduction, allowed, pairs, 0.1, answers, 0.7)):
        for a, b in zip(out, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad(some_loss(*x), [query, table], retain_graph=True)
                 for x in (out, expected)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
