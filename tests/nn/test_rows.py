import pytest
import torch

from pyg_mmkgc.nn.rows import select_rows


@pytest.mark.parametrize('size', [(7, 3), (7, 1), (7, 0), (7, 2, 3), (7, 0, 3)])
@pytest.mark.parametrize('shape', [(0, ), (1, ), (20, ), (5, 4)])
def test_rows_and_gradient_are_those_of_an_index(size, shape):
    torch.manual_seed(0)
    x = torch.randn(size, dtype=torch.double)
    index = torch.randint(7, shape)
    grads = []
    for select in (select_rows, lambda x, index: x[index]):
        leaf = x.clone().requires_grad_()
        out = select(leaf, index)
        assert out.equal(x[index])
        out.backward(torch.arange(1.0, out.numel() + 1, dtype=torch.double).view(out.shape))
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_any_layout_and_type():
    index = torch.tensor([2, 0, 2])
    for x in (torch.rand(4, 6).t(), torch.rand(4, 6)[:, 1:3], torch.rand(1, 1).expand(4, 2),
              torch.rand(4, 2, 3).transpose(1, 2), torch.rand(4, 2) > 0.5,
              torch.rand(4, 2, dtype=torch.bfloat16)):
        assert select_rows(x, index).equal(x[index])
