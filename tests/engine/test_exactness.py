r"""The fast paths of all models against plain ones: loops, formulas, double precision."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_mmkgc.data import TripleIndex, build_index, get_triples
from pyg_mmkgc.evaluation import Ranks, evaluate, rank
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoMoK
from pyg_mmkgc.nn.decoders import (
    ComplExDecoder,
    DistMultDecoder,
    JointDecision,
    RotatEDecoder,
    TransEDecoder,
    TuckERDecoder,
)
from pyg_mmkgc.sampler import EGNS, Uniform
from pyg_mmkgc.testing import FakeMMKG

N, R, C, B = 24, 3, 6, 22
SMALL = {'hidden_channels': C, 'init_scale': 0.5}
MOCME = {**SMALL, 'num_references': 8, 'max_samples': 16}
MODELS = {
    'complex': (ComplEx, SMALL),
    'additive': (AdditiveComplEx, SMALL),
    'additive_no_structure': (AdditiveComplEx, {**SMALL, 'structure_channels': 0}),
    **{f'mocme_{decoder}': (MoCME, {**MOCME, 'decoder': decoder})
       for decoder in ('complex', 'distmult', 'rotate', 'transe', 'tucker')},
    'mocme_joint_head_alone': (MoCME, {**MOCME, 'heads': [], 'decoder': 'tucker'}),
    'mocme_some_heads': (MoCME, {**MOCME, 'heads': ['text'], 'structure_channels': 0}),
    'momok': (MoMoK, {**SMALL, 'relation_channels': 4, 'disentanglement_weight': 0.0}),
}
NO_TABLE = ['additive_no_structure', 'mocme_some_heads']
SMOOTHED = {'label_smoothing': 0.1, 'regularization': 0.2}
FULL = {
    'plain': {},
    'smoothed': SMOOTHED,
    'mass': {'label_smoothing': 0.1, 'smoothing_mass': 1.0},
    'mass_alone': {'smoothing_mass': 0.5},
    'egns': {'neg_sampling': 'egns', 'neg_weight': 0.3},
    'held_out_gates': {'held_out_gates': True},
    'held_out_gates_egns': {**SMOOTHED, 'held_out_gates': True, 'neg_sampling': 'egns'},
}
SAMPLED = {
    'uniform': {'neg_sampling': 'uniform'},
    'egns': {'neg_sampling': 'egns', 'regularization': 0.2},
}


def cases():
    for name in MODELS:
        for objective in ('softmax', 'bce', 'sampled'):
            for setting, options in (SAMPLED if objective == 'sampled' else FULL).items():
                if name == 'momok' and 'neg_sampling' in options:
                    continue  # It samples no negatives.
                if 'held_out_gates' in options and 'mocme' not in name:
                    continue  # Nothing else has gates.
                yield pytest.param(name, objective, options, id=f'{name}-{objective}-{setting}')


@pytest.fixture(scope='module')
def graph():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, num_triples=60, seed=1)


@pytest.fixture(scope='module')
def truth(graph):
    head_index, rel_type, tail_index = (x.tolist() for x in get_triples(graph[0], 'train'))
    triples = set(zip(head_index, rel_type, tail_index, strict=True))
    return triples | {(t, r + R, h) for h, r, t in triples}


@pytest.fixture(scope='module')
def batch(graph):
    # Repeats, inverse relations, heads and tails that lack something, and triples that training
    # does not hold, two of them about entities that it never names.
    train, test = (torch.stack(get_triples(graph[0], split)) for split in ('train', 'test'))
    odd = torch.tensor([[graph.test_only_entity, 0, 1], [2, 1, graph.isolated_entity],
                        [graph.bare_entity, 1, 2], [5, 2, graph.bare_entity]]).t()
    triples = torch.cat([train[:, :12], train[:, :2], odd, test[:, :B - 18]], dim=1)
    head_index, rel_type, tail_index = triples.unbind(0)
    odd = torch.arange(triples.size(1)) % 2 == 1
    return (torch.where(odd, tail_index, head_index), torch.where(odd, rel_type + R, rel_type),
            torch.where(odd, head_index, tail_index))


def make(name, graph, seed=0, neg_sampling=None, held_out_gates=False, **kwargs):
    """A model in double precision with no zero left in it, without dropout."""
    cls, options = MODELS[name]
    torch.manual_seed(seed)
    if neg_sampling is not None:
        # Thresholds between which the scores of these models fall.
        kwargs['neg_sampling'] = (
            Uniform(N, 5, known=build_index(graph[0], ['train'])) if neg_sampling == 'uniform' else
            EGNS(N, 5, known=build_index(graph[0], ['train']), thresholds=(0.3, 0.6)))
    model = cls.from_data(graph[0], **{**options, **kwargs}).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.train().encode()  # Fills the reference bank.
        for module in model.modules():
            if isinstance(module, RotatEDecoder):
                module.margin = 3.0  # So that its scores have both signs.
    model.held_out_gates = held_out_gates
    # What trains estimators of information is a loss of its own, and not over candidates.
    model.auxiliary_losses = lambda encoded, head_row: {}
    return model.eval()


# The plain way ##################################################################################


def as_complex(x):
    return torch.complex(*x.chunk(2, dim=-1))


def plain_scores(decoder, head, rel_type, tails):
    """`s(h, r, t)` of heads `[B, C]` and tails `[N, C]`, by the formula of the paper."""
    score = plain_scores_without_bias(decoder, head, rel_type, tails)
    return score if decoder.bias is None else score + decoder.bias


def plain_scores_without_bias(decoder, head, rel_type, tails):
    head, tails = head.unsqueeze(1), tails.unsqueeze(0)
    relation = decoder.rel_emb.weight[rel_type].unsqueeze(1)
    if isinstance(decoder, ComplExDecoder):
        product = as_complex(head) * as_complex(relation) * as_complex(tails).conj()
        return product.sum(dim=-1).real
    if isinstance(decoder, DistMultDecoder):
        return (head * relation * tails).sum(dim=-1)
    if isinstance(decoder, RotatEDecoder):
        rotated = as_complex(head) * torch.exp(1j * relation)
        return decoder.margin - (rotated - as_complex(tails)).abs().sum(dim=-1)
    if isinstance(decoder, TransEDecoder):
        return decoder.margin - (head + relation - tails).abs().sum(dim=-1)
    assert isinstance(decoder, TuckERDecoder)
    return torch.einsum('kij,bzk,bzi,znj->bn', decoder.core, relation, head, tails)


def heads_of(model):
    """Name, decoder, columns, and column of presence of each head."""
    if not isinstance(model.decoder, JointDecision):
        return [('score', model.decoder, slice(0, C), None)]
    decoders = model.decoder.decoders
    return [(name, decoder, slice(i * C, (i + 1) * C), len(decoders) * C + i)
            for i, (name, decoder) in enumerate(decoders.items())]


def plain_heads(model, head, rel_type, table):
    """The scores `[B, N]` of each head and which of them there are, and the decision."""
    scores, exists, decision, count = {}, {}, 0.0, 0.0
    of_head, common, offsets = 0.0, 0.0, 0.0
    for i, (name, decoder, columns, presence) in enumerate(heads_of(model)):
        has = torch.ones(head.size(0), 1, dtype=torch.bool), torch.ones(1, N, dtype=torch.bool)
        if presence is not None:
            has = head[:, presence:presence + 1] > 0, table[:, presence].unsqueeze(0) > 0
        # Something else stands in for what is not there; distances from zero to zero have no slope.
        score = plain_scores(decoder, torch.where(has[0], head[:, columns], 1.0), rel_type,
                             torch.where(has[1].t(), table[:, columns], 2.0))
        scores[name], exists[name] = score, has[0] & has[1]
        gate, offset = 1.0, 0.0
        if presence is not None and not model.decoder.average:
            gate = torch.exp(model.decoder.weight[i]
                             + model.decoder.relation_weight.weight[rel_type, i]).unsqueeze(1)
            offset = (model.decoder.offset[i]
                      + model.decoder.relation_offset.weight[rel_type, i]).unsqueeze(1)
        elif presence is not None:
            score = 1 / (1 + torch.exp(-score))
        decision = decision + gate * score * exists[name]
        count, offsets = count + exists[name].double(), offsets + offset * exists[name]
        of_head, common = of_head + gate * has[0], common + gate * exists[name]
    if getattr(model.decoder, 'average', False):
        decision = decision / count.clamp(min=1)
    elif isinstance(model.decoder, JointDecision):
        decision = torch.where(count > 0, decision * of_head / common.clamp(min=1e-9), 0.0)
        decision = decision + offsets
    return scores, exists, decision


def plain_term(model, score, allowed, batch, truth):
    """The mean loss of the queries whose answer is allowed, over what is allowed, `[B, N]`."""
    terms, smoothing = [], model.label_smoothing
    for i, (h, r, t) in enumerate(zip(*(x.tolist() for x in batch), strict=True)):
        if not allowed[i, t]:
            continue
        entities = allowed[i].nonzero()[:, 0].tolist()
        row = score[i, entities]
        if model.objective == 'softmax':
            target = [(1 - smoothing) * (e == t) + smoothing / len(entities) for e in entities]
            target = torch.tensor(target, dtype=row.dtype)
            terms.append(-(target * torch.log_softmax(row, dim=0)).sum())
        else:
            target = [(1 - smoothing) * ((h, r, e) in truth or e == t) + model.smoothing_mass / N
                      for e in entities]
            target = torch.tensor(target, dtype=row.dtype)
            terms.append(-(target * F.logsigmoid(row)
                           + (1 - target) * F.logsigmoid(-row)).mean())
    return sum(terms) / len(terms)


def plain_weights(sampler, scores, mask):
    """The weights of negatives `[B, n]` as EGNS has them."""
    if not isinstance(sampler, EGNS):
        return mask.double()
    weights = torch.zeros_like(scores)
    for i, j in mask.nonzero().tolist():
        p = 1 / (1 + math.exp(-float(scores[i, j].detach())))
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p) if 0 < p < 1 else 0.0
        if p > 0.9:
            entropy = math.log(2)
        weights[i, j] = 0.5 if entropy < 0.3 else 1.0 if entropy < 0.6 else 2.0
    return weights * (mask.sum() / weights.sum())


def plain_regularization(model, head, rel_type, tail):
    total = 0.0
    for _, decoder, columns, _ in heads_of(model):
        vectors = [head[:, columns], tail[:, columns]]
        if not isinstance(decoder, RotatEDecoder):
            vectors.append(decoder.rel_emb.weight[rel_type])
        for x in vectors:
            if isinstance(decoder, (ComplExDecoder, RotatEDecoder)):
                total = total + (as_complex(x).real**2 + as_complex(x).imag**2).pow(1.5).sum()
            else:
                total = total + x.abs().pow(3).sum()
    return total / head.size(0)


def plain_loss(model, batch, prepared, truth):
    """The parts of the loss, from the vectors of entities alone."""
    encoded = model.encode()
    table = model.candidate_vectors(encoded)
    head = model.head_vectors(encoded, *batch[:2])
    scores, exists, decision = plain_heads(model, head, batch[1], table)
    parts = {}
    if model.objective != 'sampled':
        if len(scores) > 1 and len(model.gates()) > 0 and not model.held_out_gates:
            scores['decision'] = decision
            exists['decision'] = torch.ones_like(decision, dtype=torch.bool)
        for name, score in scores.items():
            key = f'{model.objective}_{name}' if len(scores) > 1 else model.objective
            parts[key] = plain_term(model, score, exists[name] & model.seen, batch, truth)
    if model.neg_sampling is not None:
        negative = decision.gather(1, prepared.neg_index)
        weights = plain_weights(model.neg_sampling, negative, prepared.neg_mask)
        negative = -(weights * F.logsigmoid(-negative)).sum() / prepared.neg_mask.sum()
        positive = -F.logsigmoid(decision.gather(1, batch[2].unsqueeze(1))).mean()
        weight = 1.0 if model.objective == 'sampled' else model.neg_weight
        parts['sampled'] = weight * (positive + negative)
    if model.regularization > 0:
        parts['regularization'] = model.regularization * plain_regularization(
            model, head, batch[1], table[batch[2]])
    return parts


def gradients(loss, model):
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {name: torch.zeros_like(p) if grad is None else grad
            for (name, p), grad in zip(model.named_parameters(), grads, strict=True)}


def assert_same(out, expected, tolerance=1e-8):
    assert out.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max())) if isinstance(value, Tensor) else 1.0
        torch.testing.assert_close(out[name], value, rtol=tolerance, atol=tolerance * scale,
                                   msg=lambda text, name=name: f'{name}: {text}')


# Losses #########################################################################################


@pytest.mark.parametrize('name, objective, options', list(cases()))
def test_loss_and_gradients_equal_the_plain_ones(name, objective, options, graph, batch, truth):
    model = make(name, graph, objective=objective, **options)
    prepared = model.prepare(*batch)
    before = copy.deepcopy(model.neg_sampling)
    single = copy.deepcopy(model).float()
    expected = plain_loss(model, batch, prepared, truth)
    expected_grads = gradients(sum(expected.values()), model)
    log = {}
    loss = model.loss(*batch, log=log, prepared=prepared)
    assert_same(log, {key: value.detach() for key, value in expected.items()})
    assert_same({'loss': loss.detach()}, {'loss': sum(expected.values()).detach()})
    grads = gradients(loss, model)
    assert_same(grads, expected_grads)
    assert sum(bool(grad.any()) for grad in grads.values()) >= 2
    if isinstance(before, EGNS):  # All classes of negatives took part.
        classes = before.weight(model.score_all(*batch[:2]).gather(1, prepared.neg_index),
                                prepared.neg_mask)[prepared.neg_mask].unique()
        assert classes.numel() > 1

    # And in single precision, by the norm of each parameter's gradient:
    single.neg_sampling = before
    loss = single.loss(*batch, prepared=prepared)
    torch.testing.assert_close(loss.double(), sum(expected.values()), rtol=1e-5, atol=0)
    largest = max(float(grad.norm()) for grad in expected_grads.values())
    for key, grad in gradients(loss, single).items():
        error = float((grad.double() - expected_grads[key]).norm())
        # Small ones are differences of larger ones.
        assert error <= 1e-5 * max(float(expected_grads[key].norm()), 2e-2 * largest), key


@pytest.mark.parametrize('name', [name for name in MODELS if 'mocme' in name])
def test_the_loss_of_the_gates_equals_the_plain_one(name, graph, batch, truth):
    model = make(name, graph, held_out_gates=True)
    model.train()
    loss = model.gate_loss(*batch)
    model.eval()
    with torch.no_grad():
        encoded = model.encode()
    head = model.head_vectors(encoded, *batch[:2])
    decision = plain_heads(model, head, batch[1], model.candidate_vectors(encoded))[2]
    terms = []
    for row, h, r, t in zip(decision, *(x.tolist() for x in batch), strict=True):
        others = [e for e in range(N) if e == t or (h, r, e) not in truth]
        terms.append(row[others].logsumexp(dim=0) - row[t])
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    grads = [torch.autograd.grad(x, model.gates(), allow_unused=True) for x in (loss, expected)]
    for out, value in zip(*grads, strict=True):
        assert (out is None) == (value is None)
        if out is not None:
            torch.testing.assert_close(out, value, rtol=1e-8, atol=1e-8)
    assert sum(out is not None and bool(out.any()) for out in grads[0]) >= 2


class Everybody(Uniform):
    """All other entities as negatives, each with the weight that makes their mean a sum."""
    def corrupt(self, head_index, rel_type, tail_index, endpoint='dst'):
        every = torch.arange(self.num_entities)
        index = torch.stack([every[every != t] for t in tail_index.tolist()])
        return index, torch.ones_like(index, dtype=torch.bool)

    def weight(self, score, mask):
        return (self.num_entities - 1) * super().weight(score, mask)


@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme_joint_head_alone'])
def test_all_entities_as_samples_are_the_loss_over_all_entities(name, graph):
    # The binary cross-entropy of queries with one answer, once over the table of all entities and
    # once over a batch in which each is somebody's negative.
    full = make(name, graph, objective='bce')
    full.seen = torch.ones_like(full.seen)
    known = TripleIndex(*torch.tensor([[0, 0, 1], [2, 1, 3], [4, 0, 4]]).t(), N, R)
    full._train_known = known
    batch = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 0, 4], [1, R, 0]]).t().contiguous().unbind(0)
    sampled = make(name, graph, objective='sampled', neg_sampling='uniform')
    sampled.seen = full.seen
    gates = {f'decoder.{p}' for p in ('weight', 'relation_weight.weight', 'offset',
                                      'relation_offset.weight')}
    with torch.no_grad():  # The decision of one head is its score, if it weighs one.
        for key, p in full.named_parameters():
            if key in gates:
                p.zero_()
    sampled.load_state_dict(full.state_dict())
    sampled.neg_sampling = Everybody(N, N - 1)
    expected, loss = N * full.loss(*batch), sampled.loss(*batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    grads = gradients(loss, sampled)
    assert_same({key: grads[key] for key in grads if key not in gates},
                {key: x for key, x in gradients(expected, full).items() if key not in gates},
                1e-10)


@pytest.mark.parametrize('name', [name for name in MODELS if name != 'momok'])
def test_sparse_gradients_of_tables_equal_the_dense_ones(name, graph, batch):
    model = make(name, graph, objective='sampled', neg_sampling='egns', regularization=0.2)
    prepared, sampler, grads = model.prepare(*batch), model.neg_sampling, []
    for sparse in (False, True):
        for table in model.entity_tables():
            table.sparse = sparse
        model.neg_sampling = copy.deepcopy(sampler)
        grads.append(gradients(model.loss(*batch, prepared=prepared), model))
    tables = [name for name, grad in grads[1].items() if grad.is_sparse]
    assert tables == ([] if name in NO_TABLE else ['structure.weight'])
    assert_same({key: grad.to_dense() for key, grad in grads[1].items()}, grads[0], 1e-12)


@pytest.mark.parametrize('objective', ['softmax', 'bce'])
@pytest.mark.parametrize('name', MODELS)
def test_the_loss_of_a_batch_is_the_mean_of_its_queries(name, objective, graph, batch):
    model = make(name, graph, objective=objective, label_smoothing=0.1)
    batch, log, singles = tuple(x[10:18] for x in batch), {}, {}
    model.loss(*batch, log=log)
    for i in range(8):
        single = {}
        model.loss(*(x[i:i + 1] for x in batch), log=single)
        assert single.keys() == log.keys()
        for key, value in single.items():
            singles.setdefault(key, []).append(value)
    for key, values in singles.items():
        values = torch.stack(values)  # A query that a head cannot answer has a loss of zero.
        torch.testing.assert_close(log[key], values.sum() / (values != 0).sum(), rtol=1e-10,
                                   atol=1e-10)


# Scores and ranks ###############################################################################


def bounds(scorer, batch, known, tolerance=0.0):
    """Rank of each answer if all near-ties go well, and if none does, from one matrix."""
    head_index, rel_type, tail_index = batch
    score = scorer(head_index, rel_type, 0, known.num_entities).double()
    every = torch.arange(known.num_entities)
    kept = ~known.contains(head_index.unsqueeze(1), rel_type.unsqueeze(1), every)
    kept.scatter_(1, tail_index.unsqueeze(1), False)
    own = score.gather(1, tail_index.unsqueeze(1))
    margin = tolerance * own.abs().clamp(min=1)
    return (1 + ((score > own + margin) & kept).sum(dim=1),
            1 + ((score >= own - margin) & kept).sum(dim=1))


def both_sides(data, split):
    head_index, rel_type, tail_index = get_triples(data, split)
    return (torch.cat([head_index, tail_index]), torch.cat([rel_type, rel_type + R]),
            torch.cat([tail_index, head_index]))


@torch.no_grad()
@pytest.mark.parametrize('name', MODELS)
def test_ranks_in_chunks_equal_ranks_at_once(name, graph):
    # In single precision; chunks may round differently, so ties and near-ties may fall either way.
    model, known = make(name, graph).float(), build_index(graph[0])
    batch, scorer = both_sides(graph[0], 'test'), model.scorer()
    best, worst = bounds(make(name, graph).scorer(), batch, known, 1e-5)
    assert int((best == worst).sum()) > batch[0].numel() / 2
    for batch_size, chunk_size in [(None, None), (1, None), (7, 1), (3, 5), (100, 23), (4, 24),
                                   (2, 25)]:
        ranks = rank(scorer, *batch, known, num_entities=N, batch_size=batch_size,
                     chunk_size=chunk_size)
        assert bool((best <= ranks.optimistic).all())
        assert bool((ranks.pessimistic <= worst).all())
        assert torch.equal(ranks.optimistic[best == worst], best[best == worst])


class IntegerComplEx(ComplEx):
    """Vectors of small integers, so that sums are exact in any order, and ties abound."""
    def reset_parameters(self):
        for p in self.parameters():
            torch.nn.init.uniform_(p, -1.5, 1.5).round_()


@torch.no_grad()
@pytest.mark.parametrize('num_entities', [24, 200])
def test_exact_scores_have_exact_ranks_for_every_chunk_size(num_entities):
    torch.manual_seed(0)
    model = IntegerComplEx(num_entities, R, 6)
    generator = torch.Generator().manual_seed(1)
    scorer = model.scorer()
    triples = (torch.rand(150, 3, generator=generator)
               * torch.tensor([5, R, num_entities])).long()  # Few heads, so many known answers.
    known = TripleIndex(*triples.t(), num_entities, R)
    batch = tuple(triples[:60].t())
    best, worst = bounds(scorer, batch, known)
    assert int((best < worst).sum()) > 30
    sizes = range(1, num_entities + 2) if num_entities < 50 else (1, 2, 63, 64, 99, 100, 199, 200)
    for chunk_size in sizes:
        for batch_size in (1, 17, 60) if chunk_size > 60 else (17, 60):
            ranks = rank(scorer, *batch, known, num_entities=num_entities,
                         batch_size=batch_size, chunk_size=chunk_size)
            assert torch.equal(ranks.optimistic, best)
            assert torch.equal(ranks.pessimistic, worst)


@torch.no_grad()
@pytest.mark.parametrize('name', MODELS)
def test_a_nan_in_a_model_is_an_error_and_no_rank(name, graph):
    model = make(name, graph)
    for p in model.tables():
        p[-1] = math.nan
    if isinstance(model, (ComplEx, AdditiveComplEx, MoCME)):
        for module in model.modules():
            if isinstance(module, TuckERDecoder):
                module.core[0, 0, 0] = math.nan
    for chunk_size in (None, 5):
        with pytest.raises(ValueError, match=r'queries in a batch have NaN scores \(first: head'):
            evaluate(model, graph[0], 'test', chunk_size=chunk_size)


@torch.no_grad()
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme_complex', 'momok'])
def test_half_precision_does_not_flatter(name, graph):
    # Rounding to bfloat16 makes ties but turns no order around, so that the exact rank lies between
    # the optimistic and the pessimistic one of the rounded scores; half-way is not flattery.
    model, known = make(name, graph), build_index(graph[0])
    batch, scorer = both_sides(graph[0], 'train'), model.scorer()

    def exact(*args):
        return scorer(*args) + 64.0  # So large that bfloat16 has few numbers for them.

    def rounded(*args):
        return exact(*args).to(torch.bfloat16)

    known = TripleIndex(*torch.empty(3, 0, dtype=torch.long), N, R)
    before = rank(exact, *batch, known, num_entities=N)
    after = rank(rounded, *batch, known, num_entities=N)
    assert bool((after.optimistic <= before.optimistic).all())
    assert bool((before.pessimistic <= after.pessimistic).all())
    assert int((after.pessimistic > after.optimistic).sum()) > int(
        (before.pessimistic > before.optimistic).sum())
    assert_not_flattered(after)


def assert_not_flattered(ranks: Ranks):
    # The reciprocal of the mean is at most the mean of the reciprocals that any order of the tied
    # candidates would give, each as likely as the others.
    harmonic = torch.cat([torch.zeros(1, dtype=torch.double),
                          (1 / torch.arange(1, 10**4, dtype=torch.double)).cumsum(0)])
    width = ranks.pessimistic - ranks.optimistic + 1
    expected = (harmonic[ranks.pessimistic] - harmonic[ranks.optimistic - 1]) / width
    assert bool((1 / ranks.rank <= expected + 1e-12).all())


@torch.no_grad()
def test_scores_all_alike_in_half_precision_rank_in_the_middle():
    # Scores near 1000 differ by less than a step of bfloat16: nearly all tie, and the rank says so
    # where an optimistic one would be perfect.
    generator = torch.Generator().manual_seed(0)
    num_entities, num_queries = 500, 400
    table = 1000 + torch.rand(num_queries, num_entities, generator=generator)
    answer = torch.randint(num_entities, (num_queries, ), generator=generator)
    known = TripleIndex(*torch.empty(3, 0, dtype=torch.long), num_entities, 1)

    def ranks(dtype):
        scores = table.to(dtype)
        return rank(lambda h, r, start, stop: scores[h, start:stop], torch.arange(num_queries),
                    torch.zeros(num_queries, dtype=torch.long), answer, known,
                    num_entities=num_entities, chunk_size=128)

    exact, half = ranks(torch.float64), ranks(torch.bfloat16)
    assert_not_flattered(half)
    assert bool((half.optimistic == 1).all())
    assert float((1 / half.rank).mean()) <= float((1 / exact.rank).mean())
    assert float(half.rank.mean()) == pytest.approx(float(exact.rank.mean()), rel=0.1)


@torch.no_grad()
def test_a_model_in_half_precision_is_evaluated_and_not_flattered():
    graph = FakeMMKG(400, R, {'image': 5, 'text': 4}, num_triples=400, seed=1)
    model = make('mocme_complex', graph).float()
    exact = evaluate(model, graph[0], 'train')
    with torch.autocast('cpu', torch.bfloat16):
        half = evaluate(model, graph[0], 'train')
    dtypes = {model.score_all(torch.tensor([0]), torch.tensor([0])).dtype}
    with torch.autocast('cpu', torch.bfloat16):
        dtypes.add(model.score_all(torch.tensor([0]), torch.tensor([0])).dtype)
    assert dtypes == {torch.float32, torch.bfloat16}
    for side in ('head', 'tail'):
        ties = half.ranks[side].pessimistic > half.ranks[side].optimistic
        assert int(ties.sum()) > ties.numel() / 5
        assert_not_flattered(half.ranks[side])
    assert half.mrr == pytest.approx(exact.mrr, abs=0.05)


@pytest.mark.parametrize('name', ['complex', 'mocme_complex', 'mocme_rotate', 'momok'])
def test_threads_change_nothing_but_rounding(name):
    # Large enough that torch shares the work out.
    graph = FakeMMKG(3000, R, {'image': 5, 'text': 4}, num_triples=600, seed=1)
    cls, options = MODELS[name]
    torch.manual_seed(0)
    model = cls.from_data(graph[0], **options, label_smoothing=0.1).eval()
    batch = tuple(x[:40] for x in both_sides(graph[0], 'test'))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            loss = model.loss(*batch)
            with torch.no_grad():
                scores = model.score_all(*batch[:2])
            results.append({'loss': loss.detach(), 'scores': scores, **gradients(loss, model)})
    finally:
        torch.set_num_threads(threads)
    for key, value in results[0].items():
        error = float((results[1][key] - value).norm())
        assert error <= 1e-5 * max(float(value.norm()), 1e-4), key
