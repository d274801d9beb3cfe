import numpy as np
import pytest
import torch

from pyg_mmkgc.testing.no_sync import NoSync

X = torch.arange(6)

SYNCHRONISING = {
    'item': (lambda: X[0].item(), 'aten::(_local_scalar_dense|item)'),
    'bool': (lambda: bool(X[0] > 1), 'aten::(_local_scalar_dense|is_nonzero)'),
    'int': (lambda: list(range(X[3])), 'aten::(_local_scalar_dense|item)'),
    'tolist': (lambda: X.tolist(), r'Tensor\.tolist'),
    'numpy': (lambda: X.numpy(), r'Tensor\.numpy'),
    'asarray': (lambda: np.asarray(X), r'Tensor\.__array__'),
    'cpu': (lambda: X.cpu(), r'Tensor\.cpu'),
    'nonzero': (lambda: X.nonzero(), 'aten::nonzero'),
    'where': (lambda: torch.where(X > 2), 'aten::(nonzero|where)'),
    'mask': (lambda: X[X > 2], 'aten::index'),
    'mask_write': (lambda: X.clone().__setitem__(X > 9, 0), 'aten::index_put_'),
    'masked_select': (lambda: torch.masked_select(X, X > 2), 'aten::masked_select'),
    'unique': (lambda: X.unique(), 'aten::_unique2'),
    'unique_dim': (lambda: torch.stack([X, X]).unique(dim=1), 'aten::unique_dim'),
    'unique_consecutive': (lambda: X.unique_consecutive(), 'aten::unique_consecutive'),
    'bincount': (lambda: torch.bincount(X), 'aten::bincount'),
    'repeat_interleave': (lambda: X.repeat_interleave(X), 'aten::repeat_interleave'),
    'equal': (lambda: torch.equal(X, X.clone()), 'aten::equal'),
    'allclose': (lambda: torch.allclose(X, X.clone()), 'aten::(equal|allclose)'),
    # No other device is at hand everywhere; the mode looks before the copy would fail.
    'to': (lambda: torch.empty(2, device='meta').to('cpu'),
           'aten::(_to_copy|to) .*from meta to cpu'),
    'copy': (lambda: torch.empty(2).copy_(torch.empty(2, device='meta')),
             'aten::copy_.*from meta to cpu'),
}


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('name', SYNCHRONISING)
def test_fails_by_name(name, inference):
    call, match = SYNCHRONISING[name]
    with torch.inference_mode(inference), NoSync():
        with pytest.raises(RuntimeError, match=match):
            call()


def test_lets_the_rest_through():
    weight = torch.randn(4, 3, requires_grad=True)
    index = torch.tensor([3, 0, 0])
    with NoSync():
        out = torch.where(X > 2, X, 0)
        repeated = X.repeat_interleave(X, output_size=15)
        picked = weight[index] + weight.index_select(0, index)
        filled = picked.masked_fill(picked > 0, 0.)
        loss = torch.nn.functional.softplus(filled).sum() + torch.searchsorted(X, X).sum()
        loss.backward()
        X.to(torch.float).to('cpu')
    assert out.tolist() == [0, 0, 0, 3, 4, 5]
    assert repeated.tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5]
    assert weight.grad.abs().sum() > 0


def test_sees_the_backward_pass():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.sum().item()

    x = torch.ones(3, requires_grad=True)
    with NoSync():
        out = Reads.apply(x).sum()
        with pytest.raises(RuntimeError, match='_local_scalar_dense'):
            out.backward()


def test_allow():
    with NoSync(allow=['aten::_local_scalar_dense', 'Tensor.tolist']):
        assert X[2].item() == 2
        assert X.tolist() == [0, 1, 2, 3, 4, 5]
        with pytest.raises(RuntimeError, match='aten::nonzero'):
            X.nonzero()


def test_leaves_nothing_behind():
    with pytest.raises(RuntimeError, match='tolist'), NoSync():
        X.tolist()
    assert X.nonzero().size(0) == 5
    assert X.tolist()[-1] == 5
