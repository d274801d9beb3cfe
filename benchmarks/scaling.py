r"""What training and ranking cost with the number of entities and of processes.

``python -m benchmarks scaling`` prints the table of the cost model of `docs/scaling.md`.
``python -m benchmarks scaling measure [--processes 1 2 4] [--entities 20000] [--steps 20]``
measures seconds per step and bytes sent on this machine's CPU, by gloo, one thread for each
process, on the graph of ``python -m benchmarks growth``, saves them, and prints the tables with
them.
"""
import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from benchmarks.common import ONE_THREAD, RESULTS, load, machine, save
from benchmarks.large import graph
from pyg_mmkgc.data import build_index, get_triples, seen_entities
from pyg_mmkgc.data.share import sharing
from pyg_mmkgc.nn import ComplEx
from pyg_mmkgc.sampler import TripleLoader, Uniform
from pyg_mmkgc.training import TrainConfig, launch
from pyg_mmkgc.training.trainer import _Steps

FOLDER = RESULTS / 'scaling'
CHANNELS, BATCH_SIZE, NUM_NEGATIVES = 64, 1024, 8
#: Triples for each entity, of the graphs that are measured and of the model alike.
DEGREE = 7
ENTITIES = (15_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
PROCESSES = (1, 8, 64)
#: What the model assumes of a process, for which no device was measured: operations, bytes of its
#: memory and bytes sent in a second.
FLOPS, MEMORY_BYTES, BYTES = 50e12, 1e12, 10e9
#: How often the bytes of a row that a step looks up are read or written.
PASSES = 8


def cost(entities: int, processes: int = 1, channels: int = 200, batch_size: int = 8192,
         negatives: int = 64, degree: int = DEGREE, relations: int = 1000,
         shard: bool = True, flops: float = FLOPS, memory_bandwidth: float = MEMORY_BYTES,
         bandwidth: float = BYTES) -> Dict[str, float]:
    r"""The cost model of `docs/scaling.md`, for `'sampled'` training of a bilinear model with
    Adagrad in single precision.

    Args:
        entities (int): The number of entities.
        processes (int, optional): The number of processes.
        channels (int, optional): Size of a row.
        batch_size (int, optional): Triples in a step, of all processes together.
        negatives (int, optional): Negatives for each triple.
        degree (int, optional): Triples for each entity; a step sees inverse ones, too.
        relations (int, optional): The number of relations.
        shard (bool, optional): Whether tables are sharded.
        flops (float, optional): Operations of a process in a second.
        memory_bandwidth (float, optional): Bytes of its memory in a second.
        bandwidth (float, optional): Bytes that a process sends in a second.

    Returns:
        Dict[str, float]: Of one process, bytes of `memory`, bytes of the `triples` and their index,
        bytes sent in a step (`traffic`), seconds of a `step` and of an `epoch`, and the seconds of
        `ranking` 10,000 queries.
    """
    row = 4 * channels
    owners = processes if shard else 1
    rows = min(entities, batch_size * (2 + negatives)) / processes  # That a process looks up.
    away = (processes - 1) / processes
    dense = 2 * row * 2 * relations * away  # A ring sends twice what it adds up.
    sent = (2 * rows * away * (row + 4) if shard else rows * (processes - 1) * (row + 8)) + dense
    # Three products, forward and two backward, of each score; ranking scores all candidates.
    work = 3 * 2 * batch_size * (1 + negatives) * channels / processes
    step = work / flops + PASSES * rows * row / memory_bandwidth + sent / bandwidth
    return {'memory': 2 * row * entities / owners, 'triples': 8 * 5 * degree * entities,
            'traffic': sent, 'step': step, 'epoch': 2 * degree * entities / batch_size * step,
            'ranking': 2 * 20_000 * entities * channels / processes / flops}


def model_table() -> str:
    r"""The cost model as Markdown."""
    lines = ['| entities | processes | table and optimiser / process | triples / process '
             '| sent / step | s / epoch | s / 10,000 triples ranked |',
             '|--:|--:|--:|--:|--:|--:|--:|']
    for entities in ENTITIES:
        for processes in PROCESSES:
            c = cost(entities, processes)
            lines.append(
                f'| {entities:,} | {processes} | {_bytes(c["memory"])} | {_bytes(c["triples"])} '
                f'| {_bytes(c["traffic"])} | {c["epoch"]:,.2f} | {c["ranking"]:,.2f} |')
    return '\n'.join(lines)


def _bytes(x: float) -> str:
    for unit in ('B', 'KB', 'MB', 'GB'):
        if x < 1000:
            return f'{x:.3g} {unit}'
        x /= 1000
    return f'{x:.3g} TB'


def measured_table(results: List[Dict[str, Any]]) -> str:
    r"""What was measured as Markdown."""
    lines = ['| device | entities | table | processes | ms / step | CPU ms / step and process '
             '| sent / step and process | the same by the model | load |',
             '|---|--:|---|--:|--:|--:|--:|--:|--:|']
    for r in sorted(results, key=lambda r: (r['entities'], r['shard'], r['processes'])):
        lines.append(
            f'| CPU, gloo | {r["entities"]:,} | {"sharded" if r["shard"] else "whole"} '
            f'| {r["processes"]} | {1e3 * r["seconds"]:.0f} | {1e3 * r["cpu_seconds"]:.0f} '
            f'| {_bytes(r["bytes"])} | {_bytes(r["model_bytes"])} | {r["load"]:.1f} |')
    return '\n'.join([*lines, '| GPU, NCCL | | | | not measured: no GPU was lent | | | | |'])


def _sent() -> int:
    # Bytes that this machine has sent to itself, whoever did.
    lines = Path('/proc/net/dev').read_text(encoding='utf-8').splitlines()
    return next(int(line.split(':')[1].split()[8]) for line in lines if line.strip()[:3] == 'lo:')


def measure(processes: int, entities: int, steps: int, shard: bool,
            folder: Path) -> Dict[str, Any]:
    r"""Seconds of the steps of one process, among others that do the same."""
    torch.manual_seed(0)
    data = graph(folder, entities, DEGREE * entities)
    sampler = Uniform(entities, NUM_NEGATIVES, known=build_index(data, ['train']),
                      candidates=seen_entities(data))
    model = ComplEx.from_data(data, hidden_channels=CHANNELS, objective='sampled',
                              neg_sampling=sampler)
    together = launch('cpu', processes)
    if shard:
        together.shard(model)
    run = _Steps(Fabric(accelerator='cpu', devices=1), model, TrainConfig(), together)
    loader = TripleLoader(*get_triples(data, 'train'), BATCH_SIZE,
                          num_relations=model.num_relations,
                          generator=torch.Generator().manual_seed(0))
    seconds, cpu_seconds, sent = [], [], 0
    for i, batch in zip(range(steps + 3), loader, strict=False):
        start, cpu_start = time.perf_counter(), time.process_time()
        share = together.share(batch[0].numel())
        own = batch if share is None else [x[share.rows] for x in batch]
        with sharing(share):
            run(own, model.prepare(*own), share)
        if i == 2:
            sent = _sent()
        if i >= 3:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    sent = (_sent() - sent) / steps / processes if processes > 1 else 0.0
    if together.size > 1:
        dist.destroy_process_group()
    return {'seconds': statistics.median(seconds), 'cpu_seconds': statistics.median(cpu_seconds),
            'all_seconds': seconds, 'bytes': sent, 'load': os.getloadavg()[0],
            'model_bytes': cost(entities, processes, CHANNELS, BATCH_SIZE, NUM_NEGATIVES,
                          relations=model.num_relations, shard=shard)['traffic']}


def start(processes: int, entities: int, steps: int, shard: bool) -> Dict[str, Any]:
    r"""The same in processes of their own; what the first one says."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    started = []
    for rank in range(processes):
        env = {**os.environ, **ONE_THREAD, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port),
               'LOCAL_RANK': str(rank), 'NODE_RANK': '0', 'WORLD_SIZE': str(processes)}
        started.append(subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.scaling', 'child', '--processes', str(processes),
             '--entities', str(entities), '--steps', str(steps), *(['--shard'] if shard else [])],
            cwd=Path(__file__).parents[1], env=env, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    return json.loads(outputs[0].splitlines()[-1])


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks scaling', description=__doc__)
    parser.add_argument('what', nargs='?', choices=['measure', 'child'])
    parser.add_argument('--processes', nargs='+', type=int, default=[1, 2, 4])
    parser.add_argument('--entities', type=int, default=20_000)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--shard', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.what == 'child':
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.processes[0], options.entities, options.steps,
                                     options.shard, Path(folder))))
        return
    for processes in options.processes if options.what == 'measure' else []:
        for shard in [False, True] if processes > 1 else [False]:
            table = 'sharded' if shard else 'whole'
            save(FOLDER / f'{options.entities}-{processes}-{table}.json', {
                'processes': processes, 'entities': options.entities, 'shard': shard,
                **start(processes, options.entities, options.steps, shard),
                'channels': CHANNELS, 'batch_size': BATCH_SIZE, 'negatives': NUM_NEGATIVES,
                'machine': machine()})
    print(model_table(), end='\n\n')
    print(measured_table(load(FOLDER)))


if __name__ == '__main__':
    main(sys.argv[1:])
