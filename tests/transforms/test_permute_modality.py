import pytest
import torch

from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import PermuteModality


def test_permute_modality():
    before, data = FakeMMKG()[0], FakeMMKG()[0]
    name = 'text'
    x, mask = before['entity'][name], before['entity'][f'{name}_mask']
    out = PermuteModality([name], seed=1)(data)
    y = out['entity'][name]
    assert not torch.equal(x, y)
    assert torch.equal(out['entity'][f'{name}_mask'], mask)
    assert not y[~mask].any()

    def rows(z):
        return sorted(map(tuple, z[mask].tolist()))

    assert rows(x) == rows(y)  # The same rows, in other places.
    others = [m for m in before['entity'].keys() if m not in (name, 'label', 'num_nodes')]
    assert all(torch.equal(before['entity'][m], out['entity'][m]) for m in others
               if isinstance(before['entity'][m], torch.Tensor))
    again = PermuteModality([name], seed=1)(FakeMMKG()[0])
    assert torch.equal(again['entity'][name], y)
    assert str(PermuteModality([name])) == "PermuteModality(modalities=['text'], seed=0)"


def test_permute_all_and_unknown():
    data = PermuteModality(seed=0)(FakeMMKG()[0])
    before = FakeMMKG()[0]
    assert all(not torch.equal(data['entity'][m], before['entity'][m]) for m in ('text', ))
    with pytest.raises(ValueError, match="Unknown modality 'smell' .expected some of"):
        PermuteModality(['smell'])(FakeMMKG()[0])
