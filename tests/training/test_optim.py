import copy

import pytest
import torch
from torch.nn import Embedding

from pyg_mmkgc.testing import NoSync
from pyg_mmkgc.training.optim import ROW_OPTIMIZERS, RowAdagrad, RowAdam, RowSGD, round_at_random

N, C = 12, 5


def table(sparse, dtype=None, size=N):
    torch.manual_seed(0)
    return Embedding(size, C, sparse=sparse, dtype=dtype)


def train(module, optimizer, steps=6):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        index = torch.randperm(module.num_embeddings, generator=generator)[:4]
        goal = torch.randn(4, C, generator=generator)
        optimizer.zero_grad()
        (module(index).float() * goal + module(index).float()**2).sum().backward()
        optimizer.step()


def rows_of(module, index, goal):
    module.zero_grad()
    (module(index) * goal).sum().backward()


@pytest.mark.parametrize('cls, dense', [(RowSGD, torch.optim.SGD),
                                        (RowAdagrad, torch.optim.Adagrad)])
def test_equals_the_dense_optimiser(cls, dense):
    first, second = table(True), table(False)
    a, b = cls([first.weight], lr=0.3), dense([second.weight], lr=0.3)
    start = first.weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        index = torch.randperm(N - 2, generator=generator)[:4]
        goal = torch.randn(4, C, generator=generator)
        for module, optimizer in [(first, a), (second, b)]:
            rows_of(module, index, goal)
            optimizer.step()
    assert first.weight.grad.is_sparse
    assert not second.weight.grad.is_sparse
    torch.testing.assert_close(first.weight, second.weight, rtol=0, atol=1e-6)
    assert (first.weight[:N - 2] != start[:N - 2]).all(dim=1).all()
    assert torch.equal(first.weight[N - 2:], start[N - 2:])  # Never looked up.


def test_adam_equals_the_sparse_one_of_torch():
    first, second = table(True), table(True)
    a, b = RowAdam([first.weight], lr=0.1), torch.optim.SparseAdam([second.weight], lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        index = torch.randperm(N, generator=generator)[:4]
        goal = torch.randn(4, C, generator=generator)
        for module, optimizer in [(first, a), (second, b)]:
            rows_of(module, index, goal)
            optimizer.step()
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ROW_OPTIMIZERS)
def test_a_step_waits_for_nobody_and_a_closure_gives_its_loss(name):
    module = table(True)
    optimizer = ROW_OPTIMIZERS[name]([module.weight], lr=0.1)
    assert optimizer.step() is None  # Without any gradient.
    rows_of(module, torch.tensor([3, 1]), torch.ones(2, C))
    with NoSync():
        optimizer.step()

    def closure():
        optimizer.zero_grad()
        loss = module(torch.tensor([0])).sum()
        loss.backward()
        return loss

    before = module.weight[0].sum().item()
    assert optimizer.step(closure).item() == pytest.approx(before, abs=1e-6)
    assert module.weight[0].sum().item() < before


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_rounding_at_random_keeps_the_mean(dtype):
    torch.manual_seed(0)
    x = torch.tensor([0.0, 1.0, 1.0001, -3.1234, 1e-3 / 3, 257.3, -0.7])
    out = round_at_random(x.repeat(20000, 1), dtype)
    assert out.dtype == dtype
    unit = torch.finfo(dtype).eps * x.abs()
    # The error of one is below its last bit, and that of the mean hundred times smaller.
    assert ((out.float() - x).abs() <= unit * 1.01 + 1e-12).all()
    assert ((out.float().mean(dim=0) - x).abs() <= 0.02 * unit + 1e-12).all()
    exact = torch.tensor([0.0, 1.0, -0.5])
    assert torch.equal(round_at_random(exact.repeat(99, 1), dtype).float(), exact.repeat(99, 1))
    assert round_at_random(x, torch.float) is x


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_small_updates_are_not_lost_in_half_precision(dtype):
    module = Embedding(1, 4000, sparse=True, dtype=dtype)
    torch.nn.init.ones_(module.weight)
    optimizer = RowSGD([module.weight], lr=1e-5)
    torch.manual_seed(0)
    for _ in range(100):
        optimizer.zero_grad()
        module(torch.tensor([0])).sum().backward()
        optimizer.step()
    assert module.weight.dtype == dtype
    assert module.weight.float().mean().item() == pytest.approx(1 - 1e-3, abs=2e-4)


def test_state_is_in_single_precision_and_can_be_restored():
    module = table(True, torch.bfloat16)
    optimizer = RowAdam([module.weight], lr=0.1)
    train(module, optimizer)
    state = optimizer.state_dict()
    assert state['state'][0]['mean'].dtype == torch.float
    other = RowAdam([table(True).weight], lr=0.1)
    other.load_state_dict(state)
    assert other.state_dict()['state'][0]['step'] == 12 // 2


@pytest.mark.parametrize('name', ROW_OPTIMIZERS)
def test_a_table_in_half_precision_goes_on_bit_for_bit(name):
    whole, other = table(True, torch.bfloat16), table(True, torch.bfloat16)
    optimizers = [ROW_OPTIMIZERS[name]([module.weight], lr=0.1) for module in (whole, other)]
    train(whole, optimizers[0])
    other.load_state_dict(whole.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    assert all(value.dtype == torch.float for value in optimizers[1].state[other.weight].values()
               if torch.is_tensor(value))
    for module, optimizer in zip((whole, other), optimizers, strict=True):
        torch.manual_seed(2)  # Rounding is at random.
        train(module, optimizer)
    assert whole.weight.equal(other.weight)
