import math

import pytest
import torch
from torch.distributions import Normal

from pyg_mmkgc.nn.information import CLUB
from pyg_mmkgc.nn.information.club import draw


def gaussians(num_samples, rho, generator):
    """Two standard Gaussian views; coordinate `c` of one has correlation `rho[c]` with that of
    the other."""
    x = torch.randn(num_samples, len(rho), generator=generator)
    noise = torch.randn(num_samples, len(rho), generator=generator)
    return torch.stack([x, rho * x + (1 - rho**2).sqrt() * noise], dim=1)


class ExactConditional(torch.nn.Module):
    """The true p(y | x) = N(rho x, 1 - rho^2), the same in both directions."""
    def __init__(self, rho):
        super().__init__()
        self.rho = torch.nn.Parameter(rho)

    def forward(self, views):
        mean = (self.rho * views).unsqueeze(2).expand(-1, -1, views.size(1), -1)
        return mean, (1 - self.rho**2).log().expand_as(mean)


@torch.no_grad()
def slow_reference(estimator, views, reference, mask, reference_mask):
    num_entities, num_views, _ = views.shape
    out = torch.zeros(num_entities, num_views, num_views)
    for e in range(num_entities):
        mean, log_var = estimator.conditional(views[e:e + 1])
        for i in range(num_views):
            for j in range(num_views):
                bank = [k for k in range(reference.size(0)) if reference_mask[k, j]]
                if i == j or not mask[e, i] or not mask[e, j] or not bank:
                    continue
                normal = Normal(mean[0, i, j], log_var[0, i, j].exp().sqrt())
                out[e, i, j] = normal.log_prob(views[e, j]).sum() - sum(
                    normal.log_prob(reference[k, j]).sum() for k in bank) / len(bank)
    return out


def make_inputs(seed):
    torch.manual_seed(seed)
    views, reference = 1 + torch.randn(6, 4, 3), 2 * torch.randn(5, 4, 3) - 1
    mask, reference_mask = torch.rand(6, 4) < 0.7, torch.rand(5, 4) < 0.5
    reference_mask[:, seed] = False
    return views, reference, mask, reference_mask


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_club_against_reference(seed):
    views, reference, mask, reference_mask = make_inputs(seed)
    estimator = CLUB(4, 3, hidden_channels=5)
    expected = slow_reference(estimator, views, reference, mask, reference_mask)
    assert (expected != 0).sum() > 10
    out = estimator(views, reference, mask, reference_mask)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)

    full = torch.ones_like(mask), torch.ones_like(reference_mask)
    torch.testing.assert_close(estimator(views, reference),
                               slow_reference(estimator, views, reference, *full),
                               rtol=1e-4, atol=1e-5)


def test_club_moments_are_exact_far_from_zero():
    # Second moments about zero would leave no digit of a variance of 1 around 1e4.
    torch.manual_seed(0)
    rho = torch.tensor([0.8, 0.5])
    estimator = CLUB(2, 2, conditional=ExactConditional(rho))
    views, reference = torch.randn(50, 2, 2), torch.randn(40, 2, 2)

    class Shifted(ExactConditional):
        def forward(self, views):
            mean, log_var = super().forward(views - 1e4)
            return mean + 1e4, log_var

    shifted = CLUB(2, 2, conditional=Shifted(rho))(views + 1e4, reference + 1e4)
    torch.testing.assert_close(shifted, estimator(views, reference), rtol=0.01, atol=0.05)


def test_club_learning_loss_is_the_likelihood():
    views, reference, mask, reference_mask = make_inputs(0)
    estimator = CLUB(4, 3, hidden_channels=5)
    terms = []
    for e in range(6):
        mean, log_var = estimator.conditional(views[e:e + 1] * mask[e:e + 1, :, None])
        terms += [Normal(mean[0, i, j], log_var[0, i, j].exp().sqrt()).log_prob(views[e, j]).sum()
                  for i in range(4) for j in range(4) if i != j and mask[e, i] and mask[e, j]]
    expected = -torch.stack(terms).mean()
    loss = estimator.learning_loss(views, reference, mask, reference_mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(estimator.learning_loss(views, mask=mask), expected)


def test_club_with_the_exact_conditional():
    rho = torch.tensor([0.9, -0.7, 0.5, 0.0])
    closed_form = (rho**2 / (1 - rho**2)).sum().item()
    truth = (-0.5 * (1 - rho**2).log()).sum().item()
    assert closed_form > truth

    generator = torch.Generator().manual_seed(0)
    views, reference = gaussians(40000, rho, generator), gaussians(40000, rho, generator)
    for sampled, tolerance in ((False, 0.1), (True, 0.2)):
        estimator = CLUB(2, 4, sampled=sampled, conditional=ExactConditional(rho))
        out = estimator(views, reference, generator=generator)
        for pair in (out[:, 0, 1], out[:, 1, 0]):
            assert pair.mean().item() == pytest.approx(closed_form, abs=tolerance)

    # The true conditional minimises the learning loss; what is left is the entropy of y given x.
    entropy = 0.5 * (2 * math.pi * math.e * (1 - rho**2)).log().sum().item()
    estimator = CLUB(2, 4, conditional=ExactConditional(rho))
    loss = estimator.learning_loss(views)
    assert loss.item() == pytest.approx(entropy, abs=0.02)
    loss.backward()
    assert estimator.conditional.rho.grad.abs().max() < 0.1
    assert CLUB(2, 4, conditional=ExactConditional(0.9 * rho)).learning_loss(views) > loss


def trained_estimator(rho, num_steps):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    estimator = CLUB(2, len(rho))
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        estimator.learning_loss(gaussians(256, rho, generator)).backward()
        optimizer.step()
        schedule.step()
    return estimator


def test_trained_club_is_near_the_closed_form():
    rho = torch.tensor([0.8, 0.6, -0.4])
    closed_form = (rho**2 / (1 - rho**2)).sum().item()
    truth = (-0.5 * (1 - rho**2).log()).sum().item()
    estimator = trained_estimator(rho, num_steps=600)
    generator = torch.Generator().manual_seed(2)
    out = estimator(gaussians(20000, rho, generator), gaussians(20000, rho, generator))
    for pair in (out[:, 0, 1], out[:, 1, 0]):
        assert pair.mean().item() == pytest.approx(closed_form, rel=0.1)
        assert pair.mean().item() > truth


def test_trained_club_of_independent_views_is_zero():
    rho = torch.zeros(3)
    estimator = trained_estimator(rho, num_steps=300)
    generator = torch.Generator().manual_seed(2)
    out = estimator(gaussians(20000, rho, generator), gaussians(20000, rho, generator))
    assert out.mean(dim=0).abs().max().item() < 0.05


def test_log_variance_is_bounded():
    estimator = CLUB(2, 3)
    _, log_var = estimator.conditional(1e6 * torch.randn(5, 2, 3))
    assert log_var.abs().max().item() == pytest.approx(estimator.conditional.bound)
    _, log_var = estimator.conditional(torch.zeros(5, 2, 3))
    assert log_var.shape == (5, 2, 2, 3)
    assert 0 < log_var.abs().max() < 1


def test_draw_is_uniform_over_members():
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool().t()
    reference = torch.arange(6.0).view(6, 1, 1).expand(6, 3, 2) + torch.arange(3.0).view(3, 1) * 10
    num_samples = 6000
    out = draw(reference, mask, num_samples, torch.Generator().manual_seed(0))
    assert out.shape == (num_samples, 3, 2)
    assert torch.equal(out[..., 0], out[..., 1])
    for view in range(3):
        members = mask[:, view].nonzero().view(-1) + 10 * view
        value, count = out[:, view, 0].unique(return_counts=True)
        assert value.tolist() == members.tolist()
        expected = num_samples / members.numel()
        chi_square = ((count - expected)**2 / expected).sum().item()
        assert chi_square < 15  # The 99 % quantile of 5 degrees of freedom.
    # Entities and views draw independently of each other.
    assert (out[1:, 2, 0] == out[:-1, 2, 0]).float().mean() < 0.2
    assert (out[:, 2, 0] - 20 == out[:, 0, 0]).float().mean() < 0.2


def test_sampled_club_contrasts_with_one_member():
    views, reference, mask, reference_mask = make_inputs(1)
    estimator = CLUB(4, 3, hidden_channels=5, sampled=True)
    out = estimator(views, reference, mask, reference_mask,
                    generator=torch.Generator().manual_seed(0))
    # One column for each member of the bank: what it would be with that member alone.
    columns = []
    for k in range(reference.size(0)):
        alone = torch.zeros_like(reference_mask)
        alone[k] = reference_mask[k]
        columns.append(slow_reference(estimator, views, reference, mask, alone))
    near = torch.stack([torch.isclose(out, c, rtol=1e-4, atol=1e-5) for c in columns])
    assert near.any(dim=0).all()
    assert len({int(n) for n in near.int().argmax(dim=0)[out != 0]}) > 1


def test_sampled_club_draws_in_training_only():
    views, reference, mask, reference_mask = make_inputs(2)
    sampled = CLUB(4, 3, hidden_channels=5, sampled=True)
    exact = CLUB(4, 3, hidden_channels=5)
    exact.load_state_dict(sampled.state_dict())
    expected = exact(views, reference, mask, reference_mask)

    seeds = [0, 0, *range(1, 2000)]
    draws = [sampled(views, reference, mask, reference_mask,
                     generator=torch.Generator().manual_seed(seed)).detach() for seed in seeds]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    draws = torch.stack(draws[1:])
    error = (draws.mean(dim=0) - expected).abs()
    assert (error <= 5 * draws.std(dim=0) / math.sqrt(len(draws)) + 1e-5).all()

    torch.testing.assert_close(sampled.eval()(views, reference, mask, reference_mask), expected)
