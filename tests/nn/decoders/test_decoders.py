import math

import pytest
import torch
from torch.nn import Embedding
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_mmkgc.nn import decoders
from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    Decoder,
    DistMultDecoder,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
)
from pyg_mmkgc.testing import NoSync

R, C = 3, 6
FACTORIES = {
    'complex': lambda: ComplExDecoder(R, C, init_scale=1.0),
    'distmult': lambda: DistMultDecoder(R, C, init_scale=1.0),
    'rotate': lambda: RotatEDecoder(R, C, margin=4.0),
    'transe_1': lambda: TransEDecoder(R, C, margin=4.0),
    'transe_1.5': lambda: TransEDecoder(R, C, p_norm=1.5),
    'transe_2': lambda: TransEDecoder(R, C, p_norm=2.0),
    'tucker': lambda: TuckERDecoder(R, C),
    'tucker_4': lambda: TuckERDecoder(R, C, relation_channels=4),
}


def numbers(x):
    # Pairs up halves: [C] -> C / 2 complex numbers.
    half = len(x) // 2
    return [complex(x[i], x[half + i]) for i in range(half)]


def complex_reference(decoder, h, r, t):
    r = numbers(decoder.rel_emb.weight[r].tolist())
    return sum((a * b * c.conjugate()).real for a, b, c in zip(numbers(h), r, numbers(t),
                                                               strict=True))


def distmult_reference(decoder, h, r, t):
    r = decoder.rel_emb.weight[r].tolist()
    return sum(h[i] * r[i] * t[i] for i in range(C))


def rotate_reference(decoder, h, r, t):
    phase = decoder.rel_emb.weight[r].tolist()
    out = decoder.margin
    for a, theta, b in zip(numbers(h), phase, numbers(t), strict=True):
        out -= abs(a * complex(math.cos(theta), math.sin(theta)) - b)
    return out


def transe_reference(decoder, h, r, t):
    r, p = decoder.rel_emb.weight[r].tolist(), decoder.p_norm
    return decoder.margin - sum(abs(h[i] + r[i] - t[i])**p for i in range(C))**(1 / p)


def tucker_reference(decoder, h, r, t):
    r = decoder.rel_emb.weight[r]
    return torch.einsum('ijk,i,j,k', decoder.core, r, torch.tensor(h), torch.tensor(t)).item()


@pytest.fixture(params=FACTORIES)
def decoder(request):
    torch.manual_seed(12345)
    out = FACTORIES[request.param]()
    out.reference = globals()[f'{request.param.split("_")[0]}_reference']
    return out


def make_batch(batch_size=10, num_candidates=7, channels=C, num_relations=R):
    generator = torch.Generator().manual_seed(1)
    head = torch.randn(batch_size, channels, generator=generator)
    candidates = torch.randn(num_candidates, channels, generator=generator)
    rel_type = torch.randint(2 * num_relations, (batch_size, ), generator=generator)
    return head, rel_type, candidates


def test_public_names():
    assert decoders.classes == sorted(decoders.classes)
    plain = set(decoders.classes) - {'JointDecision'}  # It holds decoders, and is none.
    assert all(issubclass(getattr(decoders, name), Decoder) for name in plain)


@torch.no_grad()
def test_scores_against_reference(decoder):
    head, rel_type, candidates = make_batch()
    assert set(rel_type.tolist()) == set(range(2 * R))
    expected = torch.tensor([[decoder.reference(decoder, h, r, t) for t in candidates.tolist()]
                             for h, r in zip(head.tolist(), rel_type.tolist(), strict=True)])

    query = decoder.query(head, rel_type)
    assert query.shape == head.shape
    torch.testing.assert_close(decoder.score_all(query, candidates), expected,
                               rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder.score(query.unsqueeze(1), candidates), expected,
                               rtol=1e-4, atol=1e-5)
    for i in range(candidates.size(0)):
        tail = candidates[i].expand_as(head)
        torch.testing.assert_close(decoder(head, rel_type, tail), expected[:, i],
                                   rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_score_broadcasts_negatives(decoder):
    head, rel_type, candidates = make_batch()
    neg_index = torch.randint(7, (10, 4, 2), generator=torch.Generator().manual_seed(2))
    query = decoder.query(head, rel_type)
    score = decoder.score(query.view(10, 1, 1, C), candidates[neg_index])
    expected = decoder.score_all(query, candidates).gather(1, neg_index.flatten(1))
    torch.testing.assert_close(score, expected.view(10, 4, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(decoder):
    head, rel_type, candidates = make_batch()
    together = decoder.score_all(decoder.query(head, rel_type), candidates)
    alone = torch.cat([decoder.score_all(decoder.query(head[i:i + 1], rel_type[i:i + 1]),
                                         candidates) for i in range(head.size(0))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_score_all_has_the_gradients_of_score(decoder):
    head, rel_type, candidates = make_batch()
    weight = torch.randn(10, 7, generator=torch.Generator().manual_seed(3))
    grads = []
    for score in (decoder.score_all, lambda q, c: decoder.score(q.unsqueeze(1), c)):
        inputs = [head.clone().requires_grad_(), candidates.clone().requires_grad_()]
        out = (score(decoder.query(inputs[0], rel_type), inputs[1]) * weight).sum()
        grads.append(torch.autograd.grad(out, inputs + list(decoder.parameters())))
    for first, second in zip(*grads, strict=True):
        assert first.abs().sum() > 0
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_gradients_at_distance_zero_are_finite(decoder):
    head, rel_type, _ = make_batch()
    query = decoder.query(head, rel_type).detach().requires_grad_()
    tail = query.detach().clone().requires_grad_()
    # Zero in one coordinate only:
    tail_part = torch.cat([tail.detach()[:, :1], -tail.detach()[:, 1:]], dim=1).requires_grad_()
    zero = torch.zeros_like(head).requires_grad_()
    out = decoder(zero, rel_type, zero).sum() + decoder.regularization(zero, rel_type, zero)
    for x in (tail, tail_part):
        out = out + decoder.score(query, x).sum() + decoder.score_all(query, x).sum()
    out.backward()
    for x in (query, tail, tail_part, zero, *decoder.parameters()):
        assert torch.isfinite(x.grad).all()


@torch.no_grad()
def test_regularization_is_n3(decoder):
    head, rel_type, _ = make_batch()
    tail = head.flip(0) * 2
    paired = isinstance(decoder, (ComplExDecoder, RotatEDecoder))
    expected = 0.0
    for h, r, t in zip(head.tolist(), decoder.relation(rel_type).tolist(), tail.tolist(),
                       strict=True):
        vectors = (h, t) if isinstance(decoder, RotatEDecoder) else (h, r, t)
        for x in vectors:
            expected += sum(abs(v)**3 for v in (numbers(x) if paired else x)) / 10
    out = decoder.regularization(head, rel_type, tail)
    assert out.dim() == 0
    assert out.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_relation_vectors(decoder):
    rel_type = torch.tensor([0, 5, 2])
    out = decoder.relation(rel_type)
    if isinstance(decoder, RotatEDecoder):
        phase = decoder.rel_emb.weight[rel_type]
        expected = torch.polar(torch.ones_like(phase), phase)
        expected = torch.cat([expected.real, expected.imag], dim=-1)
    else:
        expected = decoder.rel_emb.weight[rel_type]
    torch.testing.assert_close(out, expected)


def test_parameters_and_reset(decoder):
    tables = [m for m in decoder.modules() if isinstance(m, Embedding)]
    assert [m.num_embeddings for m in tables] == [2 * R]
    assert decoder.rel_emb.weight.shape == (2 * R, decoder.relation_channels)
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        decoder.reset_parameters()
        states.append({k: v.clone() for k, v in decoder.state_dict().items()})
        with torch.no_grad():
            for param in decoder.parameters():
                param.fill_(7.0)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert all((value != 7.0).all() for value in states[1].values())


def test_step_never_waits_for_the_host(decoder):
    head, rel_type, candidates = make_batch()
    head.requires_grad_()
    candidates.requires_grad_()
    with NoSync():
        query = decoder.query(head, rel_type)
        loss = decoder.score_all(query, candidates).sum()
        loss = loss + decoder(head, rel_type, head.detach()).sum()
        loss = loss + decoder.regularization(head, rel_type, head)
        loss.backward()
    assert head.grad.abs().sum() > 0


class LargestTensor(TorchDispatchMode):
    """Remember the largest number of elements that an operator has returned."""
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out, ):
            if isinstance(x, torch.Tensor):
                # Views (of expanded tensors) need no memory.
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize('decoder', [k for k in FACTORIES if k != 'transe_1.5'], indirect=True)
def test_score_all_needs_bounded_memory(decoder, monkeypatch):
    monkeypatch.setattr(decoders.rotate, 'CPU_NUMEL', 1024)
    head, rel_type, candidates = make_batch(batch_size=20, num_candidates=200)
    head.requires_grad_()
    candidates.requires_grad_()
    kept = []
    with LargestTensor() as mode, torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(x.numel()) or x, lambda x: x):
        query = decoder.query(head, rel_type)
        decoder.score_all(query, candidates).square().sum().backward()
    assert mode.numel <= 20 * 200  # The scores; [B, N, C] would be six times that.
    assert max(kept) <= 20 * 200
    assert sum(kept) < 20 * 200 * C


def test_init_scale():
    for cls in (ComplExDecoder, DistMultDecoder):
        torch.manual_seed(0)
        assert cls(50, 100).rel_emb.weight.std().item() == pytest.approx(1e-3, rel=0.05)
        assert cls(50, 100, init_scale=0.5).rel_emb.weight.std().item() == pytest.approx(
            0.5, rel=0.05)


def test_rotate_is_a_sum_of_moduli():
    # PyG takes the norm over all coordinates; two moduli of 5 and 13 are 18 apart, not 13.9.
    decoder = RotatEDecoder(1, 4, margin=0.0)
    query, tail = torch.tensor([3.0, 5.0, 4.0, 12.0]), torch.zeros(4)
    assert decoder.score(query, tail).item() == pytest.approx(-18.0)


def test_inverse_relation_has_its_own_row(decoder):
    head, _, candidates = make_batch()
    rel_type = torch.ones(7, dtype=torch.long)
    assert not torch.allclose(decoder(head[:7], rel_type, candidates),
                              decoder(head[:7], rel_type + R, candidates))


def test_representations():
    assert str(ComplExDecoder(2, 4)) == 'ComplExDecoder(num_relations=2, channels=4)'
    assert str(DistMultDecoder(2, 4)) == 'DistMultDecoder(num_relations=2, channels=4)'
    assert str(RotatEDecoder(2, 4)) == 'RotatEDecoder(num_relations=2, channels=4)'
    assert str(TransEDecoder(2, 4)) == 'TransEDecoder(num_relations=2, channels=4)'
    assert str(TuckERDecoder(2, 4, 3)) == (
        'TuckERDecoder(num_relations=2, channels=4, relation_channels=3)')


def test_invalid_arguments():
    for cls in (ComplExDecoder, RotatEDecoder):
        with pytest.raises(ValueError, match=f"'channels' needs to be even in '{cls.__name__}'"):
            cls(2, 5)
    with pytest.raises(ValueError, match="'num_relations' needs to be positive .*got 0"):
        DistMultDecoder(0, 4)
    with pytest.raises(ValueError, match="'channels' needs to be positive .*got 0"):
        RotatEDecoder(2, 0)
    with pytest.raises(ValueError, match="'relation_channels' needs to be positive .*got -1"):
        TuckERDecoder(2, 4, relation_channels=-1)
    for p_norm in (0.5, float('nan')):
        with pytest.raises(ValueError, match="'p_norm' needs to be at least 1"):
            TransEDecoder(2, 4, p_norm=p_norm)
    with pytest.raises(NotImplementedError):
        Decoder(2, 4).query(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
