r"""How time and memory of a step grow with the number of entities.

``python -m benchmarks growth [ROW ...] [--sizes 15000 ...] [--steps 10]`` measures each row in a
process of its own on one thread, prints the table of all results and draws
`docs/images/growth.png`: seconds of the processor, and the memory that is needed beside what stood
there before. Without rows, the table and the picture alone are made.

Graphs are those of ``python -m benchmarks large``, with seven triples for each entity.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
from lightning_fabric import Fabric

from benchmarks.common import RESULTS, load, machine, run_module, save
from benchmarks.large import CHUNK, MODEL, graph
from pyg_mmkgc.data import build_index, get_triples, seen_entities
from pyg_mmkgc.data.io import atomic_path
from pyg_mmkgc.evaluation import rank
from pyg_mmkgc.nn import ComplEx, MoCME
from pyg_mmkgc.sampler import EGNS, TripleLoader, Uniform
from pyg_mmkgc.training import TrainConfig
from pyg_mmkgc.training.trainer import _Steps

FOLDER = RESULTS / 'growth'
PICTURE = Path(__file__).parents[1] / 'docs' / 'images' / 'growth.png'
SIZES = [15_000, 50_000, 150_000, 500_000, 1_500_000]
TRIPLES_PER_ENTITY = 7
#: A batch is small, so that the smallest graph is not in each as a whole.
BATCH_SIZE, NUM_NEGATIVES, NUM_QUERIES = 256, 8, 64
#: What each row is called in the picture.
ROWS = {
    'sampled': 'MoCME, sampled',
    'egns': 'MoCME, sampled by EGNS',
    'dense': 'MoCME, sampled, dense gradients',
    'softmax': 'ComplEx, over all entities (1-N)',
    'evaluation': f'MoCME, evaluation of {NUM_QUERIES} queries',
}


class Memory:
    r"""The most memory of this process in a `with` block beside what stood there before, looked at
    a hundred times a second; without pages of files, which the system drops when it likes."""
    def __enter__(self) -> 'Memory':
        ctypes.CDLL(None).malloc_trim(0)  # What is free already is not there.
        self.before = self.peak = self.resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.resident())

    def __exit__(self, *args) -> None:
        self.done.set()
        self.thread.join()

    @staticmethod
    def resident() -> int:
        _, total, file, *_ = Path('/proc/self/statm').read_text(encoding='ascii').split()
        return (int(total) - int(file)) * os.sysconf('SC_PAGE_SIZE')


class Clock:
    r"""Adds up the seconds of the processor that calls of some methods take."""
    def __init__(self, target: Any, names: List[str]):
        self.seconds = 0.0
        for name in names:
            setattr(target, name, self._timed(getattr(target, name)))

    def _timed(self, function):
        def call(*args, **kwargs):
            start = time.process_time()
            out = function(*args, **kwargs)
            self.seconds += time.process_time() - start
            return out

        return call


def measure(row: str, num_entities: int, steps: int, folder: Path) -> Dict[str, Any]:
    r"""Median seconds of steps (or of one evaluation) after two for warming up, and memory."""
    data = graph(folder, num_entities, TRIPLES_PER_ENTITY * num_entities)
    torch.manual_seed(0)
    cls, kwargs, clock = MoCME, dict(MODEL, objective='sampled'), None
    if row == 'softmax':
        cls, kwargs = ComplEx, {'hidden_channels': MODEL['hidden_channels']}
    else:
        sampler = EGNS if row == 'egns' else Uniform
        kwargs['neg_sampling'] = sampler(num_entities, NUM_NEGATIVES,
                                         candidates=seen_entities(data))
        clock = Clock(kwargs['neg_sampling'], ['corrupt', 'weight', 'update'])
    model = cls.from_data(data, **kwargs)
    if row == 'dense':
        model.entity_tables = lambda: []
    train = get_triples(data, 'train')
    if row == 'evaluation':
        head_index, rel_type, tail_index = (x[:NUM_QUERIES] for x in train)
        known = build_index(data)
        model.eval()

        def step() -> None:
            with torch.no_grad():
                rank(model.scorer(), head_index, rel_type, tail_index, known,
                     num_entities=num_entities, chunk_size=CHUNK)
    else:
        step_of = _Steps(Fabric(accelerator='cpu', devices=1), model, TrainConfig())
        batches = iter(TripleLoader(*train, BATCH_SIZE,
                                    num_relations=model.num_relations))
        model.train()
        waiting = [next(batches)]  # With it the order of all triples is made, once an epoch.

        def step() -> None:
            batch = waiting.pop() if waiting else next(batches)
            step_of(batch, model.prepare(*batch))

    seconds = []
    with Memory() as memory:
        if row != 'evaluation':
            for _ in range(2):
                step()
        spent = 0.0 if clock is None else clock.seconds
        for _ in range(1 if row == 'evaluation' else steps):
            start = time.process_time()
            step()
            seconds.append(time.process_time() - start)
    spent = 0.0 if clock is None else clock.seconds - spent
    return {'seconds': statistics.median(seconds), 'all_seconds': seconds,
            'bytes': memory.peak - memory.before, 'bytes_before': memory.before,
            'sampler_share': spent / (sum(seconds) - spent)}


def start(row: str, num_entities: int, steps: int) -> Dict[str, Any]:
    r"""The same in a process of its own."""
    return run_module('growth', row, '--sizes', num_entities, '--steps', steps, '--child')


def table(results: List[Dict[str, Any]]) -> str:
    r"""All rows as Markdown."""
    lines = ['| what | entities | CPU ms | MiB beside | sampler, % of the rest |',
             '|---|--:|--:|--:|--:|']
    for r in sorted(results, key=lambda r: (list(ROWS).index(r['row']), r['entities'])):
        share = '' if r['row'] in ('softmax', 'evaluation') else f'{100 * r["sampler_share"]:.1f}'
        lines.append(f'| {ROWS[r["row"]]} | {r["entities"]:,} | {1000 * r["seconds"]:.0f} '
                     f'| {r["bytes"] / 2**20:.0f} | {share} |')
    return '\n'.join(lines)


def draw(results: List[Dict[str, Any]], path: Path) -> None:
    r"""Draw time and memory over the number of entities."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 3.8), layout='constrained')
    for axes, key, scale, label in zip(figure.subplots(1, 2), ['seconds', 'bytes'], [1, 2**-30],
                                       ['seconds of one core', 'GiB beside what stood before'],
                                       strict=True):
        for row, name in ROWS.items():
            found = sorted((r for r in results if r['row'] == row), key=lambda r: r['entities'])
            axes.plot([r['entities'] for r in found],
                      [max(r[key], 2**20) * scale if key == 'bytes' else r[key] for r in found],
                      marker='.', label=name)
        axes.set(xscale='log', yscale='log', xlabel='entities', ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    with atomic_path(path) as part:
        figure.savefig(part, dpi=100)


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks growth', description=__doc__)
    parser.add_argument('rows', nargs='*', metavar='ROW',
                        help=f'what to measure, of {", ".join(ROWS)} (none: only draw)')
    parser.add_argument('--sizes', nargs='+', type=int, default=SIZES)
    parser.add_argument('--steps', type=int, default=10, help='steps that are timed')
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for row in options.rows:
        if row not in ROWS:
            parser.error(f'unknown row {row!r} (expected some of {", ".join(ROWS)})')
    if options.child:
        torch.set_num_threads(1)
        (row, ), (size, ) = options.rows, options.sizes
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(row, size, options.steps, Path(folder))))
        return
    for size in options.sizes:
        for row in options.rows:
            save(FOLDER / f'{row}-{size}.json', {
                'row': row, 'entities': size, **start(row, size, options.steps),
                'batch_size': BATCH_SIZE, 'negatives': NUM_NEGATIVES, 'machine': machine()})
    results = load(FOLDER)
    print(table(results))
    draw(results, PICTURE)


if __name__ == '__main__':
    main(sys.argv[1:])
