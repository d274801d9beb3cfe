r"""What each part of MoCME is worth on Atlas, beside structure alone and plain additive ComplEx.

``python -m benchmarks atlas [ROW ...] [--seeds 0 1 2 3 4]`` trains what has no result yet and
prints the table of all results. A row is a recipe for Atlas with some options changed.
"""
import argparse
import itertools
import time
from typing import Any, Dict, List

from benchmarks.common import RESULTS, load, machine, save, spread
from pyg_mmkgc.datasets import Atlas
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.training import Fit, find_recipe
from pyg_mmkgc.transforms import PermuteModality

FOLDER = RESULTS / 'atlas'
MODALITIES = ['image', 'numeric', 'outline', 'text']

#: For each row the model and the options that differ from its recipe.
ROWS: Dict[str, Dict[str, Any]] = {
    'structure': {'model': 'complex'},
    'mocme': {'model': 'mocme'},
    'mocme-permuted': {'model': 'mocme', 'permute': True},
    'mocme-mean': {'model': 'mocme', 'set': ['model.uniform=true']},
    'mocme-uniform-negatives': {'model': 'mocme', 'set': ['sampler=uniform']},
    'mocme-no-negatives': {'model': 'mocme', 'set': ['sampler=null']},
    'mocme-no-held-out-gates': {'model': 'mocme', 'set': ['train.gate_split=null']},
    'mocme-joint-head-only': {'model': 'mocme', 'set': ['model.heads=[]',
                                                        'model.norm_weight={}']},
    'mocme-consistent': {'model': 'mocme', 'set': ['model.consistency=10',
                                                   'model.gate_dropout=0.5']},
    'mocme-with-loops': {'model': 'mocme', 'set': ['model.exclude_loops=false']},
    'late-fusion': {'model': 'late_fusion'},
    **{name: {'model': name, 'set': ['model.exclude_loops=true']}
       for name in ('distmult', 'rotate', 'transe', 'tucker')},
    **{f'mocme-{m}': {'model': 'mocme', 'set': [f'model.modalities=[{m}]']} for m in MODALITIES},
    **{f'additive-{"+".join(subset)}': {
        'model': 'additive', 'set': [f'model.modalities=[{", ".join(subset)}]']}
       for n in range(1, 5) for subset in itertools.combinations(MODALITIES, n)},
    # The best subset, tuned on validation (structure dropout .25, .5, .75; N3 .02, .05, .1):
    'additive-numeric+text-tuned': {
        'model': 'additive', 'set': ['model.modalities=[numeric, text]',
                                     'model.modality_dropout={structure: 0.5}',
                                     'model.regularization=0.02']},
    'additive-permuted': {'model': 'additive', 'permute': True},
    'additive-numeric+text-without-structure': {
        'model': 'additive', 'set': ['model.modalities=[numeric, text]',
                                     'model.structure_channels=0']},
}


def run(name: str, seed: int) -> Dict[str, Any]:
    r"""Train one row with one seed."""
    row = ROWS[name]
    recipe = find_recipe(row['model'], 'atlas').override([*row.get('set', []),
                                                          f'train.seed={seed}'])
    data = Atlas()[0]
    if row.get('permute'):
        data = PermuteModality(seed=seed)(data)
    start = time.perf_counter()
    fit = Fit(recipe, data, log=True)
    result = fit()
    metrics = {split: evaluate(fit.model, data, split).to_dict()
               for split in ('val', 'test', 'inductive_test')}
    return {'row': name, 'seed': seed, 'recipe': recipe.to_dict(), 'epoch': result.best_epoch,
            'seconds': time.perf_counter() - start, 'metrics': metrics, 'machine': machine()}


def table(results: List[Dict[str, Any]]) -> str:
    r"""Mean and standard deviation over seeds, in percent, as Markdown."""
    lines = ['| row | seeds | test MRR | Hits@1 | Hits@10 | unseen MRR | Hits@10 | seconds |',
             '|---|--:|--:|--:|--:|--:|--:|--:|']
    for name in ROWS:
        rows = [r for r in results if r['row'] == name]
        if not rows:
            continue
        cells = [spread([r['metrics'][split]['both'][key] for r in rows])
                 for split, key in [('test', 'mrr'), ('test', 'hits@1'), ('test', 'hits@10'),
                                    ('inductive_test', 'mrr'), ('inductive_test', 'hits@10')]]
        seconds = sum(r['seconds'] for r in rows) / len(rows)
        lines.append(f'| {name} | {len(rows)} | {" | ".join(cells)} | {seconds:.0f} |')
    return '\n'.join(lines)


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks atlas', description=__doc__)
    parser.add_argument('rows', nargs='*', metavar='ROW', help='the rows to train (none: only '
                        'print the table)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    options = parser.parse_args(arguments)
    for name in options.rows:
        if name not in ROWS:
            parser.error(f'unknown row {name!r} (expected some of {", ".join(ROWS)})')
    for seed in options.seeds:
        for name in options.rows:
            path = FOLDER / f'{name}-{seed}.json'
            if not path.exists():
                save(path, run(name, seed))
    print(table(load(FOLDER)))
