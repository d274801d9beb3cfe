import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_mmkgc.nn import MoCMEConv
from pyg_mmkgc.nn.conv.edge_sum import edge_sum
from pyg_mmkgc.testing import NoSync


def inputs(num_entities=6, num_edges=40, num_views=3, num_relations=4, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.double, generator=generator).requires_grad_()

    return (draw(num_entities, num_views, channels), draw(num_edges, num_views),
            torch.randint(num_entities, (2, num_edges), generator=generator),
            draw(num_relations, channels),
            torch.randint(num_relations, (num_edges, ), generator=generator))


@pytest.mark.parametrize('chunk_size', [1, 7, 40, 100])
@pytest.mark.parametrize('scaled', [False, True])
def test_edge_sum_against_loops(scaled, chunk_size):
    table, weight, edge_index, scale, edge_type = inputs()
    expected = torch.zeros(8, 5, dtype=torch.double)
    for e, (src, dst) in enumerate(edge_index.t().tolist()):
        for k in range(3):
            message = weight[e, k] * table[src, k]
            expected[dst] += message * scale[edge_type[e]] if scaled else message
    more = (scale, edge_type) if scaled else ()
    out = edge_sum(table, weight, *edge_index, 8, *more, chunk_size=chunk_size)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert not out[6:].any()


@pytest.mark.parametrize('scaled', [False, True])
def test_edge_sum_gradients(scaled):
    table, weight, edge_index, scale, edge_type = inputs(num_edges=11)

    def run(table, weight, *scale):
        return edge_sum(table, weight, *edge_index, 6, *scale,
                        *([edge_type] if scale else []), chunk_size=4)

    args = (table, weight, scale) if scaled else (table, weight)
    assert torch.autograd.gradcheck(run, args)
    for i in range(len(args)):  # Each gradient also where no other one is asked for.
        assert torch.autograd.gradcheck(
            run, [x if i == j else x.detach() for j, x in enumerate(args)])


def test_edge_sum_of_a_table_that_is_not_contiguous():
    table, weight, edge_index, scale, edge_type = inputs()
    other = table.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    assert not other.is_contiguous()
    results = []
    for x in (table, other):
        out = edge_sum(x, weight, *edge_index, 6, scale, edge_type)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, weight, scale))))
    for a, b in zip(*results, strict=True):
        assert a.equal(b)


def test_edge_sum_without_edges():
    table, weight, edge_index, scale, edge_type = inputs(num_edges=0)
    out = edge_sum(table, weight, *edge_index, 6, scale, edge_type)
    assert out.shape == (6, 5)
    grads = torch.autograd.grad(out.sum(), (table, weight, scale))
    assert [list(grad.shape) for grad in grads] == [[6, 3, 5], [0, 3], [4, 5]]
    assert not any(grad.any() for grad in grads)


def test_edge_sum_needs_scale_and_edge_type_together():
    table, weight, edge_index, scale, _ = inputs()
    with pytest.raises(ValueError, match="'scale' and 'edge_type' need each other"):
        edge_sum(table, weight, *edge_index, 6, scale)


# The layer, beside one message per edge ######################################


def make(composition='mult', modalities=2, experts=3, num_entities=50, num_edges=400,
         num_relations=5, channels=6, in_channels=4, dtype=torch.double, lacking=(), seed=0):
    """Layer, arguments and edge weights; entity 0 is bare."""
    torch.manual_seed(seed)
    names = [f'm{i:02d}' for i in range(modalities)]
    conv = MoCMEConv(dict.fromkeys(names, in_channels), channels, num_relations, experts,
                     composition=composition, chunk_size=16,
                     fusion_kwargs={'num_references': 8}).to(dtype)
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x_dict = {m: torch.randn(num_entities, in_channels, dtype=dtype) for m in names}
    mask_dict = {m: torch.rand(num_entities) < (0 if m in lacking else 0.8) for m in names}
    for mask in mask_dict.values():
        mask[0] = False
    edge_index = torch.randint(num_entities, (2, num_edges))
    edge_type = torch.randint(2 * num_relations, (num_edges, ))
    return conv.eval(), (x_dict, edge_index, edge_type, mask_dict), \
        torch.rand(num_edges, dtype=dtype)


def run(conv, args, edge_weight, chunk_size, target):
    conv.chunk_size = chunk_size
    x_dict, *rest = args
    x_dict = {m: x.clone().requires_grad_() for m, x in x_dict.items()}
    edge_weight = edge_weight.clone().requires_grad_()
    out = conv(x_dict, *rest, edge_weight)
    inputs = [*x_dict.values(), edge_weight, *conv.parameters()]
    return out, torch.autograd.grad((out * target).sum(), inputs, allow_unused=True)


def check(conv, args, edge_weight, chunk_size=16, tolerance=1e-8):
    x = next(iter(args[0].values()))
    target = torch.randn(x.size(0), conv.out_channels, dtype=x.dtype)
    out, grads = run(conv, args, edge_weight, chunk_size, target)
    expected, expected_grads = run(conv, args, edge_weight, None, target)
    assert out.isfinite().all()
    for a, b in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).norm() <= tolerance * b.norm().clamp(min=1)
    assert sum(grad is not None and bool(grad.any()) for grad in grads) >= 3


STRESS = {
    'default': {},
    'one expert': {'experts': 1},
    'one modality': {'modalities': 1},
    'one modality, one expert': {'modalities': 1, 'experts': 1},
    'twelve modalities': {'modalities': 12},
    'one relation': {'num_relations': 1},
    '10,000 relations': {'num_relations': 10_000},
    'a modality that nobody has': {'modalities': 3, 'lacking': ('m01', )},
    'no modality at all': {'lacking': ('m00', 'm01')},
    'features of 10,000 dimensions': {'in_channels': 10_000},
    'one edge': {'num_edges': 1},
}


@pytest.mark.parametrize('composition', ['add', 'mult'])
@pytest.mark.parametrize('kwargs', STRESS.values(), ids=list(STRESS))
def test_as_one_message_per_edge(kwargs, composition):
    check(*make(composition, **kwargs))


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_in_single_precision(composition):
    check(*make(composition, dtype=torch.float), tolerance=1e-5)


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_hub_of_100000_neighbours(composition):
    conv, args, edge_weight = make(composition, num_edges=100_000, channels=4)
    args[1][1] = 3
    check(conv, args, edge_weight, chunk_size=2048)
    # In single precision a sum of so many terms stays near the one in double precision:
    with torch.no_grad():
        expected = conv(*args)
        x_dict, *rest = args
        out = conv.float()({m: x.float() for m, x in x_dict.items()}, *rest)
    assert (out - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_graph_without_edges(composition):
    conv, args, edge_weight = make(composition, num_edges=0)
    own = conv(args[0], mask_dict=args[3])
    assert conv(*args).equal(own)
    encoded = conv.encode(args[0], args[3])
    for chunk_size in (16, None):
        conv.chunk_size = chunk_size
        out = conv.neighbours(encoded, args[1], args[2], edge_weight)
        assert out.shape == own.shape
        assert not out.any()


class Largest(TorchDispatchMode):
    """The largest number of values that any operator returns, backward passes included."""
    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                # An expanded view takes what is behind it.
                self.size = max(self.size, min(x.numel(), x.untyped_storage().nbytes()
                                               // x.element_size()))
        return out


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_no_tensor_of_edges_times_channels(composition):
    num_edges, channels, num_views = 20_000, 32, 6
    conv, args, _ = make(composition, num_edges=num_edges, channels=channels, dtype=torch.float)
    sizes = {}
    for chunk_size in (64, None):
        conv.chunk_size = chunk_size
        encoded = conv.encode(args[0], args[3])
        with Largest() as largest:
            conv.neighbours(encoded, args[1], args[2]).square().sum().backward()
        sizes[chunk_size] = largest.size
    assert sizes[None] == num_edges * num_views * channels  # What the other form is without.
    assert sizes[64] == num_edges * num_views


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_no_host_is_waited_for(composition):
    conv, args, edge_weight = make(composition)
    with NoSync():
        conv.train()(*args, edge_weight).sum().backward()


@pytest.mark.parametrize('composition', ['add', 'mult'])
def test_masks_of_explanations(composition):
    """PyG's explainers put a mask on the edges of each layer."""
    from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
    conv, args, _ = make(composition)
    mask = torch.rand(args[2].numel(), dtype=torch.double).requires_grad_()
    encoded = conv.encode(args[0], args[3])
    plain = conv.neighbours(encoded, args[1], args[2])
    set_masks(conv, mask, args[1], apply_sigmoid=False)
    out = conv.neighbours(encoded, args[1], args[2])
    clear_masks(conv)
    # A masked message does not count, but in the degree:
    size = torch.zeros(50, dtype=torch.double)
    share = (size.index_add(0, args[1][1], mask)
             / size.index_add(0, args[1][1], torch.ones_like(mask)).clamp(min=1))
    expected = conv.neighbours(encoded, args[1], args[2], mask) * share.unsqueeze(1)
    torch.testing.assert_close(out, expected, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(out, plain)
    grad, = torch.autograd.grad(out.sum(), mask)
    assert grad.any()
    torch.testing.assert_close(conv.neighbours(encoded, args[1], args[2]), plain)


def test_autocast():
    conv, args, _ = make(dtype=torch.float)
    expected = conv(*args)
    with torch.autocast('cpu', torch.bfloat16):
        out = conv(*args)
        out.sum().backward()
    assert (out - expected).norm() < 0.02 * expected.norm()
    assert all(p.grad.isfinite().all() for p in conv.parameters() if p.grad is not None)


def test_invalid_edges():
    conv, (x_dict, edge_index, edge_type, mask_dict), _ = make()
    with pytest.raises(ValueError, match=r"'edge_type' needs .* 400 edges \(got shape None\)"):
        conv(x_dict, edge_index)
    with pytest.raises(ValueError, match=r"'edge_type' needs .* 400 edges \(got shape \[399\]\)"):
        conv(x_dict, edge_index, edge_type[1:], mask_dict)
    with pytest.raises(ValueError, match=r"'chunk_size' needs to be at least 1 \(got 0\)"):
        MoCMEConv({'text': 2}, 3, 1, chunk_size=0)
    bare = MoCMEConv({'m00': 4, 'm01': 4}, 6, 5, composition=None).double()
    with pytest.raises(ValueError, match="'composition' is None"):
        bare(x_dict, edge_index, edge_type)
