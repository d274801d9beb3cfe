import math

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import modality_names, seen_entities
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EncodeNumeric

NAN = float('nan')


@pytest.fixture
def data():
    data = FakeMMKG(num_entities=24, modalities={})[0]
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(24, 3, generator=generator, dtype=torch.float64).exp() * 1000
    value[torch.rand(24, 3, generator=generator) < 0.4] = NAN
    value[0] = NAN
    data['entity'].numeric_value = value
    return data


def test_layout(data):
    out = EncodeNumeric()(data)
    x, mask = out['entity'].numeric, out['entity'].numeric_mask
    present = ~data['entity'].numeric_value.isnan()
    assert x.shape == (24, 6)
    assert x.dtype == torch.float32
    assert torch.equal(mask, present.any(dim=1))
    assert torch.equal(x[:, 3:], present.float())
    assert float(x[:, :3][~present].abs().sum()) == 0
    assert modality_names(out) == ['numeric']
    assert modality_names(data) == []


def test_quantile_against_counting(data):
    value, fit = data['entity'].numeric_value, seen_entities(data)
    x, _, kept = EncodeNumeric().encode(value, fit)
    assert kept.tolist() == [0, 1, 2]
    for column in range(3):
        known = value[fit, column]
        known = known[~known.isnan()]
        for row in range(24):
            v = value[row, column]
            if bool(fit[row]) and not v.isnan():
                below, equal = int((known < v).sum()), int((known == v).sum())
                expected = 2 * (below + equal / 2) / known.numel() - 1
                assert float(x[row, column]) == pytest.approx(expected, abs=1e-6)
    # Others lie between their neighbours, and no further out than the outermost.
    assert float(x[:, :3].abs().max()) < 1


@pytest.mark.parametrize('scaling', ['log', 'standard'])
def test_standardised_over_training_entities(data, scaling):
    value, fit = data['entity'].numeric_value, seen_entities(data)
    x = EncodeNumeric(scaling=scaling)(data)['entity'].numeric
    for column in range(3):
        known = value[:, column].numpy()
        if scaling == 'log':
            known = np.sign(known) * np.log1p(np.abs(known))
        part = known[fit.numpy() & ~np.isnan(known)]
        expected = np.nan_to_num((known - part.mean()) / part.std())
        np.testing.assert_allclose(x[:, column].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_statistics_come_from_training_alone(data):
    fit = seen_entities(data)
    before = EncodeNumeric()(data)['entity'].numeric[fit]
    data['entity'].numeric_value[~fit] = 1e12
    after = EncodeNumeric()(data)['entity'].numeric[fit]
    assert torch.equal(before, after)


def test_fit_mask(data):
    everything = torch.ones(24, dtype=torch.bool)
    a = EncodeNumeric(fit_mask=everything)(data)['entity'].numeric
    b = EncodeNumeric()(data)['entity'].numeric
    assert not torch.equal(a, b)


@pytest.mark.parametrize('scaling', ['quantile', 'log', 'standard'])
def test_constant_column_and_negative_values(scaling):
    value = torch.tensor([[5.0, -10.0], [5.0, 10.0], [NAN, 0.0]])
    x, mask, _ = EncodeNumeric(scaling=scaling).encode(value, torch.ones(3, dtype=torch.bool))
    assert x[:, 0].tolist() == [0, 0, 0]
    assert x[:, 2].tolist() == [1, 1, 0]
    assert x[0, 1] < x[2, 1] < x[1, 1]
    assert float(x[2, 1]) == pytest.approx(0, abs=1e-6)
    assert mask.tolist() == [True, True, True]


def test_min_count_leaves_columns_out():
    value = torch.tensor([[1.0, NAN, 1.0], [2.0, NAN, NAN], [3.0, 9.0, NAN]])
    fit = torch.tensor([True, True, False])
    encode = EncodeNumeric(min_count=1).encode
    assert encode(value, fit)[2].tolist() == [0, 2]
    x, mask, kept = EncodeNumeric(min_count=2).encode(value, fit)
    assert kept.tolist() == [0]
    assert x.shape == (3, 2)
    assert mask.tolist() == [True] * 3
    # An entity whose only number was left out lacks the modality.
    mask = encode(torch.tensor([[1.0, NAN], [NAN, 9.0]]), torch.tensor([True, False]))[1]
    assert mask.tolist() == [True, False]


def test_fourier():
    value = torch.tensor([[0.0], [1.0], [NAN], [2.0]])
    x, _, _ = EncodeNumeric(num_frequencies=2).encode(value, torch.ones(4, dtype=torch.bool))
    v = [-2 / 3, 0.0, None, 2 / 3]
    for row, scaled in zip(x.tolist(), v, strict=True):
        if scaled is None:
            assert row == [0] * 6
        else:
            a = math.pi / 2 * scaled
            assert row == pytest.approx(
                [scaled, math.sin(a), math.cos(a), math.sin(2 * a), math.cos(2 * a), 1], abs=1e-6)


def test_no_column():
    x, mask, kept = EncodeNumeric().encode(torch.full((3, 2), NAN), torch.ones(3).bool())
    assert x.shape == (3, 0)
    assert not bool(mask.any())
    assert kept.numel() == 0


def test_repr():
    assert str(EncodeNumeric()) == ("EncodeNumeric('numeric_value', modality='numeric', "
                                    "scaling='quantile', num_frequencies=0, min_count=1, "
                                    "fit_mask=None)")
    masks = [torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])]
    a, b = (str(EncodeNumeric(fit_mask=mask)) for mask in masks)
    assert a != b
    assert a == str(EncodeNumeric(fit_mask=masks[0].clone()))


@pytest.mark.parametrize('kwargs,match', [
    ({'scaling': 'x'}, r"Unknown scaling 'x' .expected one of \['log', 'quantile', 'standard'\]"),
    ({'num_frequencies': -1}, "'num_frequencies' needs to be at least 0 .got -1"),
    ({'min_count': 0}, "'min_count' needs to be at least 1 .got 0"),
])
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        EncodeNumeric(**kwargs)


def test_bad_data(data):
    with pytest.raises(ValueError, match=r'x needs to be a tensor of shape \[24, columns\] .got N'):
        EncodeNumeric('x')(data)
    data['entity'].x = torch.ones(23, 2)
    with pytest.raises(ValueError, match=r'shape \[24, columns\] .got \[23, 2\]'):
        EncodeNumeric('x')(data)
    data['entity'].x = torch.ones(24, 2)
    data['entity'].x[3, 1] = -float('inf')
    with pytest.raises(ValueError, match="'x' holds an infinite number in row 3, column 1"):
        EncodeNumeric('x')(data)
    with pytest.raises(ValueError, match=r"'fit_mask' needs to be boolean of shape \[24\]"):
        EncodeNumeric(fit_mask=torch.ones(24))(data)
