import pytest
import torch
from torch_geometric.nn import MessagePassing

from pyg_mmkgc.data import EDGE, modality_dicts
from pyg_mmkgc.nn import CLUB, MoCMEConv
from pyg_mmkgc.testing import FakeMMKG, NoSync

N, R, C = 20, 3, 6
IN = {'text': 4, 'image': 5}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG(N, R, IN, num_triples=40, seed=2)[0]


@pytest.fixture
def x_dict(data):
    return {m: x.clone() for m, x in modality_dicts(data)[0].items()}


@pytest.fixture
def mask_dict(data):
    return modality_dicts(data)[1]


@pytest.fixture
def edges(data):
    return data[EDGE].edge_index, data[EDGE].edge_type


def make(**kwargs):
    kwargs = {'num_experts': {'text': 3, 'image': 2}, **kwargs}
    torch.manual_seed(0)
    conv = MoCMEConv(IN, C, R, **kwargs)
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(0.3 * torch.randn_like(p))
        conv.fusion.bank_views.normal_()
        conv.fusion.bank_modality_views.normal_()
        conv.fusion.bank_mask.fill_(True)
    return conv.eval()


def close(out, expected):
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def slow_joint(conv, x_dict, mask_dict, entity, rel_type=None):
    """One entity, one relation, from experts and fusion alone."""
    rel_type = None if rel_type is None else torch.tensor([rel_type])
    views, logits, mask = {}, {}, {}
    for m, experts in conv.experts.items():
        mask[m] = mask_dict[m][entity:entity + 1]
        x = x_dict[m][entity:entity + 1] if mask[m] else torch.zeros(1, IN[m])
        views[m], raw = experts(x)
        logits[m] = experts.gate_logits(raw, rel_type)
    state = conv.fusion(views, mask)
    return conv.fusion.fuse(state, *conv.fusion.weights(state, logits, rel_type))[0]


def slow(conv, x_dict, mask_dict, edge_index, edge_type, keep=None):
    out = []
    for i in range(N):
        messages = []
        for e in range(edge_index.size(1)):
            if int(edge_index[1, e]) != i or (keep is not None and not keep[e]):
                continue
            r = int(edge_type[e])
            h = slow_joint(conv, x_dict, mask_dict, int(edge_index[0, e]), r)
            z = conv.relation.weight[r]
            messages.append(h * z if conv.composition == 'mult' else h + z)
        own = slow_joint(conv, x_dict, mask_dict, i)
        out.append(own + sum(messages) / len(messages) if messages else own)
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize('kwargs', [
    {'composition': 'mult'},
    {'composition': 'add'},
    {'num_experts': 1},
    {'relation_bias': False},
    {'fusion_kwargs': {'estimator': CLUB}},
    {'fusion_kwargs': {'uniform': True}},
], ids=str)
def test_messages_against_loops(kwargs, x_dict, mask_dict, edges):
    conv = make(**kwargs)
    out = conv(x_dict, *edges, mask_dict)
    assert out.shape == (N, C)
    close(out, slow(conv, x_dict, mask_dict, *edges))
    # Inverse relations are relations like any other:
    edge_index, edge_type = edges
    inverse = torch.cat([edge_index, edge_index.flip(0)], 1), torch.cat([edge_type, edge_type + R])
    both = conv(x_dict, *inverse, mask_dict)
    close(both, slow(conv, x_dict, mask_dict, *inverse))
    assert not torch.allclose(both, out)


@torch.no_grad()
def test_without_edges_it_is_entity_wise_fusion(x_dict, mask_dict):
    conv = make()
    expected = torch.stack([slow_joint(conv, x_dict, mask_dict, e) for e in range(N)])
    close(conv(x_dict, mask_dict=mask_dict), expected)
    none = torch.empty(2, 0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    close(conv(x_dict, *none, mask_dict), expected)
    assert not expected[0].isnan().any()
    close(expected[0], conv.fusion.missing)  # The bare entity.


@torch.no_grad()
def test_without_masks_all_is_there(x_dict, mask_dict, edges):
    conv = make()
    every = {m: torch.ones(N, dtype=torch.bool) for m in IN}
    expected = conv(x_dict, *edges, every)
    assert conv(x_dict, *edges).equal(expected)
    assert conv(x_dict, *edges, {}).equal(expected)
    assert conv(x_dict, *edges, {'text': every['text']}).equal(expected)
    assert not conv(x_dict, *edges, mask_dict).equal(expected)


@torch.no_grad()
def test_what_stands_in_a_missing_row_does_not_matter(x_dict, mask_dict, edges):
    conv = make()
    expected = conv(x_dict, *edges, mask_dict)
    for value in (7.0, float('nan'), float('inf')):
        other = {m: torch.where(mask_dict[m].unsqueeze(1), x, value) for m, x in x_dict.items()}
        assert conv(other, *edges, mask_dict).equal(expected)


def test_nan_in_a_missing_row_spoils_no_gradient(x_dict, mask_dict, edges):
    conv = make().train()
    x_dict = {m: torch.where(mask_dict[m].unsqueeze(1), x, float('nan'))
              for m, x in x_dict.items()}
    conv(x_dict, *edges, mask_dict).sum().backward()
    assert all(p.grad.isfinite().all() for p in conv.parameters() if p.grad is not None)


@torch.no_grad()
def test_the_order_of_modalities_does_not_matter(x_dict, mask_dict, edges):
    conv = make()
    expected = conv(x_dict, *edges, mask_dict)
    state = conv.state_dict()
    conv = MoCMEConv(dict(reversed(IN.items())), C, R, num_experts={'image': 2, 'text': 3}).eval()
    conv.load_state_dict(state)
    out = conv(dict(reversed(x_dict.items())), *edges, dict(reversed(mask_dict.items())))
    assert out.equal(expected)


@torch.no_grad()
def test_a_permutation_of_nodes_and_of_edges(x_dict, mask_dict, edges):
    conv, (edge_index, edge_type) = make(), edges
    expected = conv(x_dict, *edges, mask_dict)
    perm = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    inverse, order = perm.argsort(), torch.randperm(edge_type.numel())
    out = conv({m: x[inverse] for m, x in x_dict.items()}, perm[edge_index[:, order]],
               edge_type[order], {m: x[inverse] for m, x in mask_dict.items()})
    close(out[perm], expected)


@torch.no_grad()
def test_an_edge_weight_of_zero_removes_an_edge(x_dict, mask_dict, edges):
    conv, (edge_index, edge_type) = make(), edges
    keep = torch.rand(edge_type.numel(), generator=torch.Generator().manual_seed(0)) < 0.6
    keep[edge_index[1] == 5] = False  # Of one node all.
    assert (edge_index[1] == 5).any()
    encoded = conv.encode(x_dict, mask_dict)
    out = conv.neighbours(encoded, edge_index, edge_type, keep.float())
    close(out, conv.neighbours(encoded, edge_index[:, keep], edge_type[keep]))
    close(out + conv.joint(encoded), slow(conv, x_dict, mask_dict, *edges, keep.tolist()))
    assert not out[5].any()
    close(conv.neighbours(encoded, edge_index, edge_type, torch.ones(keep.numel())),
          conv.neighbours(encoded, edge_index, edge_type))


@pytest.mark.parametrize('chunk_size', [1, 7, 16])
def test_chunks_change_nothing(chunk_size, x_dict, mask_dict, edges):
    weight = torch.randn(N, C)
    results = []
    for size in (10**6, chunk_size):
        conv = make(chunk_size=size, fusion_kwargs={'num_references': 8})
        x = {m: x.clone().requires_grad_() for m, x in x_dict.items()}
        edge_weight = torch.linspace(0.5, 1.5, edges[1].numel()).requires_grad_()
        out = conv.neighbours(conv.encode(x, mask_dict), *edges, edge_weight)
        inputs = [*x.values(), edge_weight, *conv.parameters()]
        grads = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)
        results.append((out, grads))
    (out, grads), (chunked, chunked_grads) = results
    close(chunked, out)
    assert sum(grad is not None for grad in grads) > 10
    for a, b in zip(grads, chunked_grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_chunks_keep_their_noise_in_the_backward_pass(x_dict, mask_dict, edges):
    # What is computed again has to be what was computed, or gradients belong to another function.
    conv = make(noise=1.0, chunk_size=7).train()
    for p in conv.parameters():
        p.requires_grad_(False)
    scale = torch.ones((), requires_grad=True)
    encoded = conv.encode(x_dict, mask_dict)
    encoded = encoded._replace(views=encoded.views._replace(views=encoded.views.views * scale))
    out = conv.neighbours(encoded, *edges).sum()
    grad, = torch.autograd.grad(out, scale)
    # The output is linear in the scale but for entities that have no view to scale.
    bare = ~encoded.views.mask.any(dim=1)
    zero = encoded._replace(views=encoded.views._replace(views=encoded.views.views * 0))
    assert bare.any()
    torch.testing.assert_close(grad, (out - conv.neighbours(zero, *edges).sum()).detach(),
                               rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('composition', ['mult', 'add'])
def test_gradients_reach_every_parameter(composition, x_dict, mask_dict, edges):
    conv = make(composition=composition).train()
    conv(x_dict, *edges, mask_dict).square().sum().backward()
    estimators = {id(p) for e in conv.fusion.estimators() for p in e.parameters()}
    assert len(estimators) == 24
    for name, p in conv.named_parameters():
        assert (p.grad is None or not p.grad.any()) == (id(p) in estimators), name


def test_conv_never_waits_for_the_host(x_dict, mask_dict, edges):
    conv = make(noise=0.1, dropout=0.1, chunk_size=16).train()
    with NoSync():
        encoded = conv.encode(x_dict, mask_dict)
        weight = torch.ones(edges[1].numel())
        out = conv.joint(encoded) + conv.neighbours(encoded, *edges, weight)
        out.sum().backward()


class Pipeline(torch.nn.Module):
    """Two layers on a graph; the second sees what the first made as one more modality."""
    def __init__(self):
        super().__init__()
        self.conv1 = MoCMEConv(IN, 8, R)
        self.conv2 = MoCMEConv({**IN, 'hidden': 8}, 4, R, num_experts=2, composition='add')

    def forward(self, x_dict, edge_index, edge_type, mask_dict):
        x = self.conv1(x_dict, edge_index, edge_type, mask_dict).relu()
        return self.conv2({**x_dict, 'hidden': x}, edge_index, edge_type, mask_dict)


def test_in_a_pyg_pipeline(data, x_dict, mask_dict):
    torch.manual_seed(0)
    model = Pipeline()
    assert isinstance(model.conv1, MessagePassing)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    target = torch.arange(N) % 4  # The clusters of the fake graph.
    train = mask_dict['text'] | mask_dict['image']
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        out = model(x_dict, data[EDGE].edge_index, data[EDGE].edge_type, mask_dict)
        loss = torch.nn.functional.cross_entropy(out[train], target[train])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        out = model.eval()(x_dict, data[EDGE].edge_index, data[EDGE].edge_type, mask_dict)
    assert (out.argmax(dim=1) == target)[train].float().mean() > 0.8


@torch.no_grad()
def test_selected_rows_are_encoded_rows(x_dict, mask_dict):
    conv = make()
    rows = torch.tensor([3, 0, 3, N - 1])
    encoded, rel_type = conv.encode(x_dict, mask_dict), torch.tensor([0, 1, 5, 2])
    part = conv.encode({m: x[rows] for m, x in x_dict.items()},
                       {m: x[rows] for m, x in mask_dict.items()})
    close(conv.joint(encoded.select(rows), rel_type), conv.joint(part, rel_type))
    joint, single = conv.views(part, rel_type)
    close(joint, conv.joint(part, rel_type))
    weight, beta = conv.weights(part, rel_type)
    assert weight.shape == (4, 5)
    assert beta.shape == (4, 2)
    for i, m in enumerate(sorted(IN)):
        assert not single[m][~part.views.mask[:, i]].any()
    combined = sum(beta[:, i:i + 1] * single[m] for i, m in enumerate(sorted(IN)))
    close(torch.where(part.views.mask.any(1, keepdim=True), combined, conv.fusion.missing), joint)


def test_conv_reset_parameters(x_dict, mask_dict):
    conv, states = make(), []
    for _ in range(2):
        conv.train().encode(x_dict, mask_dict)
        torch.manual_seed(3)
        conv.reset_parameters()
        states.append({k: v.clone() for k, v in conv.state_dict().items()})
        with torch.no_grad():
            for p in conv.parameters():
                p.add_(1.0)
    assert all(states[0][k].equal(states[1][k]) for k in states[0])


def test_dropout_by_modality():
    conv = MoCMEConv(IN, C, R, dropout={'text': 0.5, 'image': 0.1})
    assert conv.experts['text'].dropout == 0.5
    assert conv.experts['image'].dropout == 0.1
    assert MoCMEConv(IN, C, R, dropout=0.3).experts['image'].dropout == 0.3


def test_invalid_conv_arguments(x_dict):
    with pytest.raises(ValueError, match=r"Unknown 'composition' 'rotate' .*\['mult', 'add'\]"):
        MoCMEConv(IN, C, R, composition='rotate')
    for name in ('num_experts', 'dropout'):
        with pytest.raises(ValueError, match=rf"'{name}' names \['text'\] .*\['image', 'text'\]"):
            MoCMEConv(IN, C, R, **{name: {'text': 0}})
    conv = make()
    for wrong in ({'text': x_dict['text']}, {**x_dict, 'audio': x_dict['text']}):
        with pytest.raises(ValueError, match=r"'x_dict' holds .*\(expected \['image', 'text'\]\)"):
            conv(wrong)


def test_conv_repr():
    assert str(make()) == "MoCMEConv({'image': 5, 'text': 4}, 6, num_relations=3)"
