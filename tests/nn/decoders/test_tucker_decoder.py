import pytest
import torch

from pyg_mmkgc.nn.decoders import TuckERDecoder, tucker
from pyg_mmkgc.testing import NoSync


def reference(decoder, head, rel_type):
    out = []
    for h, r in zip(head, decoder.rel_emb.weight[rel_type], strict=True):
        out.append(torch.einsum('ijk,i,j->k', decoder.core, r, h))
    return torch.stack(out)


RELATIONS = {
    'mixed': lambda size: torch.randint(6, (size, ), generator=torch.Generator().manual_seed(0)),
    'all_first': lambda size: torch.zeros(size, dtype=torch.long),
    'all_last': lambda size: torch.full((size, ), 5),
    'gaps': lambda size: torch.arange(size) % 2 * 3 + 1,
}


@pytest.mark.parametrize('batch_size', [1, 6, 15, 16, 17, 96, 97, 250])
@pytest.mark.parametrize('kind', RELATIONS)
def test_both_ways_to_a_query(kind, batch_size, monkeypatch):
    # 96 = 6 relations * 16 rows of a tile: sizes around the borders of tiles.
    torch.manual_seed(0)
    decoder = TuckERDecoder(3, 5, relation_channels=4).double()
    head, rel_type = torch.randn(batch_size, 5).double(), RELATIONS[kind](batch_size)
    inputs = [head.requires_grad_(), *decoder.parameters()]
    weight = torch.randn(batch_size, 5).double()

    expected = reference(decoder, head, rel_type)
    expected_grads = torch.autograd.grad((expected * weight).sum(), inputs)
    for chunk in (10**6, 2 * head.numel()):  # All channels of the relation, or two at a time.
        monkeypatch.setattr(tucker, 'MAX_NUMEL', chunk)
        for out in (decoder._query_by_relation(head, rel_type),
                    decoder._query_by_channel(head, decoder.relation(rel_type)),
                    decoder.query(head, rel_type)):
            torch.testing.assert_close(out, expected)
            grads = torch.autograd.grad((out * weight).sum(), inputs)
            for grad, expected_grad in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(grad, expected_grad)


def test_the_way_is_chosen_by_sizes(monkeypatch):
    decoder = TuckERDecoder(3, 4)
    calls = []
    for name in ('_query_by_relation', '_query_by_channel'):
        monkeypatch.setattr(decoder, name,
                            lambda head, _, name=name: calls.append(name) or head)
    for batch_size in (5, 6):
        decoder.query(torch.zeros(batch_size, 4), torch.zeros(batch_size, dtype=torch.long))
    monkeypatch.setattr(tucker, 'MAX_NUMEL', 6 * 4 * 4 - 1)
    decoder.query(torch.zeros(6, 4), torch.zeros(6, dtype=torch.long))
    assert calls == ['_query_by_channel', '_query_by_relation', '_query_by_channel']


@pytest.mark.parametrize('batch_size', [4, 40])
def test_tucker_never_waits_for_the_host(batch_size):
    decoder = TuckERDecoder(3, 4, input_dropout=0.1, hidden_dropout=0.1)
    head = torch.randn(batch_size, 4, requires_grad=True)
    with NoSync():
        decoder.query(head, torch.arange(batch_size) % 6).sum().backward()
    assert decoder.core.grad.abs().sum() > 0


def test_query_keeps_the_variance_of_the_head():
    torch.manual_seed(0)
    decoder = TuckERDecoder(4, 128, relation_channels=64)
    head = 3 * torch.randn(256, 128)
    out = decoder.query(head, torch.arange(256) % 8)
    assert out.std().item() == pytest.approx(3.0, rel=0.2)


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    head, rel_type = torch.randn(8, 16), torch.arange(8)
    plain = TuckERDecoder(4, 16)
    for name in ('input_dropout', 'hidden_dropout'):
        decoder = TuckERDecoder(4, 16, **{name: 0.5})
        decoder.load_state_dict(plain.state_dict())
        assert not torch.allclose(decoder.query(head, rel_type), plain.query(head, rel_type))
        torch.testing.assert_close(decoder.eval().query(head, rel_type),
                                   plain.query(head, rel_type))
    dropped = TuckERDecoder(4, 16, hidden_dropout=0.5).query(head, rel_type)
    assert 0.3 < (dropped == 0).float().mean().item() < 0.7


@pytest.mark.parametrize('name', ['input_dropout', 'hidden_dropout'])
def test_invalid_dropout(name):
    with pytest.raises(ValueError, match=f"'{name}' needs to be in .*got 1.0"):
        TuckERDecoder(2, 4, **{name: 1.0})


@pytest.mark.parametrize('batch_size', [1, 2, 3, 40, 97])
@pytest.mark.parametrize('kind', RELATIONS)
def test_matrices_of_distinct_relations_only(kind, batch_size, monkeypatch):
    torch.manual_seed(0)
    decoder = TuckERDecoder(3, 5, relation_channels=4).double()
    head, rel_type = torch.randn(batch_size, 5).double(), RELATIONS[kind](batch_size)
    inputs = [head.requires_grad_(), *decoder.parameters()]
    weight = torch.randn(batch_size, 5).double()
    expected = reference(decoder, head, rel_type)
    expected_grads = torch.autograd.grad((expected * weight).sum(), inputs)
    for distinct in (rel_type.unique(), torch.arange(6)):  # Some may not occur.
        out = decoder.query(head, rel_type, distinct=distinct)
        torch.testing.assert_close(out, expected)
        grads = torch.autograd.grad((out * weight).sum(), inputs)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad)
