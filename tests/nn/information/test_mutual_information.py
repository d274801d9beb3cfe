"""What holds for every estimator; the values of each are tested in files of their own."""
import pytest
import torch

from pyg_mmkgc.nn import information
from pyg_mmkgc.nn.information import CLUB, InfoNCE, MutualInformation
from pyg_mmkgc.testing import NoSync

N, NUM_REFERENCES, V, C = 9, 7, 3, 4
FACTORIES = {
    'info_nce': lambda: InfoNCE(V, C, hidden_channels=8),
    'club': lambda: CLUB(V, C, hidden_channels=8),
    'club_sampled': lambda: CLUB(V, C, hidden_channels=8, sampled=True),
}


@pytest.fixture(params=FACTORIES)
def estimator(request):
    torch.manual_seed(0)
    return FACTORIES[request.param]()


def run(estimator, *args):
    # The same random numbers each time, for those who draw any.
    return estimator(*args, generator=torch.Generator().manual_seed(5))


def make_inputs():
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(N, V, C, generator=generator)
    reference = torch.randn(NUM_REFERENCES, V, C, generator=generator)
    mask = torch.rand(N, V, generator=generator) < 0.7
    reference_mask = torch.rand(NUM_REFERENCES, V, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    mask[2] = torch.tensor([True, False, False])
    reference_mask[:3] = torch.eye(3, dtype=torch.bool)
    return views, reference, mask, reference_mask


def test_public_names():
    assert information.classes == sorted(information.classes)
    assert all(issubclass(getattr(information, name), MutualInformation)
               for name in information.classes)
    assert CLUB.alternating is True
    assert InfoNCE.alternating is False


def test_exact_zeros(estimator):
    views, reference, mask, reference_mask = make_inputs()
    out = run(estimator, views, reference, mask, reference_mask)
    assert out.shape == (N, V, V)
    for e in range(N):
        for i in range(V):
            for j in range(V):
                exists = i != j and bool(mask[e, i] and mask[e, j])
                assert (out[e, i, j].item() != 0) == exists
    full = run(estimator, views, reference)
    assert ((full == 0) == torch.eye(V, dtype=torch.bool)).all()


def test_no_usable_reference_gives_zero(estimator):
    views, reference, mask, reference_mask = make_inputs()
    reference_mask[:, 1] = False
    views.requires_grad_()
    out = run(estimator, views, reference, mask, reference_mask)
    assert (out[:, :, 1] == 0).all()
    assert (out[0, :, [0, 2]] != 0).sum() == 4
    (out.sum() + estimator.learning_loss(views, reference, mask, reference_mask)).backward()
    assert all(torch.isfinite(x.grad).all() for x in (views, *estimator.parameters()))

    out = run(estimator, views, reference, mask, torch.zeros_like(reference_mask))
    assert (out == 0).all()


@pytest.mark.parametrize('garbage', [1e30, float('inf'), float('nan')])
def test_content_of_missing_views_does_not_matter(estimator, garbage):
    inputs = make_inputs()
    results = []
    for fill in (0.0, garbage):
        views, reference, mask, reference_mask = (x.clone() for x in inputs)
        views[~mask], reference[~reference_mask] = fill, fill
        views.requires_grad_()
        reference.requires_grad_()
        estimator.zero_grad()
        out = run(estimator, views, reference, mask, reference_mask)
        loss = estimator.learning_loss(views, reference, mask, reference_mask)
        (out.sum() + loss).backward()
        assert (views.grad[~mask] == 0).all()
        assert (reference.grad[~reference_mask] == 0).all()
        results.append([out, loss, views.grad, *(p.grad for p in estimator.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_the_batch_of_an_entity_does_not_matter(estimator):
    estimator.eval()
    views, reference, mask, reference_mask = make_inputs()
    together = estimator(views, reference, mask, reference_mask)
    for part in (slice(0, 1), slice(4, 9)):
        alone = estimator(views[part], reference, mask[part], reference_mask)
        torch.testing.assert_close(alone, together[part])
    perm = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimator(views[perm], reference, mask[perm], reference_mask),
                               together[perm])


def test_the_order_of_the_bank_does_not_matter(estimator):
    estimator.eval()
    views, reference, mask, reference_mask = make_inputs()
    torch.testing.assert_close(
        estimator(views, reference.flip(0), mask, reference_mask.flip(0)),
        estimator(views, reference, mask, reference_mask))


def test_forward_gives_gradients_to_views_only(estimator):
    views, reference, mask, reference_mask = make_inputs()
    views.requires_grad_()
    reference.requires_grad_()
    run(estimator, views, reference, mask, reference_mask).sum().backward()
    assert all(param.grad is None for param in estimator.parameters())
    assert (views.grad.abs().sum(dim=-1) > 0).all(dim=-1)[0]
    assert (views.grad[1:3] == 0).all()  # No view, and one view: no pair.
    assert reference.grad.abs().sum() > 0


def test_learning_loss_gives_gradients_to_the_estimator_only(estimator):
    views, reference, mask, reference_mask = make_inputs()
    views.requires_grad_()
    reference.requires_grad_()
    loss = estimator.learning_loss(views, reference, mask, reference_mask)
    assert loss.dim() == 0
    loss.backward()
    assert views.grad is None
    assert reference.grad is None
    assert all(param.grad.abs().sum() > 0 for param in estimator.parameters())


def test_one_backward_pass_keeps_roles_apart(estimator):
    inputs = make_inputs()
    grads = []
    for joint in (True, False):
        views = inputs[0].clone().requires_grad_()
        estimator.zero_grad()
        task = run(estimator, views, *inputs[1:]).sum()
        loss = estimator.learning_loss(views, *inputs[1:])
        if joint:
            (task + loss).backward()
        else:
            task.backward()
            loss.backward()
        grads.append([views.grad, *(param.grad for param in estimator.parameters())])
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second)


def test_chunks_of_entities(estimator, monkeypatch):
    inputs = make_inputs()
    results = []
    for max_numel in (10**6, 3 * V * V * NUM_REFERENCES):
        monkeypatch.setattr(information.base, 'MAX_NUMEL', max_numel)
        views = inputs[0].clone().requires_grad_()
        estimator.zero_grad()
        out = run(estimator, views, *inputs[1:])
        loss = estimator.learning_loss(views, *inputs[1:])
        (out.square().sum() + loss).backward()
        results.append([out, loss, views.grad, *(p.grad for p in estimator.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@torch.no_grad()
def test_chunks_without_gradients(estimator, monkeypatch):
    inputs = make_inputs()
    expected = run(estimator, *inputs)
    monkeypatch.setattr(information.base, 'CACHE_NUMEL', 1)
    torch.testing.assert_close(run(estimator, *inputs), expected)


def test_estimators_never_wait_for_the_host(estimator):
    views, reference, mask, reference_mask = make_inputs()
    views.requires_grad_()
    with NoSync():
        out = estimator(views, reference, mask, reference_mask)
        (out.sum() + estimator.learning_loss(views, reference, mask, reference_mask)).backward()
    assert views.grad.abs().sum() > 0


def test_nothing_to_estimate(estimator):
    views, reference, mask, _ = make_inputs()
    nobody = torch.zeros_like(mask)
    assert (estimator(views, reference, nobody) == 0).all()
    loss = estimator.learning_loss(views, reference, nobody)
    loss.backward()
    assert loss.item() == 0
    assert all((param.grad == 0).all() for param in estimator.parameters())
    assert estimator(views[:0], reference).shape == (0, V, V)


def test_single_view_has_no_pairs():
    for cls in (CLUB, InfoNCE):
        estimator = cls(1, C)
        views = torch.randn(5, 1, C, generator=torch.Generator().manual_seed(0))
        assert (estimator(views, views) == 0).all()
        assert estimator.learning_loss(views, views).item() == 0


def test_double_precision(estimator):
    views, reference, mask, reference_mask = make_inputs()
    single = estimator.eval()(views, reference, mask, reference_mask)
    double = estimator.double()(views.double(), reference.double(), mask, reference_mask)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


def test_reset_and_representation(estimator):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        estimator.reset_parameters()
        states.append({k: v.clone() for k, v in estimator.state_dict().items()})
        with torch.no_grad():
            for param in estimator.parameters():
                param.fill_(7.0)
    assert len(states[0]) >= 4
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert all((value != 7.0).all() for value in states[1].values())
    assert str(estimator) == (
        f'{estimator.__class__.__name__}(num_views=3, channels=4, hidden_channels=8)')


def test_invalid_inputs(estimator):
    views, reference, mask, reference_mask = make_inputs()
    name = estimator.__class__.__name__
    with pytest.raises(ValueError, match=rf"'views' needs shape \[\*, 3, 4\] in '{name}'"):
        estimator(views[:, :2], reference)
    with pytest.raises(ValueError, match=r"'reference' needs shape .*got \[7, 12\]"):
        estimator(views, reference.flatten(1))
    with pytest.raises(ValueError, match="'reference' needs at least one row"):
        estimator(views, reference[:0])
    with pytest.raises(ValueError, match=r"mask of 'views' needs to be boolean .*got torch.float"):
        estimator(views, reference, mask.float())
    with pytest.raises(ValueError, match=r"mask of 'reference' .*\[7, 3\] .*\[3, 7\]"):
        estimator(views, reference, mask, reference_mask.t())
    with pytest.raises(ValueError, match="'views' needs shape"):
        estimator.learning_loss(views[:, :2], reference)


def test_invalid_sizes():
    for cls in (CLUB, InfoNCE):
        for name in ('num_views', 'channels', 'hidden_channels'):
            sizes = {'num_views': 2, 'channels': 2, 'hidden_channels': 2, name: 0}
            with pytest.raises(ValueError, match=f"'{name}' needs to be positive .*got 0"):
                cls(**sizes)


def test_base_class_is_abstract():
    base, views = MutualInformation(2, 3), torch.zeros(4, 2, 3)
    with pytest.raises(NotImplementedError):
        base(views, views)
    with pytest.raises(NotImplementedError):
        base.learning_loss(views, views)
