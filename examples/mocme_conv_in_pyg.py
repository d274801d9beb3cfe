r"""MoCMEConv in a plain `torch_geometric` pipeline: `LinkLoader`, EGNS, two layers, DistMult.

    python examples/mocme_conv_in_pyg.py            # a minute
    python examples/mocme_conv_in_pyg.py --smoke    # seconds

Trains on the embedded graph Atlas. An entity is what its own modalities and those of its
neighbours say; there is no learned table of entities. With pyg-lib or torch-sparse neighbours are
sampled by PyG's `LinkNeighborLoader`, without by `EntityLinkSampler` in plain torch.
"""
import argparse

import torch
import torch_geometric.typing
from torch.nn.functional import softplus
from torch_geometric.loader import LinkLoader, LinkNeighborLoader

from pyg_mmkgc.data import EDGE, modality_dicts, seen_entities
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import MoCMEConv
from pyg_mmkgc.sampler import EGNS, EntityLinkSampler

parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--smoke', action='store_true', help='a few steps of a tiny model')
args = parser.parse_args()
epochs, hidden_channels = (1, 16) if args.smoke else (args.epochs, 64)
torch.manual_seed(0)
data = Atlas()[0]
num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
in_channels = {m: x.size(1) for m, x in modality_dicts(data)[0].items()}


class Net(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = MoCMEConv(in_channels, channels, num_relations, dropout=0.2)
        # What the first layer made is one more modality of the second:
        self.conv2 = MoCMEConv({**in_channels, 'hidden': channels}, channels, num_relations,
                               num_experts=1, composition='add', dropout=0.2)
        self.relation = torch.nn.Embedding(num_relations, channels)

    def forward(self, data, edge_weight=None):
        x_dict, mask_dict = modality_dicts(data)
        edge_index, edge_type = data[EDGE].edge_index, data[EDGE].edge_type
        # Messages go both ways; the inverse of relation r is r + num_relations.
        graph = (torch.cat([edge_index, edge_index.flip(0)], dim=1),
                 torch.cat([edge_type, edge_type + num_relations]), mask_dict,
                 None if edge_weight is None else edge_weight.repeat(2))
        hidden = self.conv1(x_dict, *graph).relu()
        return self.conv2({**x_dict, 'hidden': hidden}, *graph)

    def query(self, x, rel_type):
        return x * self.relation(rel_type % num_relations)  # DistMult is symmetric.


neg_sampling = EGNS(num_entities, amount=16, candidates=seen_entities(data))
options = {'edge_label_index': EDGE, 'neg_sampling': neg_sampling, 'batch_size': 256,
           'shuffle': True}
if torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE:
    loader = LinkNeighborLoader(data, num_neighbors=[20, 10], **options)
else:
    loader = LinkLoader(data, link_sampler=EntityLinkSampler(data, num_hops=2), **options)
model = Net(hidden_channels)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)


def train():
    model.train()
    total = 0.0
    for i, batch in enumerate(loader):
        rel_type, store = data[EDGE].edge_type[batch[EDGE].input_id], batch['entity']
        # The links that are asked for must not be seen in the graph:
        keep = ~torch.isin(batch[EDGE].e_id, batch[EDGE].input_id)
        x = model(batch, keep.float())
        query = model.query(x[store.src_index], rel_type).unsqueeze(1)  # [B, 1, C]
        pos = (query * x[store.dst_pos_index].unsqueeze(1)).sum(dim=-1)  # [B, 1]
        neg = (query * x[store.dst_neg_index]).sum(dim=-1)  # [B, 16]
        loss = softplus(-pos).mean() + (neg_sampling.weight(neg) * softplus(neg)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        neg_sampling.update(store.n_id[store.dst_neg_index], neg)
        total += float(loss.detach())
        if args.smoke and i == 1:
            break
    return total / (i + 1)


@torch.no_grad()
def test(split):
    model.eval()
    x = model(data)
    return evaluate(lambda h, r, start, stop: model.query(x[h], r) @ x[start:stop].t(), data,
                    split).mrr


for epoch in range(1, epochs + 1):
    print(f'Epoch: {epoch:02d}, Loss: {train():.4f}, Validation MRR: {test("val"):.4f}')
print(f'Test MRR: {test("test"):.4f}, with unseen entities: {test("inductive_test"):.4f}')
