import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch_geometric.typing
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader, LinkNeighborLoader
from torch_geometric.sampler import EdgeSamplerInput, NegativeSampling, NodeSamplerInput

from pyg_mmkgc.data import EDGE, build_data, get_triples
from pyg_mmkgc.sampler import EGNS, EntityLinkSampler, Uniform

N, R, E = 30, 5, 80

needs_neighbor_sampling = pytest.mark.skipif(
    not (torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE),
    reason='LINK NEIGHBOR LOADER NOT TESTED: neither pyg-lib nor torch-sparse is installed')


def graph():
    generator = torch.Generator().manual_seed(0)

    def draw(size):
        head_index, tail_index = torch.randint(N - 1, (2, size), generator=generator)
        return torch.stack([head_index, torch.randint(R, (size, ), generator=generator),
                            tail_index], dim=1)

    data = build_data(
        {'train': draw(E), 'val': draw(7)}, [f'e{i}' for i in range(N)],
        [f'r{i}' for i in range(R)],
        {'text': (torch.randn(N, 4, generator=generator), torch.arange(N) % 3 > 0)})
    return data


def make_loader(data, neg_sampling, num_hops=0, **kwargs):
    return LinkLoader(data, link_sampler=EntityLinkSampler(data, num_hops), edge_label_index=EDGE,
                      neg_sampling=neg_sampling, batch_size=32, **kwargs)


@contextmanager
def closing(loader):
    """Shut persistent workers down at once; left to the garbage collector it takes seconds."""
    yield loader
    if loader.persistent_workers:
        loader._iterator._shutdown_workers()


def global_triples(data, batch):
    """Heads, relations, tails and negatives of a batch in triplet mode, as ids of the graph."""
    store = batch['entity']
    return (store.n_id[store.src_index], data[EDGE].edge_type[batch[EDGE].input_id],
            store.n_id[store.dst_pos_index], store.n_id[store.dst_neg_index])


def check_subgraph(data, batch, num_hops):
    """Nodes and edges against loops over Python sets."""
    n_id = batch['entity'].n_id.tolist()
    edges = list(zip(*data[EDGE].edge_index.tolist(), strict=True))
    assert len(set(n_id)) == len(n_id)
    local = batch[EDGE].edge_index
    e_id = batch[EDGE].e_id.tolist()
    assert e_id == [i for i, (h, t) in enumerate(edges) if h in n_id and t in n_id]
    assert [edges[i] for i in e_id] == [(n_id[h], n_id[t]) for h, t in local.t().tolist()]
    assert batch[EDGE].edge_type.tolist() == data[EDGE].edge_type[e_id].tolist()
    assert torch.equal(batch['entity'].text, data['entity'].text[n_id])
    assert torch.equal(batch['entity'].text_mask, data['entity'].text_mask[n_id])

    store = batch['entity'] if 'src_index' in batch['entity'] else batch[EDGE]
    keys = ['src_index', 'dst_pos_index', 'dst_neg_index', 'edge_label_index']
    local = torch.cat([store[key].view(-1) for key in keys if key in store])
    nodes = {n_id[i] for i in local.tolist()}
    for _ in range(num_hops):
        nodes |= {h for h, t in edges if t in nodes}
    assert set(n_id) == nodes


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('num_hops', [0, 1])
def test_triplet_mode(num_workers, num_hops):
    data = graph()
    neg_sampling = EGNS(N, amount=3, generator=torch.Generator().manual_seed(1)).share_memory_()
    loader = make_loader(data, neg_sampling, num_hops, shuffle=True, num_workers=num_workers,
                         persistent_workers=num_workers > 0)
    assert loader.neg_sampling is neg_sampling
    expected = sorted(zip(*(part.tolist() for part in get_triples(data, 'train')), strict=True))
    all_negatives = []

    def check_epoch():
        seen, sizes = [], []
        for batch in loader:
            head_index, rel_type, tail_index, neg_index = global_triples(data, batch)
            seen += zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(), strict=True)
            sizes.append(head_index.numel())
            assert neg_index.size() == (head_index.numel(), 3)
            all_negatives.append(neg_index[:16])
            check_subgraph(data, batch, num_hops)
        assert sizes == [32, 32, 16]
        assert sorted(seen) == expected  # The relation came from `edge_type[input_id]`.

    with closing(loader):
        check_epoch()
        check_epoch()
    # Workers neither share nor repeat the copied generator's draws.
    for i, first in enumerate(all_negatives):
        assert not any(torch.equal(first, second) for second in all_negatives[:i])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_binary_mode(num_workers):
    data = graph()
    loader = make_loader(data, EGNS(N, mode='binary', amount=0.5), 1, num_workers=num_workers)
    count = 0
    for batch in loader:
        store, n_id = batch[EDGE], batch['entity'].n_id
        num_pos = store.input_id.numel()
        assert store.edge_label.tolist() == [1] * num_pos + [0] * (num_pos // 2)
        assert store.edge_label_index.size() == (2, num_pos + num_pos // 2)
        assert torch.equal(n_id[store.edge_label_index[:, :num_pos]],
                           data[EDGE].edge_index[:, store.input_id])
        check_subgraph(data, batch, 1)
        count += num_pos
    assert count == E


@pytest.mark.parametrize('num_workers', [0, 2])
def test_workers_see_new_node_weights(num_workers):
    data = graph()
    neg_sampling = EGNS(N, amount=4, temperature=0.01, exploration=1e-6, momentum=1,
                        refresh_every=1).share_memory_()
    loader = make_loader(data, neg_sampling, num_workers=num_workers,
                         persistent_workers=num_workers > 0)

    def share(entity):
        negatives = torch.cat([global_triples(data, batch)[3].view(-1) for batch in loader])
        assert negatives.numel() == 4 * E
        return (negatives == entity).double().mean().item()

    with closing(loader):
        assert share(N - 1) < 0.2  # Uniform at first.
        for entity in (N - 1, 0):  # The last has no edge at all.
            score = torch.full((1, N), -20.0)
            score[0, entity] = 0.0
            neg_sampling.update(torch.arange(N).unsqueeze(0), score)
            assert share(entity) > 0.98


def test_worker_draws_follow_the_loader_seed():
    data = graph()
    draws = []
    for seed in (4, 4, 5):
        loader = make_loader(data, Uniform(N, generator=torch.Generator().manual_seed(8)),
                             num_workers=2, generator=torch.Generator().manual_seed(seed))
        draws.append([global_triples(data, batch)[3].tolist() for batch in loader])
    assert draws[0] == draws[1] != draws[2]


def test_same_metadata_as_pyg_for_plain_negative_sampling():
    data = graph()
    torch.manual_seed(0)
    ours = list(make_loader(data, Uniform(N, amount=2)))
    theirs = list(make_loader(data, NegativeSampling('triplet', 2)))
    for first, second in zip(ours, theirs, strict=True):
        assert set(first['entity'].keys()) == set(second['entity'].keys())
        assert set(first[EDGE].keys()) == set(second[EDGE].keys())
        assert (first['entity'].dst_neg_index.size() == second['entity'].dst_neg_index.size()
                == (first[EDGE].input_id.numel(), 2))


def test_without_negatives_and_on_other_links():
    data = graph()
    sampler = EntityLinkSampler(data)
    links = data[EDGE].val_edge_label_index
    loader = LinkLoader(data, link_sampler=sampler, edge_label_index=(EDGE, links), batch_size=5)
    batches = list(loader)
    found = torch.cat([b['entity'].n_id[b[EDGE].edge_label_index] for b in batches], dim=1)
    assert torch.equal(found, links)


def test_homogeneous_data():
    data = graph()
    plain = Data(edge_index=data[EDGE].edge_index, edge_type=data[EDGE].edge_type, num_nodes=N)
    loader = LinkLoader(plain, link_sampler=EntityLinkSampler(plain, 1), batch_size=32,
                        neg_sampling=EGNS(N, amount=2))
    count = 0
    for batch in loader:
        assert torch.equal(batch.n_id[torch.stack([batch.src_index, batch.dst_pos_index])],
                           plain.edge_index[:, batch.input_id])
        assert batch.dst_neg_index.size() == (batch.input_id.numel(), 2)
        assert torch.equal(batch.n_id[batch.edge_index], plain.edge_index[:, batch.e_id])
        assert torch.equal(batch.edge_type, plain.edge_type[batch.e_id])
        count += batch.input_id.numel()
    assert count == E


def test_sample_from_nodes():
    data = graph()
    seed = torch.tensor([7, 3, 20])
    for num_hops in (0, 2):
        out = EntityLinkSampler(data, num_hops).sample_from_nodes(
            NodeSamplerInput(torch.arange(3), seed, input_type='entity'))
        nodes = set(seed.tolist())
        for _ in range(num_hops):
            nodes |= {h for h, t in data[EDGE].edge_index.t().tolist() if t in nodes}
        assert out.node['entity'][:3].tolist() == seed.tolist()  # Seeds come first.
        assert set(out.node['entity'].tolist()) == nodes
        assert out.metadata[0].tolist() == [0, 1, 2]


def test_link_sampler_repr_and_errors():
    data = graph()
    sampler = EntityLinkSampler(data, 1)
    assert str(sampler) == 'EntityLinkSampler(30, num_edges=80, num_hops=1)'
    with pytest.raises(ValueError, match=r"'num_hops' must not be negative \(got -1\)"):
        EntityLinkSampler(data, -1)
    other = copy.copy(data)
    other['entity', 'by', 'entity'].edge_index = data[EDGE].edge_index
    with pytest.raises(ValueError, match=r"one node type and one edge type \(got \['entity'\]"):
        EntityLinkSampler(other)
    with pytest.raises(ValueError, match='one node type and one edge type'):
        EntityLinkSampler(HeteroData())
    index = torch.tensor([0])
    with pytest.raises(ValueError, match='knows no time'):
        sampler.sample_from_edges(EdgeSamplerInput(None, index, index, time=index,
                                                   input_type=EDGE))
    with pytest.raises(ValueError, match='knows no time'):
        sampler.sample_from_nodes(NodeSamplerInput(None, index, time=index, input_type='entity'))
    with pytest.raises(ValueError, match="'num_nodes' is 30, but this EGNS was made for 12"):
        next(iter(make_loader(data, EGNS(12))))


@needs_neighbor_sampling
def test_link_neighbor_loader():
    data = graph()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # PyG prefers pyg-lib to torch-sparse.
        loader = LinkNeighborLoader(data, num_neighbors=[4], edge_label_index=EDGE, batch_size=32,
                                    neg_sampling=EGNS(N, amount=2))
        seen = []
        for batch in loader:
            head_index, rel_type, tail_index, neg_index = global_triples(data, batch)
            seen += zip(head_index.tolist(), rel_type.tolist(), tail_index.tolist(), strict=True)
            assert neg_index.size() == (head_index.numel(), 2)
    expected = zip(*(part.tolist() for part in get_triples(data, 'train')), strict=True)
    assert sorted(seen) == sorted(expected)
