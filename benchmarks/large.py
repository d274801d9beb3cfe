r"""Whether a graph of the size of OGB WikiKG2 trains and is evaluated on a small machine.

``python -m benchmarks large [--scale 1] [--steps 2000] [--folder DIR]`` makes a synthetic graph of
2.5 million entities, 17 million triples and 535 relations (times the scale) in DIR, with power-law
degrees, a text feature of 384 channels and a numeric one that a tenth of the entities has, both
memory-mapped; trains a MoCME of 64 channels on it by EGNS, evaluates 1,000 queries against all
entities, and prints and saves triples per second, seconds and peak memory.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from benchmarks.common import RESULTS, machine, save
from pyg_mmkgc.data import build_data, build_index, seen_entities
from pyg_mmkgc.data.memmap import memory_map
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.nn import MoCME
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.training import TrainConfig, Trainer
from pyg_mmkgc.training.trainer import peak_memory

FOLDER = RESULTS / 'large'
NUM_ENTITIES, NUM_TRIPLES, NUM_RELATIONS = 2_500_000, 17_000_000, 535
BATCH_SIZE, NUM_NEGATIVES = 1024, 8
MODEL = {'hidden_channels': 64, 'num_experts': 2, 'num_references': 16, 'max_samples': 128,
         'dropout': 0.0}
#: Channels of each modality, and the share of the entities that has it.
FEATURES = {'numeric': (16, 0.1), 'text': (384, 1.0)}
#: The degree of the i-th entity falls with this power of i.
EXPONENT = 0.7
NUM_QUERIES = 1000
#: Rows that are written, and entities that are scored, at a time.
CHUNK = 2**16


def graph(folder: Path, num_entities: int, num_triples: int, seed: int = 0) -> HeteroData:
    r"""A random graph whose features are memory-mapped from files in a folder."""
    rng = torch.Generator().manual_seed(seed)

    def ends(size: int) -> Tensor:
        u = torch.rand(size, generator=rng, dtype=torch.double)
        return (num_entities * u**(1 / (1 - EXPONENT))).long()

    head_index, tail_index = ends(num_triples), ends(num_triples)
    # Each entity is the head of a triple at least.
    head_index[:num_entities] = torch.randperm(num_entities, generator=rng)
    frequency = torch.arange(1, NUM_RELATIONS + 1)**-1.0
    rel_type = torch.multinomial(frequency, num_triples, replacement=True, generator=rng)
    triples = torch.stack([head_index, rel_type, tail_index], dim=1)
    del head_index, rel_type, tail_index
    val = torch.randint(num_entities, (NUM_QUERIES // 2, ), generator=rng)
    data = build_data({'train': triples, 'val': triples[val]}, list(map(str, range(num_entities))),
                      list(map(str, range(NUM_RELATIONS))))
    for name, (channels, share) in FEATURES.items():
        path = folder / f'{name}.npy'
        x = np.lib.format.open_memmap(path, 'w+', np.float16, (num_entities, channels))
        for start in range(0, num_entities, CHUNK):
            part = x[start:start + CHUNK]
            part[:] = torch.randn(part.shape, generator=rng).numpy()
        x.flush()
        data['entity'][name] = memory_map(path)
        data['entity'][f'{name}_mask'] = torch.rand(num_entities, generator=rng) < share
    return data


def run(folder: Path, scale: float, steps: int, table_dtype: str) -> Dict[str, Any]:
    r"""Train and evaluate, with the seconds and the memory of each part."""
    sizes = int(scale * NUM_ENTITIES), int(scale * NUM_TRIPLES)
    out: Dict[str, Any] = {'entities': sizes[0], 'triples': sizes[1],
                           'relations': NUM_RELATIONS, 'steps': steps,
                           'batch_size': BATCH_SIZE, 'negatives': NUM_NEGATIVES,
                           'model': MODEL, 'table_dtype': table_dtype}
    clocks = [(time.perf_counter(), time.process_time())]

    def lap(name: str) -> None:
        clocks.append((time.perf_counter(), time.process_time()))
        (start, cpu_start), (stop, cpu_stop) = clocks[-2:]
        out[f'{name}_seconds'], out[f'{name}_cpu_seconds'] = stop - start, cpu_stop - cpu_start
        out[f'{name}_peak_bytes'] = peak_memory(torch.device('cpu'))
        print(f'{name}: {stop - start:.1f} s, {cpu_stop - cpu_start:.1f} s of the processor, '
              f'peak {out[f"{name}_peak_bytes"] / 2**30:.2f} GiB', flush=True)

    data = graph(folder, *sizes)
    lap('graph')
    torch.manual_seed(0)
    sampler = EGNS(sizes[0], NUM_NEGATIVES, candidates=seen_entities(data),
                   known=build_index(data, ['train']))
    model = MoCME.from_data(data, objective='sampled', neg_sampling=sampler,
                            table_dtype=table_dtype, **MODEL)
    lap('model')
    epoch_steps = max(1, steps // 10)
    config = TrainConfig(epochs=max(1, steps // epoch_steps), epoch_steps=epoch_steps,
                         batch_size=BATCH_SIZE, select=None, device='cpu')
    result = Trainer(config, on_epoch=lambda entry: print(
        f'epoch {entry["epoch"]}: loss {entry["loss"]:.4f}, {entry["triples_per_second"]:.0f} '
        f'triples/s, peak {entry["peak_memory_bytes"] / 2**30:.2f} GiB', flush=True)).fit(
            model, data)
    lap('train')
    evaluation = evaluate(model, data, 'val', chunk_size=CHUNK)
    lap('evaluate')
    seconds = {name: sum(entry[f'{name}seconds'] for entry in result.history)
               for name in ('', 'prepare_', 'step_')}
    done = steps // epoch_steps * epoch_steps
    return {**out, 'steps': done, 'queries': NUM_QUERIES, 'mrr': evaluation.mrr,
            'loss': [entry['loss'] for entry in result.history],
            'peak_memory_bytes': [entry['peak_memory_bytes'] for entry in result.history],
            'triples_per_second': done * BATCH_SIZE / seconds[''],
            'triples_per_cpu_second': done * BATCH_SIZE / out['train_cpu_seconds'],
            'prepare_share': seconds['prepare_'] / seconds[''],
            'threads': torch.get_num_threads(), 'machine': machine()}


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser('python -m benchmarks large', description=__doc__)
    parser.add_argument('--scale', type=float, default=1.0)
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--table-dtype', default='bfloat16')
    parser.add_argument('--folder', type=Path, help='where features are kept (default: a new one)')
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = run(Path(folder), options.scale, options.steps, options.table_dtype)
    save(FOLDER / f'{result["entities"]}-{options.table_dtype}.json', result)
    print(f'{result["triples_per_second"]:.0f} triples/s, '
          f'{result["triples_per_cpu_second"]:.0f} per second of the processor; peak '
          f'{result["evaluate_peak_bytes"] / 2**30:.2f} GiB')


if __name__ == '__main__':
    main(sys.argv[1:])
