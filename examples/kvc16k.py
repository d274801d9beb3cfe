r"""KVC16K in its clean splits: train MoCME on Chinese labels, and ask it a question.

    python examples/kvc16k.py --mirror ../shared/data
    python examples/kvc16k.py --smoke                      # seconds

Without a mirror the triples are downloaded. Relations have numbers only, entities have names.
"""
import argparse
import os
from pathlib import Path

import torch

from pyg_mmkgc.data import get_triples, seen_entities
from pyg_mmkgc.datasets import KVC16K
from pyg_mmkgc.evaluation import evaluate, predict
from pyg_mmkgc.nn import MoCME
from pyg_mmkgc.sampler import EGNS, TripleLoader

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'

parser = argparse.ArgumentParser()
parser.add_argument('--root', help='where KVC16K is kept')
parser.add_argument('--mirror', help='a folder that holds KVC16K/<file>',
                    default=os.environ.get('PYG_MMKGC_MIRROR', SHARED if SHARED.is_dir() else None))
parser.add_argument('--epochs', type=int, default=5)
parser.add_argument('--hidden_channels', type=int, default=200)
parser.add_argument('--batch_size', type=int, default=1000)
parser.add_argument('--smoke', action='store_true', help='a few steps of a tiny model')
args = parser.parse_args()
if args.smoke:
    args.epochs, args.hidden_channels = 1, 16
    if args.mirror is None:
        raise SystemExit('KVC16K NOT TRIED: there is no mirror folder, and nothing to download in '
                         'a smoke run')

torch.manual_seed(0)
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
dataset = KVC16K(args.root, splits='clean', features='labels', mirror=args.mirror)
data = dataset[0]
print(data)

# One head over the fused view: with 4 relations, a head for each modality adds little.
model = MoCME.from_data(
    data, hidden_channels=args.hidden_channels, num_experts=2, heads=[], regularization=0.02,
    neg_weight=0.1, neg_sampling=EGNS(dataset.num_entities, num_negatives=32,
                                      candidates=seen_entities(data)).to(device)).to(device)
optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
loader = TripleLoader(*get_triples(data, 'train'), batch_size=args.batch_size,
                      num_relations=dataset.num_relations, device=device)

for epoch in range(1, args.epochs + 1):
    model.train()
    total = torch.zeros((), device=device)
    for i, batch in enumerate(loader):
        optimizer.zero_grad()
        loss = model.loss(*batch)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        if args.smoke and i == 2:
            break
    print(f'Epoch: {epoch:02d}, Loss: {float(total) / (i + 1):.4f}')

model.eval()
if args.smoke:
    val = [x[:100] for x in get_triples(data, 'val')]
    print('Mean rank, MRR, Hits@10 of 100 triples:', model.test(*val, batch_size=100, log=False))
else:
    print(f'Validation MRR: {evaluate(model, data, "val", log=True).mrr:.4f}')

head, relation, tail = (int(x[0]) for x in get_triples(data, 'test'))
label = data['entity'].label
print(f'({label[head]}, relation {relation}, ?), by the test set {label[tail]}:')
for answer in predict(model, data, head=head, relation=relation, top=3, exclude=['train']):
    print(f'  {answer["entity"]}, score {answer["score"]:.2f}')
