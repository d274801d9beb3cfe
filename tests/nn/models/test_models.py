import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from pyg_mmkgc.data import EDGE, build_data, get_triples, modality_dicts, seen_entities
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import (
    AdditiveComplEx,
    ComplEx,
    DistMult,
    KGModel,
    LateFusion,
    MoCME,
    MultiModalModel,
    RotatE,
    StructureModel,
    TransE,
    TuckER,
)
from pyg_mmkgc.sampler import EGNS, Uniform
from pyg_mmkgc.testing import FakeMMKG, NoSync
from pyg_mmkgc.training import TrainConfig, Trainer

N, R, C = 24, 3, 6
SMALL = {'hidden_channels': C, 'init_scale': 0.5}
MOCME = {**SMALL, 'num_references': 8, 'max_samples': 16}
CASES = {
    'complex': (ComplEx, SMALL),
    'distmult': (DistMult, SMALL),
    'rotate': (RotatE, SMALL),
    'transe': (TransE, SMALL),
    'tucker': (TuckER, SMALL),
    'late_fusion': (LateFusion, SMALL),
    'late_fusion_no_structure': (LateFusion, {**SMALL, 'structure_channels': 0,
                                              'decoder': 'distmult'}),
    'additive': (AdditiveComplEx, SMALL),
    'additive_no_structure': (AdditiveComplEx, {**SMALL, 'structure_channels': 0}),
    'mocme': (MoCME, MOCME),
    'mocme_distmult': (MoCME, {**MOCME, 'decoder': 'distmult'}),
    'mocme_rotate': (MoCME, {**MOCME, 'decoder': 'rotate'}),
    'mocme_transe': (MoCME, {**MOCME, 'decoder': 'transe'}),
    'mocme_tucker': (MoCME, {**MOCME, 'decoder': 'tucker'}),
    'mocme_club': (MoCME, {**MOCME, 'estimator': 'club'}),
    'mocme_one_expert': (MoCME, {**MOCME, 'num_experts': 1}),
    'mocme_one_modality': (MoCME, {**MOCME, 'modalities': ['text']}),
    'mocme_one_modality_alone': (MoCME, {**MOCME, 'modalities': ['text'],
                                         'structure_channels': 0}),
    'mocme_structure_only': (MoCME, {**MOCME, 'modalities': []}),
    'mocme_no_structure': (MoCME, {**MOCME, 'structure_channels': 0}),
    'mocme_wide_structure': (MoCME, {**MOCME, 'structure_channels': 10}),
    'mocme_some_heads': (MoCME, {**MOCME, 'heads': ['text', 'structure'],
                                 'num_experts': {'text': 2, 'structure': 3}}),
    'mocme_joint_head_alone': (MoCME, {**MOCME, 'heads': []}),
    'mocme_plain_structure': (MoCME, {**MOCME, 'num_experts': 1, 'project_structure': False}),
    'mocme_uniform': (MoCME, {**MOCME, 'uniform': True}),
    'mocme_without_complementarity': (MoCME, {**MOCME, 'intra': False, 'inter': False}),
    'mocme_redundancy': (MoCME, {**MOCME, 'redundancy_weight': 0.1}),
}
MULTI_MODAL = [name for name, (cls, kwargs) in CASES.items()
               if issubclass(cls, MultiModalModel) and kwargs.get('modalities') != []]


@pytest.fixture(scope='module')
def graph():
    return FakeMMKG(N, R, {'image': 5, 'text': 4}, seed=1)


def make(name, data, seed=0, **kwargs):
    """A model with no zero left in it, whose reference bank is filled, in evaluation mode."""
    cls, options = CASES[name]
    torch.manual_seed(seed)
    model = cls.from_data(data, **{**options, **kwargs})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        model.train().encode()
    return model.eval()


def queries(num_relations=R, num_entities=N):
    head_index = torch.arange(num_entities).repeat_interleave(2 * num_relations)
    return head_index, torch.arange(2 * num_relations).repeat(num_entities)


@pytest.fixture
def train_batch(graph):
    head_index, rel_type, tail_index = get_triples(graph[0], 'train')
    return (torch.cat([head_index, tail_index]), torch.cat([rel_type, rel_type + R]),
            torch.cat([tail_index, head_index]))


# Scores #########################################################################################


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_score_all_equals_forward(name, graph):
    model = make(name, graph[0])
    head_index, rel_type = queries()
    out = model.score_all(head_index, rel_type)
    assert out.shape == (N * 2 * R, N)
    assert out.isfinite().all()
    for tail in range(N):
        expected = model(head_index, rel_type, torch.full_like(head_index, tail))
        torch.testing.assert_close(out[:, tail], expected, rtol=1e-4, atol=1e-4)
    # They differ, or the test would hold for a constant:
    assert out.std(dim=1).max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_the_scorer_agrees_in_chunks(name, graph):
    model = make(name, graph[0])
    head_index, rel_type = queries()
    expected, scorer = model.score_all(head_index, rel_type), model.scorer()
    for size in (1, 7, N):
        out = torch.cat([scorer(head_index, rel_type, start, min(start + size, N))
                         for start in range(0, N, size)], dim=1)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_no_score_depends_on_its_batch(name, graph):
    model = make(name, graph[0])
    head_index, rel_type = torch.tensor([0, 3, 3, N - 1]), torch.tensor([0, 1, 4, 5])
    tail_index = torch.tensor([2, 0, N - 4, 3])
    every, triples = model.score_all(head_index, rel_type), model(head_index, rel_type, tail_index)
    for i in range(4):
        rows = slice(i, i + 1)
        torch.testing.assert_close(model.score_all(head_index[rows], rel_type[rows]), every[rows],
                                   rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(head_index[rows], rel_type[rows], tail_index[rows]),
                                   triples[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_save_and_load(name, graph, tmp_path):
    model, other = make(name, graph[0]), make(name, graph[0], seed=1)
    expected = model.score_all(*queries())
    assert not torch.allclose(other.score_all(*queries()), expected)
    safetensors.torch.save_file(model.state_dict(), tmp_path / 'model.safetensors')
    other.load_state_dict(safetensors.torch.load_file(tmp_path / 'model.safetensors'))
    assert other.score_all(*queries()).equal(expected)


@torch.no_grad()
@pytest.mark.parametrize('name', ['mocme', 'mocme_club', 'mocme_one_modality'])
def test_the_reference_bank_is_saved(name, graph):
    model = make(name, graph[0])
    state = model.state_dict()
    bank = [key for key in state if 'bank_' in key]
    assert len(bank) == 3
    before = model.score_all(*queries())
    for key in bank:
        state[key].zero_()
    assert not torch.allclose(model.score_all(*queries()), before, atol=1e-5)


def permuted(data, perm):
    """The same graph with entity `i` called `perm[i]`."""
    splits = {}
    for split in ('train', 'val', 'test'):
        head_index, rel_type, tail_index = get_triples(data, split)
        splits[split] = torch.stack([perm[head_index], rel_type, perm[tail_index]], dim=1)
    inverse, (x, mask) = perm.argsort(), modality_dicts(data)
    return build_data(splits, [data['entity'].label[i] for i in inverse.tolist()],
                      data[EDGE].label, {m: (x[m][inverse], mask[m][inverse]) for m in x})


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_a_permutation_of_entities_permutes_scores(name, graph):
    model = make(name, graph[0])
    perm = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    other = make(name, permuted(graph[0], perm), seed=1)
    state = model.state_dict()
    if 'structure.weight' in state:
        state['structure.weight'] = state['structure.weight'][perm.argsort()]
    other.load_state_dict(state)
    head_index, rel_type = queries()
    out = other.score_all(perm[head_index], rel_type)[:, perm]
    torch.testing.assert_close(out, model.score_all(head_index, rel_type), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('name', [n for n in MULTI_MODAL if 'one_modality' not in n])
def test_the_order_of_modalities_does_not_matter(name, graph):
    data, other = graph[0], FakeMMKG(N, R, {}, seed=1)[0]
    for m in ('text', 'image'):
        other['entity'][m], other['entity'][f'{m}_mask'] = (
            data['entity'][m], data['entity'][f'{m}_mask'])
    head_index, rel_type = queries()
    expected = make(name, data).score_all(head_index, rel_type)
    for modalities in (['image', 'text'], ['text', 'image']):
        model = make(name, other, modalities=modalities)
        assert model.score_all(head_index, rel_type).equal(expected)


@torch.no_grad()
@pytest.mark.parametrize('name', MULTI_MODAL)
def test_what_is_missing_cannot_change_a_score(name, graph):
    model = make(name, graph[0].clone())  # Features are not copied, and change below.
    expected = model.score_all(*queries())
    for m in model.in_channels:
        x, mask = getattr(model, f'x_{m}'), getattr(model, f'mask_{m}')
        assert 0 < int(mask.sum()) < N
        x[~mask] = float('nan') if isinstance(model, MoCME) else 1e3
    if model.structure_channels > 0:  # Entities that no training triple names lack structure.
        model.structure.weight[~model.seen] = 7.0
    assert model.score_all(*queries()).equal(expected)


@torch.no_grad()
@pytest.mark.parametrize('name', MULTI_MODAL)
def test_what_is_there_does_change_scores(name, graph):
    model = make(name, graph[0].clone())
    expected = model.score_all(*queries())
    for m in model.in_channels:
        x, mask = getattr(model, f'x_{m}'), getattr(model, f'mask_{m}')
        row = int(mask.nonzero()[0, 0])
        kept = x[row].clone()
        x[row] += 3.0
        assert not torch.allclose(model.score_all(*queries()), expected, atol=1e-3)
        x[row] = kept


@torch.no_grad()
@pytest.mark.parametrize('name', MULTI_MODAL)
def test_an_entity_with_nothing_has_finite_scores(name, graph):
    data = graph[0].clone()
    nobody = graph.test_only_entity
    for m in ('image', 'text'):
        data['entity'][f'{m}_mask'][nobody] = False
    model = make(name, data)
    out = model.score_all(*queries())
    assert out.isfinite().all()
    if isinstance(model, MoCME):
        encoded = model.encode(torch.tensor([nobody, 1]))
        joint = model.conv.joint(encoded)
        assert joint[0].equal(model.conv.fusion.missing)
        assert not joint[1].equal(model.conv.fusion.missing)


@torch.no_grad()
@pytest.mark.parametrize('name', CASES)
def test_twins_tie(name, graph):
    # Equal features, and neither has structure: only a table of one's own tells them apart.
    model = make(name, graph[0])
    out = model.score_all(*queries())
    first, second = graph.twins
    equal = torch.allclose(out[:, first], out[:, second], rtol=1e-4, atol=1e-4)
    assert equal != issubclass(CASES[name][0], StructureModel)


# State ##########################################################################################


@pytest.mark.parametrize('name', CASES)
def test_reset_parameters(name, graph):
    cls, kwargs = CASES[name]
    model = make(name, graph[0])
    states = []
    for seed in (3, 3, 4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
            model.train().encode()
        torch.manual_seed(seed)
        model.reset_parameters()
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    assert all(states[0][k].equal(states[1][k]) for k in states[0])
    assert any(not states[0][k].equal(states[2][k]) for k in states[0])
    torch.manual_seed(0)
    first = cls.from_data(graph[0], **kwargs).state_dict()
    torch.manual_seed(0)
    second = cls.from_data(graph[0], **kwargs).state_dict()
    assert all(first[k].equal(second[k]) for k in first)


@pytest.mark.parametrize('name', CASES)
def test_built_without_data(name, graph):
    cls, kwargs = CASES[name]
    model = make(name, graph[0])
    kwargs = {k: v for k, v in kwargs.items() if k != 'modalities'}
    if isinstance(model, MultiModalModel):
        kwargs['in_channels'] = model.in_channels
    other = cls(N, R, **kwargs)
    other.load_state_dict(model.state_dict())
    other.attach(graph[0]).eval()
    assert other.score_all(*queries()).equal(model.score_all(*queries()))
    assert other.num_entities == N
    assert repr(other) == f'{cls.__name__}({N}, num_relations={R}, hidden_channels={C})'


# Gradients ######################################################################################

#: What the loss says nothing about, and why:
# All that training sees have structure, so nobody stands for those who have nothing:
NOBODY = {'conv.fusion.missing'}
ONE = NOBODY | {'conv.fusion.modality_weight', 'conv.fusion.redundancy_scale',
                'conv.fusion.relation_weight.weight'}  # Nothing to choose from.
NO_GRADIENT = {
    'mocme_no_structure': set(),
    'mocme_one_modality_alone': ONE - {'conv.fusion.missing'},
    'mocme_structure_only': ONE,
    # One head has one loss, and its weight is learned from held-out triples or not at all:
    'mocme_joint_head_alone': NOBODY | {f'decoder.{p}' for p in (
        'weight', 'relation_weight.weight', 'offset', 'relation_offset.weight')},
    'mocme_uniform': ONE | {f'conv.experts.{m}.{p}' for m in ('image', 'text', 'structure')
                            for p in ('gate_weight', 'gate_bias.weight',
                                      'temperature_logit.weight')},
    'mocme_without_complementarity': NOBODY | {'conv.fusion.redundancy_scale'},
}


def without_gradient(model):
    return {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.mark.parametrize('objective', ['softmax', 'bce'])
@pytest.mark.parametrize('name', CASES)
def test_gradients_reach_every_parameter(name, objective, graph, train_batch):
    model = make(name, graph[0], objective=objective, modality_dropout=0.3) \
        if issubclass(CASES[name][0], MultiModalModel) else make(name, graph[0],
                                                                 objective=objective)
    model.train()
    log = {}
    loss = model.loss(*train_batch, log=log)
    loss.backward()
    alternating = {id(p) for p in model.alternating_parameters()}
    left = {n for n, p in model.named_parameters() if id(p) in alternating}
    assert len(left) == (16 if name == 'mocme_club' else 0)
    expected = NO_GRADIENT.get(name, NOBODY if issubclass(CASES[name][0], MoCME) else set())
    assert without_gradient(model) == expected | left
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(sum(log.values()), loss.detach())

    if alternating:
        model.zero_grad()
        model.alternating_loss().backward()
        assert without_gradient(model) == {n for n, _ in model.named_parameters()} - left


@pytest.mark.parametrize('name', ['mocme', 'mocme_no_structure', 'mocme_joint_head_alone'])
def test_held_out_gates(name, graph, train_batch):
    model = make(name, graph[0]).train()
    gates = {n for n, p in model.named_parameters() if any(p is g for g in model.gates())}
    assert {'conv.fusion.modality_weight', 'conv.fusion.relation_weight.weight',
            'conv.fusion.redundancy_scale', 'decoder.weight', 'decoder.relation_weight.weight',
            'decoder.offset', 'decoder.relation_offset.weight'} == gates
    names = {}
    for held_out in (False, True):
        model.held_out_gates = held_out
        log = {}
        model.loss(*train_batch, log=log)
        names[held_out] = set(log)
    # The decision of all heads is the gates' business alone:
    assert names[False] - names[True] == ({'softmax_decision'} if len(model.head_modalities) > 0
                                          else set())
    model.zero_grad()
    model.loss(*train_batch).backward()
    assert {'decoder.weight', 'decoder.relation_weight.weight'} <= without_gradient(model)

    model.zero_grad()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    val = get_triples(graph[0], 'val')
    val = (torch.cat([val[0], val[2]]), torch.cat([val[1], val[1] + R]),
           torch.cat([val[2], val[0]]))
    loss = model.gate_loss(*val)
    loss.backward()
    # A head that everybody has learns no offset, but for rounding:
    constant = {'decoder.offset', 'decoder.relation_offset.weight'}
    assert gates & without_gradient(model) <= (constant if len(model.head_modalities) == 0
                                               else set())
    assert model.training
    # No dropout, no new bank, and cross-entropy over all entities but those that training knows:
    assert all(v.equal(state[k]) for k, v in model.state_dict().items())
    model.eval()
    score = model.score_all(*val[:2])
    facts = set(zip(*(x.tolist() for x in get_triples(graph[0], 'train')), strict=True))
    assert any((h, r, t) in facts for h, r, _ in zip(*(x.tolist() for x in val), strict=True)
               for t in range(N) if r < R)
    facts |= {(t, r + R, h) for h, r, t in facts}
    expected = 0
    for i, (h, r, t) in enumerate(zip(*(x.tolist() for x in val), strict=True)):
        others = [e for e in range(N) if e == t or (h, r, e) not in facts]
        expected += score[i, others].logsumexp(0) - score[i, t]
    torch.testing.assert_close(loss, expected / val[0].numel())


def test_models_without_gates(graph):
    model = make('complex', graph[0])
    assert model.gates() == model.alternating_parameters() == []
    assert model.modality_weights(torch.tensor([0])) is None
    assert model.auxiliary_losses(None, torch.tensor([0])) == {}
    with pytest.raises(NotImplementedError, match="'ComplEx' alternates nothing"):
        model.alternating_loss()


@pytest.mark.parametrize('name', CASES)
def test_tables_are_what_is_looked_up(name, graph):
    model = make(name, graph[0])
    names = {n for n, p in model.named_parameters() if any(p is q for q in model.tables())}
    assert ('structure.weight' in names) == (getattr(model, 'structure_channels', 1) > 0)
    assert any('rel_emb' in n for n in names)
    assert not any(part in n for n in names for part in ('projection', 'missing', 'bias2'))


# Losses #########################################################################################


def masks(model):
    """For each part of the loss: which entities can be asked about, and answer."""
    if not isinstance(model, MoCME):
        return [torch.ones(N, dtype=torch.bool)]
    out = [torch.ones(N, dtype=torch.bool)]
    for m in model.head_modalities:
        out.append(model.seen if m == 'structure' else getattr(model, f'mask_{m}'))
    return out if len(out) == 1 else [*out, torch.ones(N, dtype=torch.bool)]


def part_scores(model, head_index, rel_type):
    """The scores that are trained, head by head and then all together."""
    encoded = model.encode()
    head = model.head_vectors(encoded, head_index, rel_type)
    table = model.candidate_vectors(encoded)
    if not isinstance(model, MoCME):
        return [model.score_all(head_index, rel_type)]
    out = [decoder.score_all(decoder.query(head[:, i * C:(i + 1) * C], rel_type),
                             table[:, i * C:(i + 1) * C])
           for i, decoder in enumerate(model.decoder.decoders.values())]
    return out if len(out) == 1 else [*out, model.score_all(head_index, rel_type)]


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('objective', ['softmax', 'bce'])
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme_without_complementarity',
                                  'mocme_some_heads', 'mocme_joint_head_alone'])
def test_loss_against_a_dense_reference(name, objective, smoothing, graph, train_batch):
    model = make(name, graph[0], objective=objective, label_smoothing=smoothing)
    model.seen[graph.isolated_entity] = False
    seen = model.seen
    assert 0 < int((~seen).sum()) < N
    batch = tuple(x[:70] for x in train_batch)
    truth = {(h, r, t) for h, r, t in zip(*(x.tolist() for x in train_batch), strict=True)}

    expected = 0.0
    for score, has in zip(part_scores(model, *batch[:2]), masks(model), strict=True):
        terms = []
        for i, (h, r, t) in enumerate(zip(*(x.tolist() for x in batch), strict=True)):
            allowed = [e for e in range(N) if seen[e] and has[e]]
            if not has[h] or t not in allowed:
                continue
            if objective == 'softmax':
                terms.append(F.cross_entropy(score[i, allowed].unsqueeze(0),
                                             torch.tensor([allowed.index(t)]),
                                             label_smoothing=smoothing))
            else:
                target = torch.tensor([float((h, r, e) in truth) for e in allowed])
                target = target * (1 - smoothing) + smoothing / N
                s = score[i, allowed]
                terms.append(-(target * F.logsigmoid(s)
                               + (1 - target) * F.logsigmoid(-s)).mean())
        assert terms
        expected = expected + sum(terms) / len(terms)

    log = {}
    model.loss(*batch, log=log)  # In evaluation mode: no dropout.
    out = sum(v for k, v in log.items() if k.startswith(objective))
    torch.testing.assert_close(out, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme'])
def test_regularization(name, graph, train_batch):
    batch = tuple(x[:30] for x in train_batch)
    model = make(name, graph[0], regularization=0.3)
    log = {}
    model.loss(*batch, log=log)
    encoded = model.encode()
    head = model.head_vectors(encoded, *batch[:2])
    tail = model.candidate_vectors(encoded)[batch[2]]
    decoders = [model.decoder] if name != 'mocme' else list(model.decoder.decoders.values())
    expected = 0.0
    for i, decoder in enumerate(decoders):
        for x in (head[:, i * C:(i + 1) * C], tail[:, i * C:(i + 1) * C],
                  decoder.rel_emb(batch[1])):
            expected += (x[:, :C // 2]**2 + x[:, C // 2:]**2).sqrt().pow(3).sum() / 30
    torch.testing.assert_close(log['regularization'], 0.3 * expected.detach())


class Fixed(Uniform):
    """Negatives and weights that are known beforehand."""
    def __init__(self, neg_index, mask, weight):
        super().__init__(N, neg_index.size(1))
        self.fixed, self.updates = (neg_index, mask, weight), []

    def corrupt(self, head_index, rel_type, tail_index, endpoint='dst'):
        return self.fixed[:2]

    def weight(self, score, mask):
        return self.fixed[2] * mask

    def update(self, neg_index, score, mask):
        self.updates.append((neg_index, score, mask))


@pytest.mark.parametrize('objective', ['sampled', 'softmax'])
@pytest.mark.parametrize('name', ['complex', 'mocme', 'mocme_transe'])
def test_sampled_loss(name, objective, graph, train_batch):
    batch = tuple(x[:9] for x in train_batch)
    torch.manual_seed(0)
    sampler = Fixed(torch.randint(N, (9, 4)), torch.rand(9, 4) < 0.7, torch.rand(9, 4))
    model = make(name, graph[0], objective=objective, neg_sampling=sampler, neg_weight=0.25)
    log = {}
    loss = model.loss(*batch, log=log)
    score = model.score_all(*batch[:2])
    neg_index, mask, weight = sampler.fixed
    expected, count = 0.0, 0
    for i in range(9):
        expected = expected + F.softplus(-score[i, batch[2][i]]) / 9
        count += int(mask[i].sum())
    for i in range(9):
        for j in range(4):
            if mask[i, j]:
                expected = expected + weight[i, j] * F.softplus(score[i, neg_index[i, j]]) / count
    factor = 1.0 if objective == 'sampled' else 0.25
    torch.testing.assert_close(log['sampled'], (factor * expected).detach(), rtol=1e-4, atol=1e-5)
    (index, seen_score, seen_mask), = sampler.updates
    torch.testing.assert_close(seen_score, score.gather(1, neg_index), rtol=1e-4, atol=1e-4)
    assert index is neg_index
    assert seen_mask is mask
    assert any(k.startswith('softmax') for k in log) == (objective == 'softmax')
    torch.testing.assert_close(sum(log.values()), loss.detach())


@pytest.mark.parametrize('objective', ['softmax', 'bce'])
@pytest.mark.parametrize('name', ['additive', 'additive_no_structure', 'mocme',
                                  'mocme_without_complementarity', 'mocme_uniform'])
def test_unseen_entities_are_no_negatives(name, objective):
    dataset = FakeMMKG(32, R, {'image': 5, 'text': 4}, inductive=True, seed=1)
    head_index, rel_type, tail_index = get_triples(dataset[0], 'train')

    def run(value):
        data = dataset[0].clone()
        model = make(name, data, objective=objective, label_smoothing=0.1).train()
        unseen = ~seen_entities(data)
        assert unseen[list(dataset.held_out)].all()
        for m in model.in_channels:
            getattr(model, f'x_{m}')[unseen] += value
        if model.structure_channels > 0:
            with torch.no_grad():
                model.structure.weight[unseen] += value
        torch.manual_seed(5)
        loss = model.loss(head_index, rel_type, tail_index)
        loss.backward()
        return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    (loss, grads), (other_loss, other_grads) = run(0.0), run(2.0)
    torch.testing.assert_close(other_loss, loss)
    for n, grad in grads.items():
        torch.testing.assert_close(other_grads[n], grad, msg=lambda text, n=n: f'{n}: {text}')


@pytest.mark.parametrize('objective', ['softmax', 'bce', 'sampled'])
@pytest.mark.parametrize('name', ['complex', 'mocme', 'mocme_club', 'mocme_some_heads'])
def test_a_training_step_never_waits_for_the_host(name, objective, graph, train_batch):
    egns = EGNS(N, 4, refresh_every=1, candidates=seen_entities(graph[0]))
    model = make(name, graph[0], objective=objective, neg_sampling=egns, label_smoothing=0.1,
                 regularization=0.1)
    model.train()
    prepared = model.prepare(*train_batch)
    with NoSync():
        model.loss(*train_batch, log={}, prepared=prepared).backward()
        if model.alternating_parameters():
            model.alternating_loss().backward()


@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme'])
def test_a_short_fit_lowers_the_loss(name, graph):
    model = make(name, graph[0])
    result = Trainer(TrainConfig(epochs=12, batch_size=128, select=None, device='cpu',
                                 dense_lr=0.01)).fit(model, graph[0])
    losses = [entry['loss'] for entry in result.history]
    assert losses[-1] < 0.9 * losses[0]


# Loops ##########################################################################################


@torch.no_grad()
@pytest.mark.parametrize('name', ['complex', 'mocme', 'late_fusion'])
def test_an_entity_does_not_answer_itself_where_training_has_no_loop(name, graph):
    data = graph[0].clone()
    rel_type = data[EDGE].edge_type
    data[EDGE].edge_index[:, rel_type != 1] = torch.tensor([[0], [2]])
    data[EDGE].edge_index[:, rel_type == 1] = 4  # Relation 1 has loops, the others have none.
    plain, model = (make(name, data, exclude_loops=exclude) for exclude in (False, True))
    assert model.has_loops.tolist() == [False, True, False] * 2
    head_index, rel_type = queries()
    expected, out = (m.score_all(head_index, rel_type) for m in (plain, model))
    loop = (head_index.unsqueeze(1) == torch.arange(N)) & (rel_type % R != 1).unsqueeze(1)
    assert out[loop].eq(torch.finfo(out.dtype).min).all()
    assert out[~loop].equal(expected[~loop])
    scorer = model.scorer()
    chunks = [scorer(head_index, rel_type, start, min(start + 5, N)) for start in range(0, N, 5)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), out, rtol=1e-4, atol=1e-4)
    for tail in range(N):
        torch.testing.assert_close(model(head_index, rel_type, torch.full_like(head_index, tail)),
                                   out[:, tail], rtol=1e-4, atol=1e-4)


# Modality dropout ###############################################################################


def test_modality_dropout(graph):
    model = make('mocme', graph[0], modality_dropout={'text': 0.5, 'image': 0.2})
    assert model.modality_dropout == {'image': 0.2, 'structure': 0.0, 'text': 0.5}
    _, full = model.inputs()
    assert full['text'].equal(model.mask_text)
    assert full['structure'].equal(model.seen)
    model.train()
    torch.manual_seed(0)
    kept = {m: torch.zeros(N) for m in full}
    for _ in range(600):
        mask = model.drop(full)
        for m in full:
            assert not (mask[m] & ~full[m]).any()
            kept[m] += mask[m] / 600
    everything = full['text'] & full['image'] & full['structure']
    assert everything.any()
    for m, p in model.modality_dropout.items():
        assert kept[m][everything].mean().item() == pytest.approx(1 - p, abs=0.03)
    # Dropped one by one, not for all entities together:
    mask = model.drop(full)
    assert 0 < int(mask['text'][full['text']].sum()) < int(full['text'].sum())


@pytest.mark.parametrize('name', ['additive', 'mocme', 'mocme_no_structure'])
def test_modality_dropout_keeps_one(name, graph):
    model = make(name, graph[0], modality_dropout=0.95).eval()
    stack = lambda: torch.stack(list(model.drop(model.inputs()[1]).values()))  # noqa: E731
    had = stack().any(dim=0)
    assert not had.all() or name != 'mocme_no_structure'
    model.train()
    torch.manual_seed(0)
    for _ in range(50):
        assert stack().any(dim=0).equal(had)


# Evaluation #####################################################################################


def brute_force(model, data, split, candidates, k):
    truth = {triple for s in ('train', 'val', 'test')
             for triple in zip(*(x.tolist() for x in get_triples(data, s)), strict=True)}
    ranks = []
    for h, r, t in zip(*(x.tolist() for x in get_triples(data, split)), strict=True):
        for q, rel, answer in ((h, r, t), (t, r + R, h)):
            score = model.score_all(torch.tensor([q]), torch.tensor([rel]))[0].tolist()
            rank = 1.0
            for c in range(N):
                known = (q, r, c) in truth if rel == r else (c, r, q) in truth
                if c == answer or known or not candidates[c]:
                    continue
                rank += (score[c] > score[answer]) + 0.5 * (score[c] == score[answer])
            ranks.append(rank)
    return (sum(ranks) / len(ranks), sum(1 / x for x in ranks) / len(ranks),
            sum(x <= k for x in ranks) / len(ranks))


@torch.no_grad()
@pytest.mark.parametrize('protocol', ['all', 'seen'])
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme', 'mocme_transe'])
def test_the_verb_test(name, protocol, graph):
    data, split = graph[0].clone(), 'val'  # Its test split asks for an entity that is not seen.
    data.candidates = protocol
    model = make(name, data).train()
    out = model.test(*get_triples(data, split), batch_size=7, k=3, log=False)
    assert model.training
    metrics = evaluate(model.eval(), data, split).metrics()
    assert out == pytest.approx((metrics['mr'], metrics['mrr'], metrics['hits@3']))
    candidates = seen_entities(data) if protocol == 'seen' else torch.ones(N, dtype=torch.bool)
    assert out == pytest.approx(brute_force(model, data, split, candidates, 3))
    assert 1 < out[0] < N


def test_the_verb_test_needs_a_graph():
    with pytest.raises(ValueError, match=r'the model knows no graph to filter by.*attach'):
        ComplEx(N, R, 4).test(*torch.zeros(3, 1, dtype=torch.long), batch_size=1, log=False)


def test_bce_needs_a_graph():
    model = ComplEx(N, R, 4, objective='bce')
    with pytest.raises(ValueError, match=r"knows no graph to look answers up in for 'bce'"):
        model.loss(*torch.zeros(3, 1, dtype=torch.long))


def test_loader(graph):
    model = make('mocme', graph[0])
    triples = get_triples(graph[0], 'train')
    loader = model.loader(*triples, batch_size=32)
    batches = list(loader)
    assert len(batches) > 2
    assert batches[-1][0].numel() < 32
    for i, x in enumerate(triples):
        assert torch.cat([batch[i] for batch in batches]).equal(x)


# Errors #########################################################################################

ERRORS = {
    "Unknown 'objective' 'hinge' .*'softmax', 'bce', 'sampled'": {'objective': 'hinge'},
    "'objective' is 'sampled', but 'neg_sampling' is missing": {'objective': 'sampled'},
    r"'label_smoothing' needs to be in \[0, 1\) \(got 1.0\)": {'label_smoothing': 1.0},
}


@pytest.mark.parametrize('match', ERRORS)
@pytest.mark.parametrize('name', ['complex', 'additive', 'mocme'])
def test_invalid_arguments(name, match, graph):
    with pytest.raises(ValueError, match=match):
        CASES[name][0].from_data(graph[0], **ERRORS[match])


@pytest.mark.parametrize('cls', [AdditiveComplEx, MoCME])
def test_invalid_modalities(cls, graph):
    with pytest.raises(ValueError, match=r"Unknown modality 'audio' .*\['image', 'text'\]"):
        cls.from_data(graph[0], modalities=['audio'])
    with pytest.raises(ValueError, match="'in_channels' must not name 'structure'"):
        cls(N, R, {'structure': 3}, modality_dropout=0.0)
    with pytest.raises(ValueError, match='the model has neither a modality nor structure'):
        cls(N, R, {}, structure_channels=0)
    with pytest.raises(ValueError, match="'modality_dropout' names the unknown modality 'audio' .*"
                                         'image'):
        cls.from_data(graph[0], modality_dropout={'audio': 0.1})
    with pytest.raises(ValueError, match=r"'modality_dropout' of 'image' needs .*\(got 1.0\)"):
        cls.from_data(graph[0], modality_dropout={'image': 1.0})


@pytest.mark.parametrize('cls', [AdditiveComplEx, MoCME])
def test_a_graph_that_does_not_fit(cls, graph):
    model = cls(N, R, {'text': 5}, **SMALL)
    with pytest.raises(ValueError, match=r"'text' of the data has 4 channels \(expected 5"):
        model.attach(graph[0])
    with pytest.raises(ValueError, match=r"modality 'audio' of the data has none \(expected 2"):
        cls(N, R, {'audio': 2}, **SMALL).attach(graph[0])
    with pytest.raises(ValueError, match=rf"'data' has {N} entities \(expected 5\)"):
        cls(5, R, {'text': 4}, **SMALL).attach(graph[0])


def test_the_base_class_takes_vectors_as_they_are_and_has_none():
    model = KGModel(N, R, 4, ComplEx(N, R, 4).decoder)
    with pytest.raises(NotImplementedError):
        model.encode()
    encoded, row, rel_type = torch.randn(N, 4), torch.tensor([2, 0, 2]), torch.tensor([0, 1, 0])
    assert model.head_vectors(encoded, row, rel_type).equal(encoded[[2, 0, 2]])
    assert model.candidate_vectors(encoded) is encoded
