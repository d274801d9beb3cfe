r"""ComplEx beside PyKEEN, PyG's `nn.kge` and a plain loop of torch, and beside the machine's limit.

``python -m benchmarks engine [ROW ...] [--threads 2] [--pykeen PYTHON] --root DIR [--mirror DIR]``
runs each row in a process of its own and prints the tables. PYTHON (default:
`$PYG_MMKGC_PYKEEN`) is an interpreter that has PyKEEN, which is kept out of our own environment;
without it, its rows are reported as not measured.

* ``evaluation-*``: seconds per query, rank 200, 15,000 entities, random triples. PyG's `test`
  ranks tails only, without a filter.
* ``training-*``: seconds per step and, times the number of steps, per epoch on DB15K, rank 200, N3,
  Adagrad, 1,000 in a batch. What is timed are epochs over the first 3,000 training triples with
  their inverses, candidates are all entities. A batch of PyKEEN (LCWA) holds distinct queries with
  all their answers, so that its epoch has fewer steps; that is counted.
* ``start-*``: seconds from the start of Python to the end of the first training step on DB15K, and
  to the end of the imports that this needs anyway, `torch` and `torch_geometric`.
* ``quality-*``: ten epochs on DB15K and the metrics of the test split, only if asked for.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from benchmarks import floor
from benchmarks.common import RESULTS, load, machine, run_code, save

FOLDER = RESULTS / 'engine'
CHANNELS, BATCH_SIZE, REGULARIZATION, LR = 400, 1000, 0.02, 0.1
NUM_ENTITIES, NUM_RELATIONS, NUM_TRIPLES = 15000, 200, 40000
TRAIN_TRIPLES, EPOCHS = 3000, 6  # The first epoch warms up.
#: Triples that are ranked in one go; what is slow ranks fewer.
RANKED = {'evaluation-ours': 2048, 'evaluation-ours-bf16': 2048, 'evaluation-pykeen': 128,
          'evaluation-pyg': 50}
PYKEEN_BATCH_SIZES = (32, 256)  # Of which the faster one counts.
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')

Timed = Tuple[List[float], List[float]]

#: Reads `argv[1]`, a file with all that is needed, and prints seconds by the clock and of the
#: processor for each go, per query or per step.
PYKEEN = r"""
import json, sys, time
import numpy as np, torch
from importlib.metadata import version
from pykeen.evaluation import RankBasedEvaluator
from pykeen.models import ComplEx
from pykeen.training import LCWATrainingLoop, TrainingCallback
from pykeen.triples import CoreTriplesFactory
job = json.loads(sys.argv[2])
def small(x):  # As ours starts; from PyKEEN's own start its gradients underflow, and a step crawls.
    return torch.nn.init.normal_(x, std=1e-3)
torch.set_num_threads(job['threads'])
triples = torch.from_numpy(np.load(sys.argv[1]))
factory = CoreTriplesFactory(triples, job['entities'], job['relations'], job['inverse'])
model = ComplEx(embedding_dim=job['rank'], triples_factory=factory, loss='crossentropy',
                regularizer='powersum', regularizer_kwargs={'weight': job['weight'], 'p': 3.0},
                entity_initializer=small, relation_initializer=small, random_seed=0)
marks = []
def mark(*args, **kwargs):
    marks.append((time.perf_counter(), time.process_time()))
def differences(count):
    return [[(b[i] - a[i]) / count for a, b in zip(marks, marks[1:])][1:] for i in (0, 1)]
if job['ranked']:
    tested, known = triples[:job['ranked']], triples[job['ranked']:]
    found = []
    for size in job['batch_sizes']:
        marks.clear()
        mark()
        for _ in range(job['repeats']):
            RankBasedEvaluator().evaluate(model, tested, batch_size=size, use_tqdm=False,
                                          additional_filter_triples=[known],
                                          do_time_consuming_checks=False)
            mark()
        found.append((*differences(2 * len(tested)), {'batch_size': size}))
    seconds, cpu_seconds, extra = min(found, key=lambda x: sorted(x[0])[len(x[0]) // 2])
else:
    class Mark(TrainingCallback):
        post_epoch = mark
    loop = LCWATrainingLoop(model=model, triples_factory=factory, optimizer=torch.optim.Adagrad(
        model.get_grad_params(), lr=job['lr']))
    mark()
    loop.train(factory, num_epochs=job['repeats'], batch_size=job['batch_size'], use_tqdm=False,
               use_tqdm_batch=False, callbacks=Mark(), pin_memory=False)
    both = torch.cat([triples[:, :2], torch.stack([triples[:, 2],
                                                   triples[:, 1] + job['relations']], dim=1)])
    steps = -(-len(both.unique(dim=0)) // job['batch_size'])
    seconds, cpu_seconds = differences(steps)
    extra = {'steps': steps}
print(json.dumps({'seconds': seconds, 'cpu_seconds': cpu_seconds, 'versions':
                  {'pykeen': version('pykeen'), 'torch': torch.__version__}, **extra}))
"""
IMPORTS = 'import torch, torch_geometric'
#: All that comes before training, and one step of it; `argv` has root and mirror.
FIRST_STEP = r"""
import sys
import torch
from pyg_mmkgc.data import get_triples
from pyg_mmkgc.datasets import DB15K
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.sampler import TripleLoader
from pyg_mmkgc.training import Trainer
data = DB15K(sys.argv[1], mirror=sys.argv[2] or None, features=None)[0]
model = ComplEx.from_data(data, hidden_channels=400, regularization=0.02)
optimizer = torch.optim.Adagrad(model.tables(), lr=0.1)
batch = next(iter(TripleLoader(*get_triples(data, 'train'), 1000,
                               num_relations=model.num_relations)))
loss = model.loss(*batch)
loss.backward()
optimizer.step()
"""


def timed(run: Callable[[], Any], count: int) -> Timed:
    r"""Seconds of each go, per unit of :obj:`count`, by the clock and of the processor, after one
    for warming up."""
    seconds, cpu_seconds = [], []
    for _ in range(EPOCHS):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append((time.perf_counter() - start) / count)
        cpu_seconds.append((time.process_time() - cpu_start) / count)
    return seconds[1:], cpu_seconds[1:]


def random_triples() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([NUM_ENTITIES, NUM_RELATIONS, NUM_ENTITIES])
    triple = (torch.rand(NUM_TRIPLES, 3, generator=generator, dtype=torch.double) * sizes).long()
    triple = triple.unique(dim=0)
    return triple[torch.randperm(len(triple), generator=generator)]


def db15k(options: argparse.Namespace) -> Any:
    from pyg_mmkgc.datasets import DB15K
    return DB15K(options.root, mirror=options.mirror, features=None)[0]


def first_triples(data: Any) -> Any:
    r"""The same graph with the first training triples alone."""
    from pyg_mmkgc.data import EDGE
    data = data.clone()
    data[EDGE].edge_index = data[EDGE].edge_index[:, :TRAIN_TRIPLES].contiguous()
    data[EDGE].edge_type = data[EDGE].edge_type[:TRAIN_TRIPLES]
    return data


# Rows ############################################################################################


def evaluation_ours(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    from pyg_mmkgc.data import build_data
    from pyg_mmkgc.evaluation import evaluate
    from pyg_mmkgc.nn import ComplEx
    triple, ranked = random_triples(), RANKED[row]
    data = build_data({'train': triple[ranked:], 'val': triple[:1], 'test': triple[:ranked]},
                      list(map(str, range(NUM_ENTITIES))), list(map(str, range(NUM_RELATIONS))))
    model = ComplEx.from_data(data, hidden_channels=CHANNELS, init_scale=1.0)

    def run() -> None:
        with torch.autocast('cpu', torch.bfloat16, enabled=row.endswith('bf16')):
            evaluate(model, data, 'test', candidates='all')

    seconds, cpu_seconds = timed(run, 2 * ranked)
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def evaluation_pyg(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    from torch_geometric.nn.kge import ComplEx
    model = ComplEx(NUM_ENTITIES, NUM_RELATIONS, CHANNELS // 2)
    triple = random_triples()[:RANKED[row]].t()
    seconds, cpu_seconds = timed(lambda: model.test(*triple, batch_size=NUM_ENTITIES, log=False),
                                 triple.size(1))
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def training_ours(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    from pyg_mmkgc.nn import ComplEx
    from pyg_mmkgc.training import TrainConfig, Trainer
    data = first_triples(db15k(options))
    model = ComplEx.from_data(data, hidden_channels=CHANNELS, regularization=REGULARIZATION)
    steps = 2 * TRAIN_TRIPLES // BATCH_SIZE
    cpu = [time.process_time()]
    history = Trainer(TrainConfig(
        epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LR, select=None, device='cpu',
        precision='bf16-mixed' if row.endswith('bf16') else '32-true'),
        on_epoch=lambda entry: cpu.append(time.process_time())).fit(model, data).history
    return {'seconds': [entry['seconds'] / steps for entry in history[1:]],
            'cpu_seconds': [(b - a) / steps for a, b in zip(cpu[1:], cpu[2:], strict=False)],
            'steps': steps}


def training_plain(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    r"""ComplEx, softmax over all entities, N3 and Adagrad as one would write them down."""
    from pyg_mmkgc.data import EDGE, get_triples
    data = db15k(options)
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    head, rel, tail = (x[:TRAIN_TRIPLES] for x in get_triples(data, 'train'))
    triple = torch.cat([torch.stack([head, rel, tail], dim=1),
                        torch.stack([tail, rel + num_relations, head], dim=1)])
    entity = torch.nn.Embedding(num_entities, CHANNELS)
    relation = torch.nn.Embedding(2 * num_relations, CHANNELS)
    for table in (entity, relation):
        torch.nn.init.normal_(table.weight, std=1e-3)
    optimizer = torch.optim.Adagrad([entity.weight, relation.weight], lr=LR)

    def norm(x: Tensor) -> Tensor:
        re, im = x.chunk(2, dim=1)
        return (re**2 + im**2).pow(1.5).sum(dim=1).mean()

    def epoch() -> None:
        for batch in torch.randperm(len(triple)).split(BATCH_SIZE):
            h, r, t = triple[batch].unbind(dim=1)
            head, rel, tail = entity(h), relation(r), entity(t)
            (a, b), (c, d) = head.chunk(2, dim=1), rel.chunk(2, dim=1)
            query = torch.cat([a * c - b * d, a * d + b * c], dim=1)
            loss = torch.nn.functional.cross_entropy(query @ entity.weight.t(), t)
            loss = loss + REGULARIZATION * (norm(head) + norm(rel) + norm(tail))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    steps = len(triple) // BATCH_SIZE
    seconds, cpu_seconds = timed(epoch, steps)
    return {'seconds': seconds, 'cpu_seconds': cpu_seconds, 'steps': steps}


def quality(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    from pyg_mmkgc.evaluation import evaluate
    from pyg_mmkgc.nn import ComplEx
    from pyg_mmkgc.training import TrainConfig, Trainer
    data = db15k(options)
    torch.manual_seed(0)
    model = ComplEx.from_data(data, hidden_channels=CHANNELS, regularization=REGULARIZATION)
    history = Trainer(TrainConfig(
        epochs=10, batch_size=BATCH_SIZE, lr=LR, select=None, device='cpu',
        precision='bf16-mixed' if row.endswith('bf16') else '32-true')).fit(model, data).history
    return {'epoch_seconds': [entry['seconds'] for entry in history],
            'test': evaluate(model, data, 'test').metrics()}


def pykeen(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    job = {'rank': CHANNELS // 2, 'weight': REGULARIZATION, 'lr': LR, 'batch_size': BATCH_SIZE,
           'batch_sizes': PYKEEN_BATCH_SIZES, 'threads': options.threads, 'repeats': EPOCHS,
           'ranked': RANKED.get(row, 0)}
    if job['ranked']:
        triple = random_triples()
        job.update(entities=NUM_ENTITIES, relations=NUM_RELATIONS, inverse=False)
    else:
        from pyg_mmkgc.data import EDGE, get_triples
        data = db15k(options)
        triple = torch.stack(get_triples(data, 'train'), dim=1)[:TRAIN_TRIPLES]
        job.update(entities=data['entity'].num_nodes, relations=data[EDGE].num_relations,
                   inverse=True)
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np
        np.save(f'{folder}/triples.npy', triple.numpy())
        return run_code(options.pykeen, PYKEEN, f'{folder}/triples.npy', json.dumps(job))


def start(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    code = IMPORTS if row == 'start-imports' else FIRST_STEP
    db15k(options)  # Processed, if it was not.
    seconds, cpu_seconds = [], []
    for _ in range(EPOCHS):
        begin, cpu_begin = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, '-c', code, str(options.root), options.mirror or ''],
                       check=True)
        seconds.append(time.perf_counter() - begin)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds.append(end.ru_utime + end.ru_stime - cpu_begin.ru_utime - cpu_begin.ru_stime)
    return {'seconds': seconds[1:], 'cpu_seconds': cpu_seconds[1:]}


ROWS: Dict[str, Callable[[str, argparse.Namespace], Dict[str, Any]]] = {
    'floor': lambda row, options: floor.measure(),
    'evaluation-ours': evaluation_ours,
    'evaluation-ours-bf16': evaluation_ours,
    'evaluation-pykeen': pykeen,
    'evaluation-pyg': evaluation_pyg,
    'training-ours': training_ours,
    'training-ours-bf16': training_ours,
    'training-plain': training_plain,
    'training-pykeen': pykeen,
    'start-ours': start,
    'start-imports': start,
    'quality-ours': quality,
    'quality-ours-bf16': quality,
}


# What is known of a row without measuring ########################################################


def work(row: str, sizes: Dict[str, Any]) -> Optional[Tuple[str, float, float]]:
    r"""Type, operations and bytes that no implementation of a row can do without.

    A query is a product with the table, which is read once for each 256 of them, and its scores
    are written and read once. A step is three such products; table, state of Adagrad and gradient
    are read and written once each, and the scores are written, replaced by probabilities, and read
    for both gradients.
    """
    dtype = 'bfloat16' if row.endswith('bf16') else 'float32'
    width = {'float32': 4, 'bfloat16': 2}[dtype]
    if row.startswith('evaluation-ours'):
        n = NUM_ENTITIES
        return dtype, 2 * n * CHANNELS, n * CHANNELS * width / 256 + 2 * n * width
    if row.startswith('training-ours'):
        n = sizes['entities']
        return (dtype, 6 * BATCH_SIZE * n * CHANNELS,
                6 * n * CHANNELS * 4 + 5 * BATCH_SIZE * n * width)
    return None


def steps_per_epoch(options: argparse.Namespace) -> Dict[str, Any]:
    r"""The sizes of DB15K: a step of PyKEEN takes distinct queries, all others triples."""
    from pyg_mmkgc.data import EDGE, build_index, get_triples
    data = db15k(options)
    queries = build_index(data, ['train']).queries()[0].numel()
    triples = 2 * get_triples(data, 'train')[0].numel()
    return {'entities': data['entity'].num_nodes, 'relations': data[EDGE].num_relations,
            'steps_per_epoch': {'triples': -(-triples // BATCH_SIZE),
                                'queries': -(-queries // BATCH_SIZE)}}


# Tables ##########################################################################################


def table(results: List[Dict[str, Any]]) -> str:
    r"""The rows of all groups as Markdown; ratios are how many times faster ours is."""
    found = {r['row']: r for r in results if 'row' in r and r['row'] in ROWS}
    return '\n\n'.join(part for part in (
        _rates(found),
        _group(found, 'evaluation', 'ms / query', 1e3, ['pykeen', 'pyg'],
               {('ours', 'pykeen'): 30, ('ours', 'pyg'): 40}),
        _group(found, 'training', 's / epoch', 1, ['pykeen', 'plain', 'ours'],
               {('ours', 'pykeen'): 3, ('ours', 'plain'): 2, ('ours-bf16', 'ours'): 2}),
        _start(found), _quality(found)) if part)


def _seconds(result: Dict[str, Any], key: str = 'seconds') -> float:
    seconds = statistics.median(result[key])
    if result['row'].startswith('training'):
        unit = 'queries' if result['row'].endswith('pykeen') else 'triples'
        seconds *= result['sizes']['steps_per_epoch'][unit]
    return seconds


def _rates(found: Dict[str, Any]) -> str:
    if 'floor' not in found:
        return ''
    rates = found['floor']
    cells = [f'{rates["operations_per_second"][name] / 1e9:.0f}' for name in floor.DTYPES]
    return ('| threads | GFLOP/s, fp32 | GFLOP/s, bf16 | GB/s of a copy | load |\n'
            '|--:|--:|--:|--:|--:|\n'
            f'| {rates["machine"]["threads"]} | {" | ".join(cells)} | '
            f'{rates["bytes_per_second"] / 1e9:.1f} | {rates["load"][0]:.1f} |')


def _group(found: Dict[str, Any], group: str, unit: str, factor: float, peers: List[str],
           goals: Dict[Tuple[str, str], float]) -> str:
    rows = [row for row in ROWS if row.startswith(group + '-') and row in found]
    if not rows:
        return ''
    lines = [f'| {group} | {unit} | CPU {unit} | ' +
             ''.join(f'times {peer} (goal) | ' for peer in peers) +
             'operations | bytes | floor is | load |',
             '|---' + '|--:' * (6 + len(peers)) + '|']
    for row in rows:
        result, name = found[row], row[len(group) + 1:]
        if 'missing' in result:
            lines.append(f'| {name} | not measured: {result["missing"]} |' +
                         ' |' * (5 + len(peers)))
            continue
        seconds = _seconds(result)
        cells = [name, f'{factor * seconds:.3g}', f'{factor * _seconds(result, "cpu_seconds"):.3g}']
        for peer in peers:
            other = found.get(f'{group}-{peer}')
            if not name.startswith('ours') or peer == name or not other or 'missing' in other:
                cells.append('')
                continue
            goal = goals.get((name, peer))
            cells.append(f'{_seconds(other) / seconds:.1f}' + (f' ({goal})' if goal else ''))
        need = work(row, result['sizes'])
        if need is None or 'floor' not in found:
            cells += ['', '', '']
        else:
            limit = floor.floor(found['floor'], *need)
            scale = seconds / statistics.median(result['seconds'])  # Steps in an epoch.
            cells += [f'{factor * scale * limit[key]:.3g}' for key in ('operations', 'bytes')]
            cells.append(f'{100 * limit["floor"] * scale / seconds:.0f} %')
        cells.append(f'{result["load"][0]:.1f}')
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _start(found: Dict[str, Any]) -> str:
    if 'start-ours' not in found or 'start-imports' not in found:
        return ''
    ours, imports = found['start-ours'], found['start-imports']
    return ('| start | seconds (goal) | CPU seconds | imports of torch and PyG alone | floor is '
            '| load |\n|---|--:|--:|--:|--:|--:|\n'
            f'| to the first step on DB15K | {_seconds(ours):.1f} (6) | '
            f'{_seconds(ours, "cpu_seconds"):.1f} | {_seconds(imports):.1f} | '
            f'{100 * _seconds(imports) / _seconds(ours):.0f} % | {ours["load"][0]:.1f} |')


def _quality(found: Dict[str, Any]) -> str:
    rows = [row for row in ('quality-ours', 'quality-ours-bf16') if row in found]
    if not rows:
        return ''
    lines = ['| ten epochs on DB15K, test | MRR | Hits@1 | Hits@10 | s / epoch |',
             '|---|--:|--:|--:|--:|']
    for row in rows:
        test = found[row]['test']
        lines.append(f'| {row[8:]} | {100 * test["mrr"]:.2f} | {100 * test["hits@1"]:.2f} | '
                     f'{100 * test["hits@10"]:.2f} | '
                     f'{statistics.median(found[row]["epoch_seconds"]):.1f} |')
    return '\n'.join(lines)


# Running #########################################################################################


def child(row: str, options: argparse.Namespace) -> Dict[str, Any]:
    r"""Run one row in a process of its own."""
    if row.endswith('pykeen') and not options.pykeen:
        return {'missing': 'no interpreter with PyKEEN (--pykeen or $PYG_MMKGC_PYKEEN)'}
    code = 'import sys; from benchmarks.engine import main; main(sys.argv[1:])'
    arguments = [row, '--child', '--threads', str(options.threads), '--root', str(options.root)]
    for name in ('mirror', 'pykeen'):
        if getattr(options, name):
            arguments += [f'--{name}', getattr(options, name)]
    return run_code(sys.executable, code, *arguments, cwd=Path(__file__).parents[1],
                      env={**os.environ, **dict.fromkeys(THREADS, str(options.threads))})


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks engine', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rows', nargs='*', metavar='ROW', help=f'what to measure, of '
                        f'{", ".join(ROWS)} (none: all but quality)')
    parser.add_argument('--threads', type=int, default=1, help='of each side')
    parser.add_argument('--root', metavar='DIR', required=True, help='where DB15K is or goes to')
    parser.add_argument('--mirror', metavar='DIR', help='a folder of published files')
    parser.add_argument('--pykeen', metavar='PYTHON', default=os.environ.get('PYG_MMKGC_PYKEEN'),
                        help='an interpreter that has PyKEEN')
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.root = str(Path(options.root).resolve())
    rows = options.rows or [row for row in ROWS if not row.startswith('quality')]
    for row in rows:
        if row not in ROWS:
            parser.error(f'unknown row {row!r} (expected some of {", ".join(ROWS)})')
    torch.set_num_threads(options.threads)
    if options.child:
        torch.manual_seed(0)
        print(json.dumps(ROWS[rows[0]](rows[0], options)))
        return

    sizes = steps_per_epoch(options)
    for row in rows:
        before = os.getloadavg()
        found = child(row, options)
        if 'missing' in found:
            print(f'{row} was NOT MEASURED: {found["missing"]}', file=sys.stderr)
        save(FOLDER / f'{row}.json', {'row': row, 'seed': 0, 'load': before, 'sizes': sizes,
                                      **found, 'machine': machine()})
    print(table(load(FOLDER)))
