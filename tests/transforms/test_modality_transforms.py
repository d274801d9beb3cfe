"""What all transforms of modalities promise, and what each one does."""
import copy

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import EDGE, modality_names, seen_entities
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import (
    AddModalityNoise,
    DropModality,
    NormalizeFeatures,
    PCAFeatures,
    PermuteModality,
    SelectModalities,
)

TRANSFORMS = [
    AddModalityNoise(0.5), AddModalityNoise(0.5, kind='swap'), DropModality(0.5),
    NormalizeFeatures(), NormalizeFeatures(mode='standard'), PCAFeatures(3), PermuteModality(),
    SelectModalities(['text']),
]


@pytest.fixture
def data():
    return FakeMMKG(num_entities=200)[0]


def part(data, name='image'):
    return data['entity'][name], data['entity'][f'{name}_mask']


@pytest.mark.parametrize('transform', TRANSFORMS, ids=repr)
def test_promises(data, transform):
    before = copy.deepcopy(data)
    out = transform(data)
    for key in before['entity'].keys():
        same = before['entity'][key] == data['entity'][key]
        assert bool(same.all()) if isinstance(same, torch.Tensor) else same, key
    for key, value in before[EDGE].items():
        for other in (data, out):
            same = other[EDGE][key] == value
            assert bool(same.all()) if isinstance(same, torch.Tensor) else same, key
    assert any(m not in modality_names(out) or not torch.equal(part(out, m)[0], part(data, m)[0])
               for m in modality_names(data))
    for m in modality_names(out):
        x, mask = part(out, m)
        assert float(x[~mask].abs().sum()) == 0
        assert x.dtype == torch.float32
        assert bool((mask <= part(data, m)[1]).all())
        # Twice the same, and each modality does without the others.
        assert torch.equal(part(transform(data), m)[0], x)


@pytest.mark.parametrize('make', [
    lambda m: AddModalityNoise(0.5, m), lambda m: AddModalityNoise(0.5, m, kind='swap'),
    lambda m: DropModality(0.5, m), NormalizeFeatures, lambda m: NormalizeFeatures(m, 'standard'),
    lambda m: PCAFeatures(3, m)])
def test_one_modality_is_as_among_all(data, make):
    alone, among = make(['image'])(data), make(None)(data)
    assert torch.equal(part(alone)[0], part(among)[0])
    assert torch.equal(part(alone)[1], part(among)[1])
    assert torch.equal(part(alone, 'text')[0], part(data, 'text')[0])


@pytest.mark.parametrize('make', [
    lambda m: AddModalityNoise(0.5, m), lambda m: DropModality(0.5, m), NormalizeFeatures,
    lambda m: PCAFeatures(3, m), PermuteModality, SelectModalities])
def test_unknown_modality(data, make):
    names = r"expected some of \['image', 'numeric', 'text'\]"
    with pytest.raises(ValueError, match=f"modality 'imgae' .did you mean 'image'. {names}"):
        make(['imgae'])(data)
    with pytest.raises(ValueError, match=f"Unknown modality 'smell' .{names}"):
        make(['smell'])(data)


@pytest.mark.parametrize('transform,expected', [
    (AddModalityNoise(0.1, ['image'], 2, 'swap'),
     "AddModalityNoise(0.1, modalities=['image'], seed=2, kind='swap')"),
    (DropModality(0.1, seed=3, where='seen'),
     "DropModality(0.1, modalities=None, seed=3, where='seen')"),
    (NormalizeFeatures(mode='standard'), "NormalizeFeatures(modalities=None, mode='standard')"),
    (PCAFeatures(7, ['text']), "PCAFeatures(7, modalities=['text'])"),
    (SelectModalities(['text']), "SelectModalities(['text'])"),
])
def test_repr(transform, expected):
    assert repr(transform) == expected


@pytest.mark.parametrize('make,match', [
    (lambda: AddModalityNoise(1.5), "'ratio' needs to be between 0 and 1 .got 1.5"),
    (lambda: AddModalityNoise(0.5, kind='x'), "Unknown kind 'x' .expected one of .'gaussian'"),
    (lambda: DropModality(-0.1), "'rate' needs to be between 0 and 1 .got -0.1"),
    (lambda: DropModality(float('nan')), "'rate' needs to be between 0 and 1 .got nan"),
    (lambda: DropModality(0, where='x'), "Unknown 'where' 'x' .expected one of .'all', 'seen'"),
    (lambda: NormalizeFeatures(mode='max'), "Unknown mode 'max' .expected one of .'l2', 'stand"),
    (lambda: PCAFeatures(0), "'channels' needs to be positive .got 0"),
])
def test_bad_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# SelectModalities ################################################################################


def test_select(data):
    out = SelectModalities(['text', 'numeric'])(data)
    assert modality_names(out) == ['numeric', 'text']
    assert 'image' not in out['entity']
    assert 'image_mask' not in out['entity']
    assert modality_names(SelectModalities([])(data)) == []
    assert out['entity'].label == data['entity'].label


# NormalizeFeatures ###############################################################################


def test_l2(data):
    data['entity'].image[1] = 0
    data['entity'].image_mask[1] = True
    x, mask = part(NormalizeFeatures()(data))
    before = part(data)[0]
    for i in range(200):
        norm = float(before[i].norm())
        expected = before[i] / norm if mask[i] and norm > 0 else torch.zeros(8)
        torch.testing.assert_close(x[i], expected)


def test_standard_from_training_entities(data):
    data['entity'].image[:, 3] = 0.1  # Constant.
    fit = (part(data)[1] & seen_entities(data)).numpy()
    before, mask = part(data)[0].double().numpy(), part(data)[1].numpy()
    x = part(NormalizeFeatures(mode='standard')(data))[0].numpy()
    with np.errstate(invalid='ignore'):
        expected = (before - before[fit].mean(axis=0)) / before[fit].std(axis=0)
    expected[:, 3] = 0
    np.testing.assert_allclose(x[mask], expected[mask], rtol=1e-4, atol=1e-5)
    # What unseen entities look like changes nothing.
    data['entity'].image[~seen_entities(data)] *= 100
    again = part(NormalizeFeatures(mode='standard')(data))[0].numpy()
    np.testing.assert_array_equal(again[fit], x[fit])


@pytest.mark.parametrize('transform', [NormalizeFeatures(mode='standard'), PCAFeatures(2)])
def test_no_statistics(data, transform):
    data['entity'].image_mask &= ~seen_entities(data)
    assert bool(data['entity'].image_mask.any())
    with pytest.raises(ValueError, match="No training entity has the modality 'image'"):
        transform(data)


# PCAFeatures #####################################################################################


def test_pca_against_sklearn(data):
    decomposition = pytest.importorskip('sklearn.decomposition')
    (before, mask), fit = part(data), part(data)[1] & seen_entities(data)
    before = before.double().numpy()
    pca = decomposition.PCA(3, svd_solver='full').fit(before[fit.numpy()])
    x = part(PCAFeatures(3)(data))[0]
    assert x.shape == (200, 3)
    axes = pca.components_
    sign = np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])
    expected = pca.transform(before) * sign
    np.testing.assert_allclose(x[mask].numpy(), expected[mask.numpy()], rtol=1e-4, atol=1e-5)
    share = PCAFeatures(3).fit(part(data)[0][fit])[2]
    np.testing.assert_allclose(share.numpy(), pca.explained_variance_ratio_, rtol=1e-8)


def test_pca_ignores_unseen_entities_and_signs(data):
    fit = part(data)[1] & seen_entities(data)
    x = part(PCAFeatures(3)(data))[0]
    data['entity'].image[~seen_entities(data)] += 100
    assert torch.equal(part(PCAFeatures(3)(data))[0][fit], x[fit])
    _, axes, _ = PCAFeatures(8).fit(part(data)[0][fit])
    torch.testing.assert_close(axes.t() @ axes, torch.eye(8, dtype=torch.float64))
    assert bool((axes.max(dim=0).values >= -axes.min(dim=0).values).all())


def test_pca_of_few(data):
    assert part(PCAFeatures(100)(data), 'numeric')[0].shape == (200, 4)
    keep = (part(data)[1] & seen_entities(data)).nonzero()[:2, 0]
    data['entity'].image_mask = torch.zeros(200, dtype=torch.bool).index_fill_(0, keep, True)
    x = part(PCAFeatures(100)(data))[0]
    assert x.shape == (200, 2)
    # Two points lie on one axis, on either side of their mean.
    distance = (data['entity'].image[keep[0]] - data['entity'].image[keep[1]]).norm()
    torch.testing.assert_close(x[keep, 0].abs(), distance.expand(2) / 2)
    same = torch.ones(3, 4)
    assert PCAFeatures(2).fit(same)[2].tolist() == [0, 0]


# DropModality ####################################################################################


def test_drop_counts_and_nests(data):
    x, mask = part(data)
    num_before = int(mask.sum())
    last = mask
    for rate in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        y, kept = part(DropModality(rate)(data))
        assert int(kept.sum()) == num_before - round(rate * num_before)
        assert bool((kept <= last).all())  # What was gone stays away.
        assert torch.equal(y, x * kept.unsqueeze(-1))
        last = kept
    half, other = (part(DropModality(0.5, seed=seed)(data))[1] for seed in (0, 1))
    assert not torch.equal(half, other)
    # Not the same entities in each modality.
    text, before = part(DropModality(0.5)(data), 'text')[1], part(data, 'text')[1]
    both = mask & before
    assert not torch.equal(text[both], half[both])


@pytest.mark.parametrize('where', ['seen', 'unseen'])
def test_drop_where(where):
    data = FakeMMKG(num_entities=40, inductive=True)[0]
    mask, seen = part(data)[1], seen_entities(data)
    pool = seen if where == 'seen' else ~seen
    kept = part(DropModality(1.0, where=where)(data))[1]
    assert torch.equal(kept, mask & ~pool)
    assert bool((mask & pool).any())
    half = part(DropModality(0.5, where=where)(data))[1]
    num = int((mask & pool).sum())
    assert int((half & pool).sum()) == num - round(num / 2)
    assert torch.equal(half & ~pool, mask & ~pool)


# AddModalityNoise ################################################################################


@pytest.mark.parametrize('kind', ['gaussian', 'swap'])
def test_noise_counts_and_nests(data, kind):
    x, mask = part(data)
    data['entity'].image = x = torch.where(mask.unsqueeze(-1), torch.randn(
        200, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(()))
    last = torch.zeros(200, dtype=torch.bool)
    values = x
    for ratio in (0.0, 0.1, 0.5, 0.9, 1.0):
        y, after = part(AddModalityNoise(ratio, kind=kind)(data))
        changed = (x != y).any(dim=1)
        assert torch.equal(after, mask)
        assert int(changed.sum()) == round(ratio * int(mask.sum()))
        assert bool((last <= changed).all())
        if kind == 'gaussian':  # An entity's noise is the same at any ratio.
            assert torch.equal(y[last], values[last])
        else:
            assert sorted(map(tuple, x.tolist())) == sorted(map(tuple, y.tolist()))
        last, values = changed, y


def test_gaussian_has_the_statistics_of_the_columns():
    data = FakeMMKG(num_entities=4000, modalities={'image': 3}, num_triples=20)[0]
    mask = data['entity'].image_mask
    scale, shift = torch.tensor([1.0, 5.0, 0.1]), torch.tensor([0.0, -3.0, 7.0])
    data['entity'].image = (data['entity'].image * scale + shift) * mask.unsqueeze(-1)
    before = data['entity'].image[mask]
    after = AddModalityNoise(1.0)(data)['entity'].image[mask]
    std = before.std(dim=0)
    assert bool(((after.mean(dim=0) - before.mean(dim=0)).abs() < 0.1 * std).all())
    torch.testing.assert_close(after.std(dim=0), std, rtol=0.1, atol=0)
    # Nothing is left of what was there.
    z = (before - before.mean(dim=0)) / std * (after - after.mean(dim=0)) / std
    assert float(z.mean(dim=0).abs().max()) < 0.1


def test_swap_of_few(data):
    few = torch.zeros(200, dtype=torch.bool)
    few[[3, 5]] = True
    x = part(data)[0]
    x[3], x[5] = 1, 2
    data['entity'].image, data['entity'].image_mask = x * few.unsqueeze(-1), few
    assert part(AddModalityNoise(1, kind='swap')(data))[0][[3, 5], 0].tolist() == [2, 1]
    assert part(AddModalityNoise(0.5, kind='swap')(data))[0][[3, 5], 0].tolist() == [1, 2]
