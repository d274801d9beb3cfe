import pytest
import torch

from pyg_mmkgc.data import build_data, get_triples, hold_out, is_spent
from pyg_mmkgc.datasets import DB15K
from pyg_mmkgc.testing import FakeMMKG


def triples_of(data, split):
    return set(zip(*(x.tolist() for x in get_triples(data, split)), strict=True))


def test_is_spent_counts_distinct_triples_in_train():
    train = torch.tensor([[0, 0, 1], [1, 0, 2], [2, 0, 3], [3, 0, 0]])
    other = torch.tensor([[0, 0, 2], [1, 0, 3]])
    splits = {'train': train, 'half': torch.cat([train[:2], other]),
              'more': torch.cat([train[:3], other, other, other]), 'free': other}
    data = build_data(splits, list('abcd'), ['r'])
    assert [is_spent(data, split) for split in ('half', 'more', 'free')] == [False, True, False]
    assert not is_spent(data, 'train')


def test_hold_out():
    data = FakeMMKG(seed=3)[0]
    before = {split: triples_of(data, split) for split in ('train', 'val', 'test')}
    held = hold_out(data, 0.1, seed=5)
    after = {split: triples_of(held, split) for split in ('train', 'val', 'test')}
    assert after['train'] | after['val'] == before['train']
    assert not after['train'] & after['val']
    assert len(after['val']) == round(0.1 * len(before['train']))
    assert get_triples(held, 'train')[0].numel() == len(after['train'])  # No repeats.
    assert after['test'] == before['test']
    for column in (0, 1, 2):
        assert ({t[column] for t in after['val']} <=
                {t[column] for t in after['train']} | {t[2 - column] for t in after['train']})
    assert {split: triples_of(data, split) for split in before} == before  # Left as it was.
    assert triples_of(hold_out(data, 0.1, seed=5), 'val') == after['val']
    assert triples_of(hold_out(data, 0.1, seed=6), 'val') != after['val']


def test_hold_out_for_several_splits():
    held = hold_out(FakeMMKG()[0], splits=['val', 'gates'])
    assert triples_of(held, 'val') == triples_of(held, 'gates')


def test_nothing_to_spare():
    triples = torch.tensor([[0, 0, 1], [2, 1, 3]])
    data = build_data({'train': triples}, list('abcd'), ['r', 's'])
    with pytest.raises(ValueError, match='none of the 2 training triples can be held out'):
        hold_out(data)


def test_real_db15k(mirror, tmp_path):
    data = DB15K(str(tmp_path), features=None, mirror=str(mirror))[0]
    assert is_spent(data, 'val')
    assert not is_spent(data, 'test')
    held = hold_out(data)
    assert get_triples(held, 'val')[0].numel() == 3961  # 5 % of 79,222
    assert not is_spent(held, 'val')
