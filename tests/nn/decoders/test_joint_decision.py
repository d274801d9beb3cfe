import pytest
import torch

from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    DistMultDecoder,
    JointDecision,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
)
from pyg_mmkgc.testing import NoSync

R, C, V, B, N = 3, 4, 3, 8, 5
KINDS = {
    'mixed': (ComplExDecoder, TransEDecoder, TuckERDecoder),
    'complex': (ComplExDecoder, ) * V,
    'distmult': (DistMultDecoder, ) * V,
    'rotate': (RotatEDecoder, ) * V,
}


@pytest.fixture(params=KINDS)
def decision(request):
    torch.manual_seed(0)
    out = JointDecision({name: cls(R, C) for name, cls in
                         zip(['joint', 'image', 'text'], KINDS[request.param], strict=True)})
    with torch.no_grad():
        for p in out.parameters():
            p.copy_(0.7 * torch.randn_like(p))
    return out


def vectors(size, seed):
    """Views beside each other, and which of them there are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, V, C, generator=generator)
    has = (torch.rand(size, V, generator=generator) < 0.6).float()
    has[:, 0] = 1.0
    return x, has, torch.cat([x.flatten(1), has], dim=1)


@pytest.fixture
def batch():
    head, tail = vectors(B, 1), vectors(N, 2)
    return head, torch.arange(B) % (2 * R), tail


def slow(decision, batch):
    (head, head_has, _), rel_type, (tail, tail_has, _) = batch
    out = torch.zeros(B, N)
    for b in range(B):
        for n in range(N):
            of_head = common = offsets = 0.0
            for v, decoder in enumerate(decision.decoders.values()):
                if not head_has[b, v]:
                    continue
                weight = (decision.weight[v]
                          + decision.relation_weight.weight[rel_type[b], v]).exp()
                of_head += weight
                if not tail_has[n, v]:
                    continue
                common += weight
                offsets += decision.offset[v] + decision.relation_offset.weight[rel_type[b], v]
                out[b, n] += weight * decoder(head[b:b + 1, v], rel_type[b:b + 1],
                                              tail[n:n + 1, v])[0]
            if common:
                out[b, n] = out[b, n] * of_head / common + offsets
    return out


def close(out, expected):
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_sum_over_available_views(decision, batch):
    (*_, head), rel_type, (*_, tail) = batch
    expected = slow(decision, batch)
    query = decision.query(head, rel_type)
    assert query.shape == (B, V * C + 2 * V)
    close(decision.score_all(query, tail), expected)
    close(decision.score(query.unsqueeze(1), tail), expected)
    for n in range(N):
        close(decision(head, rel_type, tail[n:n + 1].expand(B, -1)), expected[:, n])
        close(decision.score(query, tail[n]), expected[:, n])


@torch.no_grad()
def test_parts_and_how_they_are_combined(decision, batch):
    (head, head_has, h), rel_type, (tail, tail_has, t) = batch
    query = decision.query(h, rel_type)
    parts = decision.parts(query, t)
    assert list(parts) == ['joint', 'image', 'text']
    scores = {}
    for v, (name, part) in enumerate(parts.items()):
        assert part.decoder is decision.decoders[name]
        scores[name] = part.decoder.score_all(part.query, part.candidates)
        close(scores[name], part.decoder.score_all(part.decoder.query(head[:, v], rel_type),
                                                   tail[:, v]))
        assert part.has_query.equal(head_has[:, v].bool())
        assert part.has_candidate.equal(tail_has[:, v].bool())
    index = torch.randint(N, (B, 9), generator=torch.Generator().manual_seed(0))
    picked = {name: score.gather(1, index) for name, score in scores.items()}
    close(decision.combine(query, t, picked, index), slow(decision, batch).gather(1, index))


@pytest.mark.parametrize('reduction', ['logsumexp', 'softplus'])
def test_reduces_what_it_scores(decision, batch, reduction):
    (_, _, h), rel_type, (_, _, t) = batch
    query = decision.query(h, rel_type)
    allowed = torch.arange(N) % 3 > 0
    pairs = torch.tensor([0, 1, 1]), torch.tensor([2, 1, 1])
    expected = slow(decision, batch)
    total, picked = decision.reduce(query, t, reduction, allowed, pairs, 0.1)
    over = expected[:, allowed]
    plain = over.logsumexp(1) if reduction == 'logsumexp' else over.exp().log1p().sum(1)
    close(total, plain - 0.1 * over.sum(dim=1))
    close(picked, expected[pairs])


@torch.no_grad()
def test_a_plain_decoder_has_one_part():
    torch.manual_seed(0)
    decoder = DistMultDecoder(R, C)
    query, candidates = torch.randn(B, C), torch.randn(N, C)
    parts = decoder.parts(query, candidates)
    part, = parts.values()
    assert part.decoder is decoder
    assert part.query is query
    assert part.candidates is candidates
    assert part.has_query.equal(torch.ones(B, dtype=torch.bool))
    assert part.has_candidate.equal(torch.ones(N, dtype=torch.bool))
    index = torch.tensor([[1], [0]]).expand(2, 1)
    score = torch.randn(2, 1)
    assert decoder.combine(query[:2], candidates, {'score': score}, index) is score



@torch.no_grad()
def test_what_is_missing_takes_no_part(decision, batch):
    (head, head_has, h), rel_type, (tail, tail_has, t) = batch
    expected = decision.score_all(decision.query(h, rel_type), t)
    for x, has in ((head, head_has), (tail, tail_has)):
        assert (has == 0).any()
        x[has == 0] = 50.0
    h = torch.cat([head.flatten(1), head_has], dim=1)
    t = torch.cat([tail.flatten(1), tail_has], dim=1)
    close(decision.score_all(decision.query(h, rel_type), t), expected)


@torch.no_grad()
def test_at_first_heads_add_up(decision, batch):
    decision.weight.zero_()
    decision.relation_weight.weight.zero_()
    assert decision.gate().equal(torch.ones(V))
    assert decision.gate(batch[1]).equal(torch.ones(B, V))
    assert not JointDecision(dict(decision.decoders)).offset.any()
    (*_, head), rel_type, (*_, tail) = batch
    close(decision(head[:N], rel_type[:N], tail), slow(decision, batch).diagonal())


@torch.no_grad()
def test_gate(decision):
    for r in range(2 * R):
        out = decision.gate(torch.tensor([r]))[0]
        close(out, (decision.weight + decision.relation_weight.weight[r]).exp())
    close(decision.gate(), decision.weight.exp())
    assert [p.shape for p in decision.gates()] == [(V, ), (2 * R, V)] * 2


@torch.no_grad()
def test_joint_regularization(decision, batch):
    (head, _, h), rel_type, (tail, _, t) = batch
    out = decision.regularization(h[:N], rel_type[:N], t)
    expected = sum(decoder.regularization(head[:N, v], rel_type[:N], tail[:, v])
                   for v, decoder in enumerate(decision.decoders.values()))
    torch.testing.assert_close(out, expected)
    assert out > 0


def test_gradients_reach_every_parameter(decision, batch):
    (*_, head), rel_type, (*_, tail) = batch
    with NoSync():
        query = decision.query(head, rel_type)
        decision.score_all(query, tail).square().sum().backward()
    for name, p in decision.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_joint_reset_parameters(decision):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        decision.reset_parameters()
        states.append({k: v.clone() for k, v in decision.state_dict().items()})
        with torch.no_grad():
            for p in decision.parameters():
                p.add_(1.0)
    assert all(states[0][k].equal(states[1][k]) for k in states[0])
    assert not states[0]['weight'].any()
    assert not states[0]['relation_weight.weight'].any()


@pytest.mark.parametrize('decoders', [
    {},
    {'joint': DistMultDecoder(R, 4), 'text': DistMultDecoder(R, 6)},
    {'joint': DistMultDecoder(R, 4), 'text': DistMultDecoder(R + 1, 4)},
], ids=['none', 'channels', 'relations'])
def test_invalid_decoders(decoders):
    with pytest.raises(ValueError, match=r"'decoders' need one and the same number of relations "
                                         r'and channels \(got \['):
        JointDecision(decoders)


def test_joint_repr():
    decision = JointDecision({'joint': DistMultDecoder(R, C)})
    assert str(decision) == "JointDecision(['joint'], channels=4)"


@torch.no_grad()
def test_average_of_probabilities(batch):
    torch.manual_seed(0)
    decision = JointDecision({name: DistMultDecoder(R, C) for name in ('joint', 'image', 'text')},
                             average=True)
    (head, head_has, h), rel_type, (tail, tail_has, t) = batch
    h[0, -V:] = head_has[0] = 0  # Nothing in common with anybody.
    assert list(decision.state_dict()) == [f'decoders.{v}.rel_emb.weight'
                                           for v in decision.decoders]
    assert decision.gates() == []
    assert decision.gate(rel_type).equal(torch.ones(V))
    query = decision.query(h, rel_type)
    out = decision.score_all(query, t)
    for b in range(B):
        for n in range(N):
            both = [decoder(head[b:b + 1, v], rel_type[b:b + 1], tail[n:n + 1, v])[0].sigmoid()
                    for v, decoder in enumerate(decision.decoders.values())
                    if head_has[b, v] and tail_has[n, v]]
            close(out[b, n], sum(both, torch.zeros(())) / max(1, len(both)))
    assert not out[0].any()
    close(decision.score(query.unsqueeze(1), t), out)
    index = torch.randint(N, (B, 9), generator=torch.Generator().manual_seed(0))
    picked = {name: part.decoder.score_all(part.query, part.candidates).gather(1, index)
              for name, part in decision.parts(query, t).items()}
    close(decision.combine(query, t, picked, index), out.gather(1, index))


@torch.no_grad()
def test_weighted_norms(batch):
    torch.manual_seed(0)
    decoders = {name: DistMultDecoder(R, C) for name in ('joint', 'image', 'text')}
    (head, _, h), rel_type, (tail, _, t) = batch
    t = t[:B]
    expected = [decoder.regularization(head[:, v], rel_type, tail[:B, v])
                for v, decoder in enumerate(decoders.values())]
    weighted = JointDecision(decoders, norm_weight={'image': 5.0, 'text': 0.0})
    close(weighted.regularization(h, rel_type, t), expected[0] + 5 * expected[1])
    close(JointDecision(decoders).regularization(h, rel_type, t), sum(expected))
    with pytest.raises(ValueError, match="'norm_weight' names the unknown decoder 'sound'"):
        JointDecision(decoders, norm_weight={'sound': 1.0})
