r"""What is left where entities lose their modalities: train once on Atlas, then drop them in test.

    python examples/missing_modalities.py            # minutes
    python examples/missing_modalities.py --smoke    # seconds

A modality that an entity lacks is masked, never filled, so one trained model serves every row. The
study with seeds, dropping in training, too, and a picture: `pyg-mmkgc study missing`.
"""
import argparse

from pyg_mmkgc.data import modality_dicts, modality_names
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.training import Fit, find_recipe
from pyg_mmkgc.transforms import DropModality

parser = argparse.ArgumentParser()
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--smoke', action='store_true', help='a tiny model, one epoch, two shares')
args = parser.parse_args()
shares, overrides = (0.25, 0.5, 0.75, 1.0), {'train.seed': args.seed}
if args.smoke:
    shares, overrides = (0.5, 1.0), {**overrides, 'train.epochs': 1, 'hidden_channels': 8}

data = Atlas()[0]
fit = Fit(find_recipe('mocme', 'atlas').override(overrides), data, log=not args.smoke)
fit()
model = fit.model

structure = Fit(find_recipe('complex', 'atlas').override(
    {**overrides, 'train.epochs': 1} if args.smoke else {'train.seed': args.seed}), data, log=False)
structure()
print(f'Structure alone, without any modality: MRR '
      f'{evaluate(structure.model, data, "test").mrr:.3f}')


def show(name, graph):
    r"""Test MRR, on unseen entities as well, with the modalities that a graph has left."""
    model.attach(graph)  # New features and masks; no weight changes.
    mrr = {split: evaluate(model, graph, split).mrr for split in ('test', 'inductive_test')}
    print(f'{name:>28}: MRR {mrr["test"]:.3f}, unseen entities {mrr["inductive_test"]:.3f}')


masks = modality_dicts(data)[1]
print('Entities that have ' + ', '.join(f'{m}: {int(mask.sum())}' for m, mask in masks.items()))
show('everything', data)
for share in shares:
    # Each modality on its own is taken from a share of the entities that have it.
    show(f'{share:.0%} of all modalities gone', DropModality(share, seed=args.seed)(data))
for m in modality_names(data):
    show(f'without {m}', DropModality(1.0, [m])(data))
for m in modality_names(data):
    others = [name for name in modality_names(data) if name != m]
    show(f'with {m} alone', DropModality(1.0, others)(data))
