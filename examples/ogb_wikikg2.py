r"""ogbl-wikikg2 by the protocol of its leaderboard: ComplEx with sampled losses, `evaluate_ogb`.

    python -c "from ogb.linkproppred import LinkPropPredDataset as D; D('ogbl-wikikg2', 'datasets')"
    python examples/ogb_wikikg2.py --root datasets
    python examples/ogb_wikikg2.py --smoke    # seconds, on a random stand-in

The first line downloads the benchmark and builds it; nothing else here uses the network. NOT
MEASURED: the real files were not at hand. `--smoke` writes a small random graph in their layout and
shows that the pipeline runs; its numbers mean nothing, and no option was tuned.
"""
import argparse
import gzip
import tempfile
from pathlib import Path

import numpy as np
import torch

from pyg_mmkgc.data import get_triples
from pyg_mmkgc.datasets import OGBWikiKG2
from pyg_mmkgc.evaluation import evaluate_ogb
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.sampler import Uniform
from pyg_mmkgc.training import TrainConfig, Trainer

parser = argparse.ArgumentParser()
parser.add_argument('--root', help='the folder that holds `ogbl_wikikg2`')
parser.add_argument('--steps', type=int, default=200_000)
parser.add_argument('--batch_size', type=int, default=1024)
parser.add_argument('--hidden_channels', type=int, default=200)
parser.add_argument('--num_negatives', type=int, default=64)
parser.add_argument('--smoke', action='store_true', help='a random graph of 200 entities')
args = parser.parse_args()
temporary = tempfile.TemporaryDirectory()


def write_stand_in(root, num_entities=200, num_relations=4, num_negatives=20):
    r"""Random triples in the layout that ogb leaves, without labels."""
    rng, folder = np.random.default_rng(0), root / 'ogbl_wikikg2'
    for path in ('raw', 'split/time'):
        (folder / path).mkdir(parents=True)
    with gzip.open(folder / 'raw' / 'num-node-list.csv.gz', 'wt') as f:
        f.write(f'{num_entities}\n')
    for split, size in {'train': 2000, 'valid': 50, 'test': 50}.items():
        part = {'head': rng.integers(num_entities, size=size),
                'relation': rng.integers(num_relations, size=size),
                'tail': rng.integers(num_entities, size=size)}
        if split != 'train':  # The leaderboard ranks among these, and no others.
            for side in ('head_neg', 'tail_neg'):
                part[side] = rng.integers(num_entities, size=(size, num_negatives))
        torch.save(part, folder / 'split' / 'time' / f'{split}.pt')


if args.smoke:
    args.root, args.steps, args.batch_size, args.hidden_channels = temporary.name, 4, 256, 16
    write_stand_in(Path(args.root))
dataset = OGBWikiKG2(args.root)
data = dataset[0]
num_triples = get_triples(data, 'train')[0].numel()
print(f'{dataset.num_entities:,} entities, {dataset.num_relations} relations, {num_triples:,} '
      f'training triples{" (a random stand-in)" if args.smoke else ""}')

torch.manual_seed(0)
model = ComplEx.from_data(
    data, hidden_channels=args.hidden_channels, objective='sampled', regularization=0.0,
    neg_sampling=Uniform(dataset.num_entities, args.num_negatives))
# An epoch of the trainer is `epoch_steps` steps, after which it says how long they took. Nothing is
# selected: ranking all of 429,456 validation triples among 2.5 million entities would take longer.
epoch_steps = max(args.steps // 20, 1)
config = TrainConfig(epochs=args.steps // epoch_steps, epoch_steps=epoch_steps, select=None,
                     batch_size=args.batch_size, lr=0.1)
for entry in Trainer(config, log=not args.smoke).fit(model, data).history:
    print(f'Loss: {entry["loss"]:.4f}, triples per second: {entry["triples_per_second"]:,.0f}')

for split in ('val', 'test'):
    found = evaluate_ogb(model, data, split, log=not args.smoke)
    print(f'{split}: MRR: {found["both"]["mrr"]:.4f}, Hits@10: {found["both"]["hits@10"]:.4f}, '
          f'among {found["protocol"]["num_candidates"]} candidates')
temporary.cleanup()
