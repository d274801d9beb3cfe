r"""Trains a run twice, once as it is and once killed by SIGKILL again and again at random points,
and compares what they leave. A program of its own, since it forks:
`killed_run.py FOLDER SEED CASE...` prints as JSON how often the second run of each case was killed,
and where.
"""
import collections
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import pyg_mmkgc.training.checkpoint as checkpoint
import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.data import EDGE, build_data, get_triples, modality_dicts
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import resume_run, train_run, trainer

SMALL = {'model.hidden_channels': 8, 'train.batch_size': 64, 'train.eval_every': 2,
         'train.checkpoint_minutes': 1e-5}
MOCME = {'model.num_experts': 2, 'model.num_references': 8, 'model.max_samples': 16,
         'sampler.num_negatives': 4, 'train.average': 0.5, 'train.gate_split': 'val'}
CASES = {
    'complex': ('complex', {}),
    'mocme': ('mocme', MOCME),
    'momok': ('momok', {'model.disentanglement_weight': 0.1, 'train.batch_size': 128}),
    'sampled': ('mocme', {'model.num_experts': 1, 'model.objective': 'sampled',
                          'model.table_dtype': 'bfloat16', 'sampler.num_negatives': 4,
                          'train.epoch_steps': 7}),
    'sampled-adam': ('complex', {'model.objective': 'sampled', 'sampler': 'uniform',
                                 'train.optimizer': 'adam', 'train.lr': 0.01}),
    'held-out': ('mocme', {**MOCME, 'train.held_out': 0.1}),
}
#: What of a history is the time or the place and not the result.
MEASURED = ('seconds', 'prepare_seconds', 'step_seconds', 'select_seconds', 'triples_per_second',
            'peak_memory_bytes')


def make_dataset(case):
    dataset = FakeMMKG(seed=1)
    if case == 'held-out':  # Validation triples that are training triples.
        data = dataset[0]
        splits = {split: torch.stack(get_triples(data, split), 1) for split in ('train', 'test')}
        splits['val'] = splits['train'][:40]
        x, mask = modality_dicts(data)
        dataset._data = build_data(splits, data['entity'].label, data[EDGE].label,
                                   {m: (x[m], mask[m]) for m in x})
        dataset._data_list = None
    return dataset


def arm(number, log):
    r"""Lets this process kill itself at some event: a step, or a part of writing a checkpoint."""
    left = number

    def kill_before(module, name, label, prepare=None):
        function = getattr(module, name)

        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                if prepare is not None:
                    prepare(*args)
                log.write_text(label)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        setattr(module, name, wrapper)

    def write_half(tensors, path, metadata):
        save_file(tensors, path, metadata)
        os.truncate(path, os.path.getsize(path) // 2)

    save_file = checkpoint.save_file
    kill_before(trainer._Steps, '__call__', 'step')
    kill_before(checkpoint, 'save_file', 'half a checkpoint', write_half)
    kill_before(os, 'fsync', 'flush')
    kill_before(os, 'replace', 'rename')
    kill_before(checkpoint.Checkpoints, '_tidy', 'removal')


def train(dataset, name, options, out):
    if (out / 'config.yaml').exists():
        return resume_run(out, data=dataset[0])
    return train_run(dataset, name, epochs=3, device='cpu', overrides=options, out=out)


def kept(folder):
    r"""All that is not a measurement."""
    history = [json.loads(line) for line in (folder / 'history.jsonl').read_text().splitlines()]
    return {
        'model': (folder / 'model.safetensors').read_bytes(),
        'metrics': (folder / 'metrics.json').read_bytes(),
        'history': [{k: v for k, v in entry.items() if k not in MEASURED} for entry in history],
        'files': sorted(path.name for path in folder.iterdir()),
    }


def compare(case, folder, generator):
    r"""Trains both runs of a case, compares them, and counts the kills."""
    name, options = CASES[case]
    dataset, options = make_dataset(case), {**SMALL, **options}
    whole, killed, log = folder / 'whole', folder / 'killed', folder / 'log'
    train(dataset, name, options, whole)
    where, finished = collections.Counter(), False
    while not finished:
        if killed.exists() and not (killed / 'config.yaml').exists():
            shutil.rmtree(killed)  # Killed before there was anything.
        log.write_text('anywhere')
        by_time = where.total() > 0 and generator.random() < 0.3
        number = generator.randrange(1, 70)
        child = os.fork()
        if child == 0:
            try:
                if not by_time:
                    arm(number, log)
                train(dataset, name, options, killed)
                os._exit(0)
            finally:
                os._exit(1)
        if by_time:
            time.sleep(generator.uniform(0.02, 0.3))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        finished = os.WIFEXITED(status)
        if finished:
            assert os.WEXITSTATUS(status) == 0
        else:
            where[log.read_text()] += 1
    a, b = kept(whole), kept(killed)
    assert a['history'] == b['history']
    assert a['files'] == b['files']
    assert a['metrics'] == b['metrics']
    assert a['model'] == b['model']
    return where


def main(folder, seed, *cases):
    run_module._draw = lambda run: None  # Pictures take longer than the training.
    generator = random.Random(int(seed))
    print(json.dumps({case: compare(case, Path(folder, case), generator) for case in cases}))


if __name__ == '__main__':
    main(*sys.argv[1:])
