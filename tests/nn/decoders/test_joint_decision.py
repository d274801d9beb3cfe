from functools import partial

import pytest
import torch
from torch.nn.functional import softplus

from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    DistMultDecoder,
    JointDecision,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
    joint_decision,
)
from pyg_mmkgc.nn.reduction import Answers
from pyg_mmkgc.testing import NoSync

R, C, V, B, N = 3, 4, 3, 8, 5
KINDS = {
    'mixed': (ComplExDecoder, TransEDecoder, TuckERDecoder),
    'complex': (ComplExDecoder, ) * V,
    'distmult': (DistMultDecoder, ) * V,
    'rotate': (RotatEDecoder, ) * V,
    'biased': (partial(TuckERDecoder, bias=1.0), ) * V,
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


@pytest.fixture
def averaging():
    torch.manual_seed(0)
    return JointDecision({name: DistMultDecoder(R, C) for name in ('joint', 'image', 'text')},
                         average=True)


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
def test_without_a_common_view_the_score_is_zero(decision, batch):
    (_, head_has, h), rel_type, (_, tail_has, t) = batch
    h[0, -V:] = head_has[0] = torch.tensor([1.0, 0.0, 0.0])
    t[0, -V:] = tail_has[0] = torch.tensor([0.0, 1.0, 1.0])
    query = decision.query(h, rel_type)
    for out in (decision.score_all(query, t), decision.score(query.unsqueeze(1), t)):
        assert float(out[0, 0]) == 0.0
        close(out, slow(decision, batch))


@torch.no_grad()
@pytest.mark.parametrize('kind', ['all views', 'some'])
def test_scores_of_a_range(decision, batch, kind):
    (_, _, h), rel_type, (_, tail_has, t) = batch
    if kind == 'all views':
        t[:, -V:] = tail_has[:] = 1.0
    expected, score = slow(decision, batch), decision.scorer(t)
    for start, stop in ((0, N), (1, 3), (4, 5)):
        close(score(h, rel_type, start, stop), expected[:, start:stop])


@pytest.mark.parametrize('grad', [False, True])
def test_scores_under_autocast(decision, batch, grad):
    (_, _, h), rel_type, (_, _, t) = batch
    expected = slow(decision, batch)
    with torch.set_grad_enabled(grad), torch.autocast('cpu', torch.bfloat16):
        out = decision.score_all(decision.query(h, rel_type), t)
        # What becomes of one product of all views is as narrow as it.
        one_product = all(type(d) in (ComplExDecoder, DistMultDecoder)
                          for d in decision.decoders.values())
        assert out.dtype == (torch.bfloat16 if one_product else torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize('kind', ['all views', 'some'])
def test_scores_of_a_range_under_autocast(decision, batch, kind):
    (_, _, h), rel_type, (_, _, t) = batch
    if kind == 'all views':
        t[:, -V:] = 1.0
    with torch.autocast('cpu', torch.bfloat16):
        expected = decision.score_all(decision.query(h, rel_type), t)
        out = decision.scorer(t)(h, rel_type, 0, N)
    # Distances are those of candidates that were not rounded.
    distances = all(type(d) is RotatEDecoder for d in decision.decoders.values())
    tolerance = 0 if distances else 0.05
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_probabilities_are_not_narrow(averaging, batch):
    # Near one, many would be equal.
    (_, _, h), rel_type, (_, _, t) = batch
    h[:, -V:] = t[:, -V:] = 1.0
    with torch.autocast('cpu', torch.bfloat16):
        query = averaging.query(h, rel_type)
        out = averaging.score_all(query, t)
        score = [part.decoder.score_all(part.query, part.candidates)
                 for part in averaging.parts(query, t).values()]
    close(out, torch.stack(score).float().sigmoid().mean(dim=0))


@torch.no_grad()
@pytest.mark.parametrize('block, size, expected', [
    (2 * B, B, [2] * 10),
    (3 * B, B, [3] * 6 + [2]),
    (1, B, [1] * 20),  # Never less than one.
    (3, 1, [3] * 6 + [2]),
])
def test_candidates_in_blocks_of_scores(monkeypatch, block, size, expected):
    monkeypatch.setattr(joint_decision, 'BLOCK', block)
    torch.manual_seed(0)
    decoder, sizes = RotatEDecoder(R, C), []
    score_all = decoder.score_all
    monkeypatch.setattr(decoder, 'score_all',
                        lambda q, t: sizes.append(t.size(0)) or score_all(q, t))
    decision = JointDecision({'joint': decoder})
    head, tail = torch.randn(size, C), torch.randn(20, C)
    rel_type = torch.arange(size) % (2 * R)
    out = decision.score_all(decision.query(torch.cat([head, torch.ones(size, 1)], 1), rel_type),
                             torch.cat([tail, torch.ones(20, 1)], 1))
    assert sizes == expected
    close(out, score_all(decoder.query(head, rel_type), tail))


@torch.no_grad()
def test_decides_what_others_score(decision, batch):
    (_, _, h), rel_type, (_, _, t) = batch
    query, seen = decision.query(h, rel_type), []

    def score_all(decoder, q, t):
        seen.append(decoder)
        return decoder.score_all(q, t)

    close(decision.decide(score_all, query, t), slow(decision, batch))
    assert seen == list(decision.decoders.values())


@torch.no_grad()
def test_distinct_relations_are_handed_on(monkeypatch, batch):
    torch.manual_seed(0)
    decoder, built = TuckERDecoder(R, C), []
    matrix = decoder._matrix
    monkeypatch.setattr(decoder, '_matrix', lambda x: built.append(x.size(0)) or matrix(x))
    decision = JointDecision({'joint': DistMultDecoder(R, C), 'image': RotatEDecoder(R, C),
                              'text': decoder}).eval()
    (_, _, h), _, (_, _, t) = batch
    rel_type = torch.tensor([4, 1] * 4)
    distinct = decision.distinct(rel_type)
    assert distinct.tolist() == [1, 4]
    expected = decision.query(h, rel_type)
    close(decision.query(h, rel_type, distinct), expected)
    assert built == [2 * R, 2]  # All relations, if nothing is known of them.
    frozen, score = decision.frozen_query(), decision.scorer(t)
    for _ in range(2):
        close(frozen(h, rel_type, distinct), expected)
        score(h, rel_type, 0, N)
    assert built == [2 * R, 2, 2 * R, 2 * R]  # Each kept its own.
    assert JointDecision({'joint': DistMultDecoder(R, C)}).distinct(rel_type) is None


@torch.no_grad()
def test_contributions(decision, batch):
    (head, head_has, h), rel_type, (tail, tail_has, t) = batch
    head_has[0], tail_has[0] = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    h[:, -V:], t[:, -V:] = head_has, tail_has
    query = decision.query(h[:N], rel_type[:N])
    out = decision.contributions(query, t)
    assert list(out) == ['joint', 'image', 'text']
    close(sum(out.values()), slow(decision, batch)[:N].diagonal())
    gate = decision.gate(rel_type[:N])
    for v, (name, decoder) in enumerate(decision.decoders.items()):
        both = head_has[:N] * tail_has
        scale = (gate * head_has[:N]).sum(dim=1) / (gate * both).sum(dim=1).clamp(min=1e-9)
        offset = decision.offset[v] + decision.relation_offset(rel_type[:N])[:, v]
        score = decoder(head[:N, v], rel_type[:N], tail[:, v])
        close(out[name], both[:, v] * (gate[:, v] * scale * score + offset))


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
    plain = over.logsumexp(1) if reduction == 'logsumexp' else softplus(over).sum(1)
    close(total, plain - 0.1 * over.sum(dim=1))
    close(picked, expected[pairs])

    # Three questions, with the answers 1 and 3, none, and 4; candidate 3 is not allowed.
    answers = Answers(torch.arange(B) % 3, 3, torch.tensor([0, 0, 2]), torch.tensor([1, 3, 4]))
    true = torch.stack([expected[b, [[1], [], [4]][b % 3]].sum() for b in range(B)])
    total, picked = decision.reduce(query, t, reduction, allowed, answers=answers)
    assert picked is None
    close(total, plain - true)
    weight = torch.rand(B, generator=torch.Generator().manual_seed(0))
    total, _ = decision.reduce(query, t, reduction, allowed, None, 0.1, answers, 0.7, weight)
    close(total, (weight * (plain - 0.1 * over.sum(dim=1) - 0.7 * true)).sum())


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
def test_average_of_probabilities(averaging, batch):
    (head, head_has, h), rel_type, (tail, tail_has, t) = batch
    h[0, -V:] = head_has[0] = 0  # Nothing in common with anybody.
    assert list(averaging.state_dict()) == [f'decoders.{v}.rel_emb.weight'
                                            for v in averaging.decoders]
    assert averaging.gates() == []
    assert averaging.gate(rel_type).equal(torch.ones(V))
    query = averaging.query(h, rel_type)
    out = averaging.score_all(query, t)
    for b in range(B):
        for n in range(N):
            both = [decoder(head[b:b + 1, v], rel_type[b:b + 1], tail[n:n + 1, v])[0].sigmoid()
                    for v, decoder in enumerate(averaging.decoders.values())
                    if head_has[b, v] and tail_has[n, v]]
            close(out[b, n], sum(both, torch.zeros(())) / max(1, len(both)))
    assert not out[0].any()
    close(averaging.score(query.unsqueeze(1), t), out)
    index = torch.randint(N, (B, 9), generator=torch.Generator().manual_seed(0))
    picked = {name: part.decoder.score_all(part.query, part.candidates).gather(1, index)
              for name, part in averaging.parts(query, t).items()}
    close(averaging.combine(query, t, picked, index), out.gather(1, index))
    close(averaging.decide(lambda decoder, q, t: decoder.score_all(q, t), query, t), out)
    close(averaging.scorer(t)(h, rel_type, 1, 4), out[:, 1:4])

    parts = averaging.contributions(query[:N], t)
    for v, (name, decoder) in enumerate(averaging.decoders.items()):
        both = head_has[:N] * tail_has
        score = decoder(head[:N, v], rel_type[:N], tail[:, v])
        close(parts[name], both[:, v] * score.sigmoid() / both.sum(dim=1).clamp(min=1))


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
