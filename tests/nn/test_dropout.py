import pytest
import torch

from pyg_mmkgc.nn.dropout import drop_modalities, dropout


@pytest.mark.parametrize('p', [0.2, 0.5, 0.9])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_share_scale_and_gradient(p, dtype):
    torch.manual_seed(0)
    x = torch.full((301, 333), 2.0, dtype=dtype, requires_grad=True)
    out = dropout(x, p, training=True)
    assert out.dtype == dtype
    kept = out != 0
    # Three standard deviations of a share of 100,000 draws, over all, by row and by column:
    assert float(kept.double().mean()) == pytest.approx(1 - p, abs=0.005)
    for dim in (0, 1):
        assert kept.double().mean(dim=dim).sub(1 - p).abs().max() < 0.15
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 2 / (1 - p)),
                               rtol=tolerance, atol=0)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach() / 2)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(100_000), 0.5, training=True) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5):
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 0.01


def test_the_seed_decides():
    torch.manual_seed(0)
    first = dropout(torch.ones(50), 0.5, training=True)
    assert not dropout(torch.ones(50), 0.5, training=True).equal(first)
    torch.manual_seed(0)
    assert dropout(torch.ones(50), 0.5, training=True).equal(first)


@pytest.mark.parametrize('shape', [(0, ), (1, ), (3, 0, 2), (5, 1, 3)])
def test_odd_shapes(shape):
    assert dropout(torch.ones(shape), 0.5, training=True).shape == shape


def test_nothing_is_dropped_otherwise():
    x = torch.ones(5)
    assert dropout(x, 0.5, training=False).equal(x)
    assert dropout(x, 0.0, training=True).equal(x)


def test_modalities_are_dropped_but_never_all():
    torch.manual_seed(0)
    mask = torch.rand(20_000, 3) < torch.tensor([1.0, 0.8, 0.5])
    mask[0] = False
    kept = drop_modalities(mask, torch.tensor([0.0, 0.5, 0.9]))
    assert not (kept & ~mask).any()
    assert kept[:, 0].equal(mask[:, 0])
    for m, share in [(1, 0.5), (2, 0.1)]:
        assert float(kept[mask[:, m], m].double().mean()) == pytest.approx(share, abs=0.03)
    everything = drop_modalities(mask, torch.ones(3))
    assert everything.equal(mask)  # Each would lose all that it has.
    kept = drop_modalities(mask, torch.tensor([0.9, 0.9, 0.9]))
    assert kept.any(dim=1).equal(mask.any(dim=1))
    assert kept.sum() < mask.sum()
