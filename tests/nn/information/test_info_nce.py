import math

import pytest
import torch

from pyg_mmkgc.nn.information import InfoNCE


def gaussians(num_samples, dim, rho, generator):
    """Two standard Gaussian views with correlation `rho` in each of `dim` coordinates."""
    x = torch.randn(num_samples, dim, generator=generator)
    noise = torch.randn(num_samples, dim, generator=generator)
    return torch.stack([x, rho * x + math.sqrt(1 - rho**2) * noise], dim=1)


def true_information(dim, rho):
    return -0.5 * dim * math.log(1 - rho**2)


def trained_estimator(dim, rho, batch_size, num_steps):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    estimator = InfoNCE(2, dim)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        estimator.learning_loss(gaussians(batch_size, dim, rho, generator),
                                gaussians(batch_size, dim, rho, generator)).backward()
        optimizer.step()
        schedule.step()
    return estimator.eval()


def mlp(module, view, x):
    hidden = (x @ module.weight1[view] + module.bias1[view, 0]).clamp(min=0)
    return hidden @ module.weight2[view] + module.bias2[view, 0]


@torch.no_grad()
def slow_reference(estimator, views, reference, mask, reference_mask):
    num_entities, num_views, _ = views.shape
    out = torch.zeros(num_entities, num_views, num_views)
    for e in range(num_entities):
        for i in range(num_views):
            for j in range(num_views):
                bank = [k for k in range(reference.size(0)) if reference_mask[k, j]]
                if i == j or not mask[e, i] or not mask[e, j] or not bank:
                    continue
                source = mlp(estimator.source, i, views[e, i])

                def critic(y, source=source, j=j):
                    target = mlp(estimator.target, j, y)
                    return float(source @ target) / math.sqrt(estimator.hidden_channels)

                own = critic(views[e, j])
                total = math.exp(own) + sum(math.exp(critic(reference[k, j])) for k in bank)
                out[e, i, j] = own - math.log(total / (len(bank) + 1))
    return out


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_info_nce_against_reference(seed):
    torch.manual_seed(seed)
    estimator = InfoNCE(4, 3, hidden_channels=5)
    views, reference = 2 * torch.randn(6, 4, 3), 2 * torch.randn(5, 4, 3)
    mask, reference_mask = torch.rand(6, 4) < 0.7, torch.rand(5, 4) < 0.5
    reference_mask[:, seed] = False
    expected = slow_reference(estimator, views, reference, mask, reference_mask)
    assert (expected != 0).sum() > 10
    out = estimator(views, reference, mask, reference_mask)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)

    # The loss is the mean over what exists and has a bank.
    exists = expected != 0
    loss = estimator.learning_loss(views, reference, mask, reference_mask)
    torch.testing.assert_close(loss, -expected[exists].mean(), rtol=1e-4, atol=1e-5)

    full = torch.ones_like(mask), torch.ones_like(reference_mask)
    torch.testing.assert_close(estimator(views, reference),
                               slow_reference(estimator, views, reference, *full),
                               rtol=1e-4, atol=1e-5)


def test_info_nce_survives_large_scores():
    torch.manual_seed(0)
    estimator = InfoNCE(2, 3)
    views = 1e4 * torch.randn(5, 2, 3)
    views.requires_grad_()
    out = estimator(views, views.detach().flip(0))
    assert out.detach().abs().max() > 100  # `exp` of such scores overflows.
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(views.grad).all()


def test_info_nce_bounds():
    torch.manual_seed(0)
    estimator = InfoNCE(2, 3)
    views = 100 * torch.randn(50, 2, 3)
    out = estimator(views, 100 * torch.randn(9, 2, 3))
    assert out.max().item() == pytest.approx(math.log(10), rel=1e-4)  # Reached, never passed.
    # An entity that stands in the bank itself counts twice in the sum.
    out = estimator(views, views)
    assert math.log(51 / 2) - 0.01 < out.max().item() < math.log(51 / 2) + 1e-4


def test_info_nce_is_near_a_small_truth():
    truth = true_information(2, 0.8)  # 1.02 nats, bank of 500: log 501 = 6.2.
    estimator = trained_estimator(2, 0.8, batch_size=128, num_steps=500)
    generator = torch.Generator().manual_seed(2)
    out = estimator(gaussians(4000, 2, 0.8, generator), gaussians(500, 2, 0.8, generator))
    for pair in (out[:, 0, 1], out[:, 1, 0]):
        assert 0.85 * truth < pair.mean().item() < 1.05 * truth

    # Pointwise: it follows the true log-ratio of each entity, not just its mean.
    views = gaussians(2000, 2, 0.8, generator)
    x, y = views.unbind(1)
    log_ratio = (0.5 * (y**2 - (y - 0.8 * x)**2 / 0.36) - 0.5 * math.log(0.36)).sum(dim=-1)
    out = estimator(views, gaussians(500, 2, 0.8, generator))[:, 0, 1].detach()
    assert torch.corrcoef(torch.stack([log_ratio, out]))[0, 1] > 0.9


def test_info_nce_stays_below_log_n():
    truth = true_information(8, 0.95)  # 9.3 nats, bank of 15: log 16 = 2.8.
    estimator = trained_estimator(8, 0.95, batch_size=15, num_steps=200)
    generator = torch.Generator().manual_seed(2)
    out = estimator(gaussians(4000, 8, 0.95, generator), gaussians(15, 8, 0.95, generator))
    for pair in (out[:, 0, 1], out[:, 1, 0]):
        assert pair.max().item() <= math.log(16) + 1e-5
        assert 0.7 * math.log(16) < pair.mean().item() < 0.3 * truth


def test_info_nce_of_independent_views_is_zero():
    estimator = trained_estimator(2, 0.0, batch_size=256, num_steps=100)
    generator = torch.Generator().manual_seed(2)
    out = estimator(gaussians(4000, 2, 0.0, generator), gaussians(500, 2, 0.0, generator))
    assert out.mean(dim=0).abs().max().item() < 0.02
