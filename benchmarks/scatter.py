r"""Reductions of `torch_geometric.utils` with and without `torch-scatter`.

``python -m benchmarks scatter [--extra PYTHON]`` times `scatter`, `segment` and `softmax`, forward
and backward, on one thread, and prints the table of all results. PYTHON (default:
`$PYG_MMKGC_SCATTER`) is an interpreter that has torch-scatter, which is kept out of our own
environment; each row says how often a kernel of torch-scatter was called.
"""
import argparse
import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional
from unittest import mock

import torch
import torch_geometric.typing
import torch_geometric.utils
from torch import Tensor
from torch_geometric.index import index2ptr

from benchmarks.common import RESULTS, load, machine, run_module, save

FOLDER = RESULTS / 'scatter'
NUM_ROWS = 15_000
SIZES = {'200000x256': (200_000, 256), '1000000x64': (1_000_000, 64)}
REPEATS = 5
WITHOUT, WITH, DIRECT = 'without', 'with', 'torch-scatter itself'


def operations(index: Tensor) -> Dict[str, Callable[[Tensor], Tensor]]:
    utils, ptr = torch_geometric.utils, index2ptr(index, NUM_ROWS)
    return {
        **{f'scatter {reduce}': lambda x, reduce=reduce: utils.scatter(
            x, index, 0, NUM_ROWS, reduce) for reduce in ('sum', 'mean', 'max')},
        **{f'segment {reduce}': lambda x, reduce=reduce: utils.segment(x, ptr, reduce)
           for reduce in ('sum', 'mean', 'max')},
        'softmax, index': lambda x: utils.softmax(x, index, num_nodes=NUM_ROWS),
        'softmax, ptr': lambda x: utils.softmax(x, ptr=ptr),
    }


def direct(index: Tensor) -> Dict[str, Callable[[Tensor], Tensor]]:
    r"""What PyG never calls on CPU."""
    import torch_scatter
    return {f'scatter {reduce}': lambda x, reduce=reduce: torch_scatter.scatter(
        x, index, 0, dim_size=NUM_ROWS, reduce=reduce) for reduce in ('sum', 'mean', 'max')}


def measure(side: str) -> List[Dict[str, Any]]:
    r"""The least seconds of the processor of each operation, forward and backward."""
    results = []
    for size, (num_values, channels) in SIZES.items():
        generator = torch.Generator().manual_seed(0)
        index = torch.randint(NUM_ROWS, (num_values, ), generator=generator).sort().values
        x = torch.randn(num_values, channels, generator=generator, requires_grad=True)
        for name, run in (direct if side == DIRECT else operations)(index).items():
            forward, backward = [], []
            for _ in range(REPEATS):
                start = time.process_time()
                out = run(x)
                forward.append(time.process_time() - start)
                grad = torch.ones_like(out)
                start = time.process_time()
                torch.autograd.grad(out, x, grad)
                backward.append(time.process_time() - start)
            results.append({'side': side, 'size': size, 'operation': name,
                            'forward': min(forward), 'backward': min(backward),
                            'calls': count_calls(run, x)})
    return results


def count_calls(run: Callable[[Tensor], Tensor], x: Tensor) -> int:
    r"""How often PyG called a kernel of torch-scatter."""
    if not torch_geometric.typing.WITH_TORCH_SCATTER:
        return 0
    import torch_scatter
    with mock.patch.object(torch_scatter, 'scatter', wraps=torch_scatter.scatter) as scatter, \
            mock.patch.object(torch_scatter, 'segment_csr',
                              wraps=torch_scatter.segment_csr) as segment:
        run(x)
    return scatter.call_count + segment.call_count


def start(side: str, python: str) -> List[Dict[str, Any]]:
    r"""Measure in a process of its own, with one thread."""
    return run_module('scatter', '--child', side, python=python)


def table(results: List[Dict[str, Any]]) -> str:
    r"""Milliseconds as Markdown, forward + backward; in brackets the calls of torch-scatter."""
    cells = {(r['size'], r['operation'], r['side']):
             f'{1000 * r["forward"]:.0f} + {1000 * r["backward"]:.0f} ({r["calls"]})'
             for r in results}
    sides = [WITHOUT, WITH, DIRECT]
    lines = [f'| values | operation | {" | ".join(sides)} |', '|---|---|--:|--:|--:|']
    for size, operation in dict.fromkeys((r['size'], r['operation']) for r in results):
        row = [cells.get((size, operation, side), '-') for side in sides]
        lines.append(f'| {size} | {operation} | {" | ".join(row)} |')
    return '\n'.join(lines)


def run(python: Optional[str]) -> None:
    for side, interpreter in [(WITHOUT, sys.executable), (WITH, python), (DIRECT, python)]:
        if interpreter is None:
            print(f'{side!r} was NOT MEASURED: no interpreter with torch-scatter (--extra or '
                  '$PYG_MMKGC_SCATTER)', file=sys.stderr)
            continue
        name = side.replace(' ', '-')
        save(FOLDER / f'{name}.json', {'results': start(side, interpreter), 'machine': machine()})


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks scatter', description=__doc__)
    parser.add_argument('--extra', metavar='PYTHON', default=os.environ.get('PYG_MMKGC_SCATTER'),
                        help='an interpreter that has torch-scatter')
    parser.add_argument('--child', choices=[WITHOUT, WITH, DIRECT], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.child:
        if (options.child != WITHOUT) != torch_geometric.typing.WITH_TORCH_SCATTER:
            sys.exit(f'{sys.executable} is not an interpreter {options.child!r} (torch-scatter: '
                     f'{torch_geometric.typing.WITH_TORCH_SCATTER})')
        print(json.dumps(measure(options.child)))
        return
    run(options.extra)
    print(table([result for file in load(FOLDER) for result in file['results']]))


if __name__ == '__main__':
    main(sys.argv[1:])
