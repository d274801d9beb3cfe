r"""MoCME in a plain PyG loop, on the embedded graph Atlas or on DB15K.

    python examples/mocme_link_prediction.py                                     # Atlas
    python examples/mocme_link_prediction.py --dataset db15k --mirror ../shared/data
    python examples/mocme_link_prediction.py --smoke                             # seconds

Atlas takes some minutes on two CPU cores. Reached numbers: see docs/results.md. Without
`--mirror`, DB15K is downloaded. Nothing is selected here: the last epoch is tested, once.
"""
import argparse
import time

import torch

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.datasets import DB15K, Atlas
from pyg_mmkgc.nn import MoCME
from pyg_mmkgc.sampler import EGNS

parser = argparse.ArgumentParser()
parser.add_argument('--dataset', choices=['atlas', 'db15k'], default='atlas')
parser.add_argument('--root', help='where DB15K is kept')
parser.add_argument('--mirror', help='a folder that holds DB15K/<file>')
parser.add_argument('--epochs', type=int, default=40)
parser.add_argument('--hidden_channels', type=int, default=100)
parser.add_argument('--batch_size', type=int, default=500)
parser.add_argument('--lr', type=float, default=0.01)
parser.add_argument('--regularization', type=float, help='default: 0.1, and 0.02 on DB15K')
parser.add_argument('--smoke', action='store_true', help='a few steps of a tiny model')
args = parser.parse_args()
if args.smoke:
    args.epochs, args.hidden_channels = 1, 16
if args.regularization is None:
    args.regularization = 0.1 if args.dataset == 'atlas' else 0.02

torch.manual_seed(0)
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
data = Atlas()[0] if args.dataset == 'atlas' else DB15K(args.root, mirror=args.mirror)[0]

# Held-out triples, on which the weights of modalities are learned:
train, held_out = torch.stack(get_triples(data, 'train')), torch.stack(get_triples(data, 'val'))
if args.dataset == 'db15k':  # Its validation triples stand in train, so hold out others.
    order = torch.randperm(train.size(1))
    held_out, train = train[:, order[:4000]], train[:, order[4000:]]

sampler = EGNS(data['entity'].num_nodes, candidates=seen_entities(data)).to(device)
model = MoCME.from_data(data, hidden_channels=args.hidden_channels,
                        regularization=args.regularization, neg_sampling=sampler,
                        neg_weight=0.1).to(device)
model.held_out_gates = True

gates = {id(p) for p in model.gates()}
optimizer = torch.optim.Adam([p for p in model.parameters() if id(p) not in gates], lr=args.lr)
gate_optimizer = torch.optim.Adam(model.gates(), lr=0.05)


def make_loader(triples):
    head_index, rel_type, tail_index = triples.to(device)
    return model.loader(  # Triples and their inverses, which ask for heads.
        torch.cat([head_index, tail_index]),
        torch.cat([rel_type, rel_type + model.num_relations]),
        torch.cat([tail_index, head_index]),
        batch_size=args.batch_size, shuffle=True)


def learn(optimizer, loss, loader):
    total = torch.zeros((), device=device)
    for i, batch in enumerate(loader):
        optimizer.zero_grad()
        value = loss(*batch)
        value.backward()
        optimizer.step()
        total += value.detach()
        if args.smoke and i == 1:
            break
    return float(total) / (i + 1)


loader, gate_loader = make_loader(train), make_loader(held_out)
for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    model.train()
    loss = learn(optimizer, model.loss, loader)
    gate_loss = learn(gate_optimizer, model.gate_loss, gate_loader)
    print(f'Epoch: {epoch:03d}, Loss: {loss:.4f}, Held out: {gate_loss:.4f}, '
          f'Time: {time.perf_counter() - start:.1f}s')

test = torch.stack(get_triples(data, 'test')).to(device)
rank, mrr, hits = model.test(*test[:, :100 if args.smoke else None], batch_size=1000)
print(f'Test: Mean Rank: {rank:.1f}, MRR: {mrr:.4f}, Hits@10: {hits:.4f}')
