r"""What a training step and the evaluation of MoMoK cost, beside the released code.

``python -m benchmarks momok [ROW ...] [--released DIR] [--sizes mkg-w kvc16k] [--steps 5]`` runs
each row in a process of its own on one thread and prints seconds, peak memory and the ratios to
the released code, whose folder :obj:`DIR` is (https://github.com/zjukg/MoMoK; its code is imported
from there, not changed, and its row is reported as missing without it).

Triples and features are random. A batch holds distinct queries :math:`(h, r)` with all their
answers, the same ones for each row. A step is all of what one costs: labels, losses, gradients,
Adam, and the alternating step of CLUB.
"""
import argparse
import json
import os
import random
import resource
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import Tensor

from benchmarks.common import RESULTS, machine, run_module, save
from pyg_mmkgc.data import build_data, build_index, get_triples
from pyg_mmkgc.evaluation import rank

FOLDER = RESULTS / 'engine'
#: As many test triples as MKG-W has, nearly; both sides are asked.
CHANNELS, BATCH_SIZE, EXPERTS, QUERIES = 256, 1024, 3, 4096
#: Entities, relations, training triples, exponent of the relations' frequencies (with 1.6 a batch
#: holds 119 distinct relations, inverses counted; 128 in MKG-W), and sizes of published features.
SIZES: Dict[str, Dict[str, Any]] = {
    'mkg-w': {'num_entities': 15000, 'num_relations': 169, 'num_triples': 34196, 'exponent': 1.6,
              'image': 383, 'text': 384, 'dataset': 'MKG-W'},
    'kvc16k': {'num_entities': 16015, 'num_relations': 4, 'num_triples': 180190, 'exponent': 0.5,
               'image': 768, 'text': 768, 'dataset': 'Kuai16K'},
}
#: Features as the released code pools them before anything is learned.
POOLED = {'mkg-w': {'image': 383, 'text': 256}, 'kvc16k': {'image': 256, 'text': 256}}
#: For each row of ours, options of the model, and whether products are in bfloat16.
ROWS: Dict[str, Tuple[Dict[str, Any], bool]] = {
    'ours': ({}, False),
    'ours-tuned': ({'tune_features': True}, False),  # Trains features, as the released code does.
    'ours-bf16': ({}, True),
}
RELEASED = 'released'


def triples(size: Dict[str, Any]) -> Tensor:
    r"""Random distinct triples :math:`(T, 3)` whose relations have uneven frequencies."""
    generator = torch.Generator().manual_seed(0)
    n, shape = size['num_entities'], (size['num_triples'], )
    frequency = torch.arange(1, size['num_relations'] + 1)**-float(size['exponent'])
    head = torch.randint(n, shape, generator=generator)
    rel = torch.multinomial(frequency, size['num_triples'], replacement=True, generator=generator)
    tail = torch.randint(n, shape, generator=generator)
    return torch.stack([head, rel, tail], dim=1).unique(dim=0)


def features(name: str, sizes: Dict[str, int]) -> Dict[str, Tensor]:
    r"""Random features of length one, as the released code has them."""
    generator = torch.Generator().manual_seed(1)
    x = {m: torch.randn(SIZES[name]['num_entities'], sizes[m], generator=generator)
         for m in ('image', 'text')}
    return {m: torch.nn.functional.normalize(value) for m, value in x.items()}


def measure(step: Callable[[], None], evaluate: Callable[[], None], steps: int) -> Dict[str, Any]:
    r"""Median seconds of a step after two for warming up, by the clock and of the processor (which
    others at work on the machine do not lengthen), peak memory, seconds per query."""
    seconds, cpu_seconds = [], []
    for _ in range(2 + steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.process_time()
    evaluate()
    return {'seconds': statistics.median(seconds[2:]),
            'cpu_seconds': statistics.median(cpu_seconds[2:]), 'all_seconds': seconds,
            'peak_bytes': peak,
            'cpu_seconds_per_query': (time.process_time() - start) / (2 * QUERIES)}


def ours(row: str, name: str, steps: int) -> Dict[str, Any]:
    from pyg_mmkgc.nn.models.momok import MoMoK
    size, (options, bf16) = SIZES[name], ROWS[row]
    triple = triples(size)
    n, num_relations = size['num_entities'], size['num_relations']
    every = torch.ones(n, dtype=torch.bool)
    data = build_data({'train': triple, 'val': triple[:1], 'test': triple[:QUERIES]},
                      list(map(str, range(n))), list(map(str, range(num_relations))),
                      {m: (x, every) for m, x in features(name, POOLED[name]).items()})
    torch.manual_seed(0)
    model = MoMoK.from_data(data, hidden_channels=CHANNELS, num_experts=EXPERTS, **options)
    alternating = model.alternating_parameters()
    known = {id(p) for p in alternating}
    main = torch.optim.Adam([p for p in model.parameters() if id(p) not in known], lr=1e-3,
                            fused=True)
    other = torch.optim.Adam(alternating, lr=1e-3, fused=True)
    head_index, rel_type = build_index(data, ['train']).queries()
    # One answer of each query stands for all, which the model looks up itself:
    index = build_index(data, ['train'])
    first, _ = index.bounds(head_index, rel_type)
    tail_index = index.keys[first] % n
    order = torch.Generator().manual_seed(2)

    def step() -> None:
        batch = torch.randperm(head_index.numel(), generator=order)[:BATCH_SIZE]
        main.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            loss = model.loss(head_index[batch], rel_type[batch], tail_index[batch])
        loss.backward()
        del loss
        main.step()
        other.zero_grad()
        model.alternating_loss().backward()
        other.step()

    @torch.no_grad()
    def evaluate() -> None:
        model.eval()
        head, rel, tail = get_triples(data, 'test')
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            scorer = model.scorer()
            for side in ((head, rel, tail), (tail, rel + num_relations, head)):
                rank(scorer, *side, model.known, num_entities=n)

    return measure(step, evaluate, steps)


def released_training(folder: Path, dataset: str, triples: Dict[str, List[List[int]]],
                      num_entities: int, num_relations: int, x: Dict[str, Tensor],
                      lr: float) -> Tuple[Any, Any, Callable[[int], None]]:
    r"""Corpus, model and training step (of a batch by its number) of the released code, by its own
    functions, in its folder."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    import numpy as np
    from models.modules import MIEstimator
    from models.RelMoE import RelMoE
    from utils.data_loader import ConvECorpus

    entities = {str(i): i for i in range(num_entities)}
    relations = {str(i): i for i in range(num_relations)}
    args = SimpleNamespace(
        device='cpu', batch_size=BATCH_SIZE, dim=CHANNELS, r_dim=CHANNELS, n_exp=EXPERTS,
        dataset=dataset, pre_trained=0, entity2id=entities, relation2id=relations,
        img=x['image'], desp=x['text'])
    none = [[], [], []]
    corpus = ConvECorpus(args, (triples['train'], none), (triples['val'], none),
                         (triples['test'], none), entities, relations)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    model = RelMoE(args)
    args.img_dim, args.txt_dim = model.img_dim, model.txt_dim
    estimator = MIEstimator(args)
    main = torch.optim.Adam(model.parameters(), lr=lr)
    other = torch.optim.Adam(estimator.parameters(), lr=lr)
    corpus.shuffle()

    def step(number: int) -> None:
        batch, label = corpus.get_batch(number)
        main.zero_grad()
        scores, views = model(batch)
        (model.loss_func(scores, label) + 1e-4 * estimator(views)).backward()
        main.step()
        other.zero_grad()
        with torch.no_grad():
            views = model.get_batch_embeddings(batch)
        estimator.train_estimator(views).backward()
        other.step()

    return corpus, model, step


def released(folder: Path, name: str, steps: int) -> Dict[str, Any]:
    r"""The training step and the evaluation of the released code."""
    size = SIZES[name]
    train = triples(size).tolist()
    corpus, model, train_step = released_training(
        folder, size['dataset'], {'train': train, 'val': [], 'test': train[:QUERIES]},
        size['num_entities'], size['num_relations'], features(name, size), lr=1e-3)
    position = iter(range(corpus.max_batch_num))

    def step() -> None:
        train_step(next(position))

    @torch.no_grad()
    def evaluate() -> None:
        model.eval()
        corpus.get_validation_pred(model, 'test')

    return measure(step, evaluate, steps)


def start(row: str, name: str, options: argparse.Namespace) -> Dict[str, Any]:
    r"""Run one row in a process of its own."""
    released = ['--released', options.released] if row == RELEASED else []
    return run_module('momok', row, '--sizes', name, '--steps', options.steps, '--child', *released)


def table(results: List[Dict[str, Any]]) -> str:
    r"""All rows as Markdown, with ratios to the released code where it was measured."""
    lines = ['| sizes | row | s / step | ratio | CPU s / step | ratio | peak GiB | ratio '
             '| CPU ms / query | ratio |', '|---|---|--:|--:|--:|--:|--:|--:|--:|--:|']
    for result in results:
        base = next((r for r in results
                     if r['sizes'] == result['sizes'] and r['row'] == RELEASED), None)
        cells = []
        for key, factor, digits in [('seconds', 1, 2), ('cpu_seconds', 1, 2),
                                    ('peak_bytes', 2**-30, 2),
                                    ('cpu_seconds_per_query', 1000, 2)]:
            cells.append(f'{factor * result[key]:.{digits}f}')
            cells.append('-' if base is None else f'{base[key] / result[key]:.1f}')
        lines.append(f'| {result["sizes"]} | {result["row"]} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks momok', description=__doc__)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'what to measure, of '
                        f'{", ".join([*ROWS, RELEASED])} (none: everything)')
    parser.add_argument('--released', type=Path, metavar='DIR',
                        help='the folder of the released code')
    parser.add_argument('--sizes', nargs='+', choices=list(SIZES), default=list(SIZES))
    parser.add_argument('--steps', type=int, default=5, help='steps that are timed, at least 5')
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    rows = options.rows or [*ROWS, RELEASED]
    for row in rows:
        if row not in ROWS and row != RELEASED:
            parser.error(f'unknown row {row!r} (expected some of '
                         f'{", ".join([*ROWS, RELEASED])})')
    if options.steps < 5:
        parser.error(f"'--steps' needs to be at least 5 (got {options.steps})")
    if options.released is not None:
        options.released = options.released.resolve()
    if options.child:
        (row, ), (name, ) = rows, options.sizes
        torch.set_num_threads(1)
        print(json.dumps(released(options.released, name, options.steps) if row == RELEASED else
                         ours(row, name, options.steps)))
        return

    torch.set_num_threads(1)
    results = []
    for name in options.sizes:
        for row in rows:
            if row == RELEASED and not (options.released
                                        and (options.released / 'models' / 'RelMoE.py').is_file()):
                print(f'{name}: the released code was NOT MEASURED: there is no '
                      f"'models/RelMoE.py' in --released {options.released}", file=sys.stderr)
                continue
            result = {'row': row, 'sizes': name, **start(row, name, options),
                      'machine': machine()}
            save(FOLDER / f'momok-{name}-{row}.json', result)
            results.append(result)
    print(table(results))


if __name__ == '__main__':
    main(sys.argv[1:])
