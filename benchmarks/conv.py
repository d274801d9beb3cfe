r"""What `MoCMEConv` costs on graphs with many edges, beside one message per edge.

``python -m benchmarks conv [ROW ...] [--sizes NAME ...] [--steps 2]`` measures each row in a
process of its own on one thread, and prints the table of all results: seconds of the processor for
a forward and a backward pass over all edges, and the memory that both take beside what was there
before (the views of the nodes). Without rows the table alone is printed.

Graphs are random, with 100 relations, 3 modalities and 3 experts each. The plain form is left out
where it needs more than 16 GiB.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import torch

from benchmarks.common import RESULTS, load, machine, run_module, save
from pyg_mmkgc.nn import EncodedEntities, EntityViews, MoCMEConv

FOLDER = RESULTS / 'conv'
NUM_RELATIONS, NUM_EXPERTS, MODALITIES = 100, 3, ['image', 'numeric', 'text']
#: Entities, edges and channels.
SIZES: Dict[str, Dict[str, int]] = {
    '1e5': {'num_entities': 15_000, 'num_edges': 100_000, 'channels': 128},
    '1e6': {'num_entities': 15_000, 'num_edges': 1_000_000, 'channels': 64},
    '1e6-thin': {'num_entities': 1_000_000, 'num_edges': 1_000_000, 'channels': 64},
    '1e7': {'num_entities': 1_000_000, 'num_edges': 10_000_000, 'channels': 64},
}
#: For each row the composition, whether it is the plain form, and whether edges come sorted.
ROWS: Dict[str, Dict[str, Any]] = {
    f'{composition}{suffix}': {'composition': composition, **options}
    for composition in ('add', 'mult')
    for suffix, options in [('', {}), ('-sorted', {'sort': True}), ('-plain', {'plain': True})]
}
TOO_LARGE = {(row, '1e7') for row in ROWS if row.endswith('-plain')}


def measure(row: str, name: str, steps: int) -> Dict[str, Any]:
    r"""Median seconds of the processor after one step for warming up, and peak memory."""
    size, options = SIZES[name], ROWS[row]
    n, num_edges, channels = size['num_entities'], size['num_edges'], size['channels']
    torch.manual_seed(0)
    conv = MoCMEConv(dict.fromkeys(MODALITIES, 8), channels, NUM_RELATIONS, NUM_EXPERTS,
                     composition=options['composition'])
    if options.get('plain'):
        conv.chunk_size = None
    num_views = len(MODALITIES) * NUM_EXPERTS
    mask = torch.rand(n, len(MODALITIES)) < 0.8
    views = EntityViews(torch.randn(n, num_views, channels, requires_grad=True),
                        torch.empty(n, len(MODALITIES), 0), torch.rand(n, num_views),
                        torch.rand(n, len(MODALITIES)), mask, ())
    encoded = EncodedEntities(views, {m: torch.randn(n, NUM_EXPERTS, requires_grad=True)
                                      for m in MODALITIES})
    edge_index = torch.randint(n, (2, num_edges))
    edge_type = torch.randint(NUM_RELATIONS, (num_edges, ))
    if options.get('sort'):
        edge_type, order = edge_type.sort()
        edge_index = edge_index[:, order]
    weight = torch.randn(n, channels)
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    before = pages * os.sysconf('SC_PAGE_SIZE')
    forward, backward = [], []
    for _ in range(1 + steps):
        start = time.process_time()
        out = conv.neighbours(encoded, edge_index, edge_type)
        forward.append(time.process_time() - start)
        start = time.process_time()
        (out * weight).sum().backward()
        backward.append(time.process_time() - start)
        for x in (views.views, *encoded.gate_logits.values(), *conv.parameters()):
            x.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {'forward': statistics.median(forward[1:]), 'backward': statistics.median(backward[1:]),
            'all_seconds': [forward, backward], 'bytes': peak - before, 'bytes_before': before}


def start(row: str, name: str, steps: int) -> Dict[str, Any]:
    r"""The same in a process of its own."""
    return run_module('conv', row, '--sizes', name, '--steps', steps, '--child')


def table(results: List[Dict[str, Any]]) -> str:
    r"""All rows as Markdown, with ratios of the plain form to each."""
    lines = ['| entities | edges | channels | row | forward, s | backward, s | ratio | GiB '
             '| ratio |', '|--:|--:|--:|---|--:|--:|--:|--:|--:|']
    found = {(r['row'], r['sizes']): r for r in results}
    for name, size in SIZES.items():
        for row in ROWS:
            if (row, name) not in found:
                continue
            r = found[row, name]
            base = found.get((f'{ROWS[row]["composition"]}-plain', name))
            seconds = r['forward'] + r['backward']
            ratio = '-' if base is None else f'{(base["forward"] + base["backward"]) / seconds:.1f}'
            memory = '-' if base is None else f'{base["bytes"] / r["bytes"]:.1f}'
            lines.append(f'| {size["num_entities"]:,} | {size["num_edges"]:,} | {size["channels"]} '
                         f'| {row} | {r["forward"]:.2f} | {r["backward"]:.2f} | {ratio} '
                         f'| {r["bytes"] / 2**30:.2f} | {memory} |')
    return '\n'.join(lines)


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks conv', description=__doc__)
    parser.add_argument('rows', nargs='*', metavar='ROW',
                        help=f'what to measure, of {", ".join(ROWS)} (none: only print the table)')
    parser.add_argument('--sizes', nargs='+', choices=list(SIZES), default=list(SIZES))
    parser.add_argument('--steps', type=int, default=2, help='steps that are timed')
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for row in options.rows:
        if row not in ROWS:
            parser.error(f'unknown row {row!r} (expected some of {", ".join(ROWS)})')
    torch.set_num_threads(1)
    if options.child:
        (row, ), (name, ) = options.rows, options.sizes
        print(json.dumps(measure(row, name, options.steps)))
        return
    for name in options.sizes:
        for row in options.rows:
            if (row, name) not in TOO_LARGE:
                save(FOLDER / f'{name}-{row}.json', {
                    'row': row, 'sizes': name, **SIZES[name],
                    **start(row, name, options.steps), 'machine': machine()})
    print(table(load(FOLDER)))


if __name__ == '__main__':
    main(sys.argv[1:])
