import io

import pytest
import torch

from pyg_mmkgc.sampler import TripleLoader
from pyg_mmkgc.testing.no_sync import NoSync

T, R = 23, 4


def triples():
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(50, (T, ), generator=generator),
            torch.randint(R, (T, ), generator=generator), torch.arange(T))


def make(seed=3, batch_size=8, **kwargs):
    kwargs.setdefault('num_relations', R)
    return TripleLoader(*triples(), batch_size, generator=torch.Generator().manual_seed(seed),
                        **kwargs)


def flat(batches):
    return [triple for batch in batches for triple in
            zip(*(part.tolist() for part in batch), strict=True)]


def test_epoch_holds_triples_and_inverses_once():
    head_index, rel_type, tail_index = (part.tolist() for part in triples())
    expected = set(zip(head_index, rel_type, tail_index, strict=True))
    expected |= {(t, r + R, h) for h, r, t in expected}
    loader = make()
    assert len(loader) == 6
    epochs = [list(loader) for _ in range(2)]
    for batches in epochs:
        assert [batch[0].numel() for batch in batches] == [8, 8, 8, 8, 8, 6]
        assert sorted(flat(batches)) == sorted(expected)
    assert flat(epochs[0]) != flat(epochs[1])
    assert loader.epoch == 2


def test_without_inverse_and_shuffle():
    loader = make(inverse=False, shuffle=False, num_relations=None)
    assert len(loader) == 3
    assert loader.num_triples == T
    expected = list(zip(*(part.tolist() for part in triples()), strict=True))
    assert flat(loader) == flat(loader) == expected


def test_drop_last():
    loader = make(drop_last=True)
    assert len(loader) == 5
    assert [batch[0].numel() for batch in loader] == [8] * 5
    assert len(list(make(batch_size=23, drop_last=True))) == 2
    assert len(list(make(batch_size=47, drop_last=True))) == 0
    assert len(list(make(batch_size=47))) == 1


def test_same_seed_same_order():
    assert flat(make()) == flat(make())
    assert flat(make()) != flat(make(seed=4))


def test_default_generator_follows_global_seed():
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loader = TripleLoader(*triples(), 8, num_relations=R)
        torch.rand(5)  # What else is drawn later does not change the order.
        orders.append(flat(loader))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize('stop', [1, 3, 6])
@pytest.mark.parametrize('shuffle', [True, False])
def test_resume_within_an_epoch(stop, shuffle):
    loader = make(shuffle=shuffle)
    list(loader)
    file, rest = io.BytesIO(), []
    for i, batch in enumerate(loader, start=1):
        if i == stop:
            torch.save(loader.state_dict(), file)
        elif i > stop:
            rest.append(batch)
    following = list(loader)

    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = make(seed=9, shuffle=shuffle)
    other.load_state_dict(state)
    assert other.epoch == 1
    assert flat(other) == flat(rest)
    assert len(rest) == 6 - stop
    assert other.epoch == 2
    assert flat(other) == flat(following)


def test_resume_between_epochs():
    loader = make()
    list(loader)
    state = loader.state_dict()
    assert state['order'].numel() == 0
    other = make(seed=9)
    iterator = iter(other)
    next(iterator)  # Loading forgets an epoch under way.
    other.load_state_dict(state)
    assert flat(other) == flat(loader)
    assert other.epoch == loader.epoch == 2


def test_break_starts_a_new_epoch():
    loader = make()
    for _ in loader:
        break
    assert loader.epoch == 0
    assert len(list(loader)) == 6
    assert loader.epoch == 1


def test_no_sync_in_an_epoch():
    loader = make()
    with NoSync():
        assert len(list(loader)) == 6


def test_generator_moves_with_the_state():
    generator = torch.Generator().manual_seed(3)
    loader = TripleLoader(*triples(), 8, num_relations=R, generator=generator)
    assert loader.generator is generator
    assert loader.triples.device.type == 'cpu'
    assert TripleLoader(*triples(), 8, inverse=False, device='meta').triples.is_meta


def test_triple_loader_repr_and_errors():
    assert str(make()) == 'TripleLoader(46, batch_size=8, inverse=True)'
    head_index, rel_type, tail_index = triples()
    with pytest.raises(ValueError, match=r'same shape \[T\] \(got \[23\], \[22\] and \[23\]\)'):
        TripleLoader(head_index, rel_type[1:], tail_index, 8)
    with pytest.raises(ValueError, match='no triples'):
        TripleLoader(head_index[:0], rel_type[:0], tail_index[:0], 8)
    with pytest.raises(ValueError, match=r"'batch_size' needs to be positive \(got 0\)"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="'inverse' needs 'num_relations'"):
        make(num_relations=None)
    with pytest.raises(ValueError, match=r"'rel_type' holds id 3 .*\(expected 0 to 2\)"):
        make(num_relations=3)

    loader = make()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    with pytest.raises(ValueError, match=r"holds \['epoch'\] \(expected"):
        loader.load_state_dict({'epoch': torch.tensor(0)})
    with pytest.raises(ValueError, match='orders 46 triples, but this TripleLoader has 23'):
        make(inverse=False).load_state_dict(state)
    with pytest.raises(ValueError, match='stands at batch 4, but this TripleLoader has 1'):
        make(batch_size=100).load_state_dict({**state, 'position': torch.tensor(4)})
