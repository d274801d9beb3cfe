r"""MoMoK in a plain PyG loop, on the embedded graph Atlas: experts, a head for each modality, CLUB.

    python examples/momok_link_prediction.py            # minutes
    python examples/momok_link_prediction.py --smoke    # seconds

Options are those of the recipe `momok-atlas`; `pyg-mmkgc train --model momok` does the same and
restores the epoch with the best validation MRR, by which this loop only stops.
"""
import argparse
import time

import torch

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import MoMoK

parser = argparse.ArgumentParser()
parser.add_argument('--epochs', type=int, default=200)
parser.add_argument('--eval_every', type=int, default=5)
parser.add_argument('--patience', type=int, default=8, help='evaluations without a better one')
parser.add_argument('--hidden_channels', type=int, default=64)
parser.add_argument('--smoke', action='store_true', help='one epoch of a tiny model')
args = parser.parse_args()
if args.smoke:
    args.epochs, args.eval_every, args.hidden_channels = 1, 1, 8

torch.manual_seed(0)
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
data = Atlas()[0]
model = MoMoK.from_data(data, hidden_channels=args.hidden_channels, num_experts=3,
                        objective='softmax', label_smoothing=0.1, init_scale=0.3,
                        modality_dropout=0.2).to(device)

# CLUB's likelihood is trained in alternation with everything else; tables learn faster.
tables, estimators = model.tables(), model.alternating_parameters()
apart = {id(p) for p in [*tables, *estimators]}
optimizer = torch.optim.Adam([
    {'params': tables, 'lr': 0.01},
    {'params': [p for p in model.parameters() if id(p) not in apart], 'lr': 0.002},
])
estimator_optimizer = torch.optim.Adam(estimators, lr=0.002)

head_index, rel_type, tail_index = (x.to(device) for x in get_triples(data, 'train'))
loader = model.loader(  # Triples and their inverses, which ask for heads.
    torch.cat([head_index, tail_index]),
    torch.cat([rel_type, rel_type + model.num_relations]),
    torch.cat([tail_index, head_index]), batch_size=1024, shuffle=True)


def train():
    model.train()
    total, parts = 0.0, {}
    for batch in loader:
        estimator_optimizer.zero_grad()
        model.alternating_loss().backward()
        estimator_optimizer.step()

        optimizer.zero_grad()
        loss = model.loss(*batch, log=parts)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / len(loader), float(parts['disentanglement'])


best, bad = 0.0, 0
for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    loss, information = train()
    line = f'Epoch: {epoch:03d}, Loss: {loss:.4f}, of which experts share: {information:.2e}'
    if epoch % args.eval_every == 0:
        mrr = evaluate(model, data, 'val').mrr
        line += f', Validation MRR: {mrr:.4f}'
        best, bad = (mrr, 0) if mrr > best else (best, bad + 1)
    print(f'{line}, Time: {time.perf_counter() - start:.1f}s')
    if bad == args.patience:
        break

for split in ('test', 'inductive_test'):
    metrics = evaluate(model, data, split).metrics()
    print(f'{split}: MRR: {metrics["mrr"]:.4f}, Hits@10: {metrics["hits@10"]:.4f}')

# What the decision rests on, for one entity under one relation:
label = data['entity'].label
index, relation = torch.tensor([list(label).index('France')], device=device), rel_type[:1]
weight = model.eval().modality_weights(index, relation)[0].tolist()
print('France:', ', '.join(f'{m} {w:.2f}' for m, w in zip(model.modalities, weight, strict=True)))
