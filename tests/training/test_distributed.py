"""What several processes do together is what one does alone. All that the tests look at is made by
one start of two processes, and one of four."""
import faulthandler
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import pyg_mmkgc.training.distributed as distributed
import pyg_mmkgc.training.run as run_module
from pyg_mmkgc.data import TripleIndex, build_index, get_triples, seen_entities
from pyg_mmkgc.data.share import Share, bounds, rand_rows, sharing
from pyg_mmkgc.datasets import MMKGFolder, write_folder
from pyg_mmkgc.evaluation import evaluate, rank
from pyg_mmkgc.nn import AdditiveComplEx, ComplEx, MoCME, MoMoK
from pyg_mmkgc.nn.models import base
from pyg_mmkgc.nn.sharded_embedding import ShardedEmbedding
from pyg_mmkgc.sampler import EGNS
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.training import (
    Checkpoints,
    TrainConfig,
    Trainer,
    resume_run,
    train_run,
    trainer,
)
from pyg_mmkgc.training.checkpoint import StopRequest

PROGRAM = Path(__file__).with_name('lost_process.py')
ROOT = Path(__file__).parents[2]
MOCME = {'hidden_channels': 8, 'num_references': 8, 'max_samples': 16}
SAMPLED = {'hidden_channels': 8, 'objective': 'sampled'}
#: Model, its options, those of the training, and whether there is a sampler.
CASES = {
    'complex': (ComplEx, {'hidden_channels': 8, 'regularization': 0.02}, {'grad_clip': 0.1}, False),
    'mocme': (MoCME, {**MOCME, 'neg_weight': 0.1}, {'gate_split': 'val'}, True),
    'club': (MoCME, {**MOCME, 'estimator': 'club'}, {}, False),
    'momok': (MoMoK, {'hidden_channels': 8, 'num_experts': 1, 'input_dropout': 0.0,
                      'query_dropout': 0.0, 'fusion_dropout': 0.0}, {'optimizer': 'adam'}, False),
    'sampled': (ComplEx, SAMPLED, {}, True),
    'sampled-adam': (AdditiveComplEx, {**SAMPLED, 'dropout': 0.0, 'modality_dropout': 0.0},
                     {'optimizer': 'adam', 'lr': 0.01, 'average': 0.5, 'grad_clip': 0.1}, True),
}
NAMES = {2: 'two', 4: 'four'}
#: What four processes train, which take long to start.
OF_FOUR = ['mocme', 'sampled-adam']
RESUMED = ['complex', 'sampled-adam']
SHARDED = [name for name, (_, options, _, _) in CASES.items() if options.get('objective')]


def make_data():
    return FakeMMKG(seed=1)[0]


def batch_size(data):
    # The last batch of an epoch has fewer triples than there are processes.
    total = 2 * get_triples(data, 'train')[0].numel()
    return next(size for size in range(100, total) if total % size in (1, 2, 3))


def train(name, data, checkpoints=None, **kwargs):
    cls, options, config, samples = CASES[name]
    torch.manual_seed(0)
    sampler = EGNS(40, 4, refresh_every=2, quantiles=(0.2, 0.8), known=build_index(data, ['train']),
                   candidates=seen_entities(data)) if samples else None
    model = cls.from_data(data, neg_sampling=sampler, **options)
    config = {'epochs': 4, 'batch_size': batch_size(data), 'eval_every': 2, 'device': 'cpu',
              'dense_lr': 0.01, **config, **kwargs}
    result = Trainer(TrainConfig(**config), checkpoints=checkpoints).fit(model, data)
    return {'state': model.state_dict(), 'loss': [x['loss'] for x in result.history],
            'mrr': result.best_mrr, 'best': result.best_epoch,
            'gate_loss': [x.get('gate_loss', 0.0) for x in result.history],
            'sampler': {} if sampler is None else sampler.state_dict()}


def queries():
    generator = torch.Generator().manual_seed(0)
    n, r, q = 23, 3, 60
    triples = [torch.randint(high, (q, ), generator=generator) for high in (n, 2 * r, n)]
    facts = [torch.randint(high, (200, ), generator=generator) for high in (n, r, n)]
    return triples, TripleIndex(*facts, n, r), n


def integers(head_index, rel_type, start, stop):
    entity = torch.arange(start, stop)
    return ((head_index * 7 + rel_type * 3).unsqueeze(1) + entity**2) % 11 * 1.0


def spoiled(head_index, rel_type, start, stop):
    out = integers(head_index, rel_type, start, stop)
    if start == 0:  # In the first process alone.
        out[:, 0] = float('nan')
    return out


def ranks(scorer=integers, group=None, **kwargs):
    triples, known, n = queries()
    found = rank(scorer, *triples, known, num_entities=n, process_group=group, **kwargs)
    return torch.stack([found.optimistic, found.pessimistic, found.num_candidates])


RANKINGS = [{}, {'chunk_size': 3}, {'batch_size': 7}, {'chunk_size': 2, 'batch_size': 9},
            {'candidates': torch.arange(23) % 3 > 0}]


def work(number, size, port, folder, earlier):
    faulthandler.dump_traceback_later(900, exit=True)  # None waits for ever.
    torch.set_num_threads(1)
    data = make_data()
    torch.set_default_dtype(torch.double)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=number, world_size=size)
    cases = CASES if size == 2 else OF_FOUR
    out = {name: train(name, data) for name in cases}
    out.update({f'{name}-sharded': train(name, data, shard_tables=True) for name in SHARDED
                if name in cases})
    out['ranks'] = [ranks(group=dist.group.WORLD, **kwargs) for kwargs in RANKINGS]
    try:
        ranks(spoiled, dist.group.WORLD)
    except ValueError as error:
        out['nan'] = str(error)
    torch.manual_seed(0)
    model = MoCME.from_data(data, **MOCME)
    base.ENCODE_CHUNK = 7  # From here on, candidates are encoded by each process.
    found = evaluate(model, data, 'test', process_group=dist.group.WORLD)
    out['evaluate'] = {side: x.rank for side, x in found.ranks.items()}
    if size == 2:
        out['sharded-chunks'] = train('sampled', data, shard_tables=True)
    out['resumed'] = {}
    for name in RESUMED:
        shard = name in SHARDED
        if earlier is None:
            # One that is not the first is told to stop in the midst of an epoch.
            stop = StopRequest()
            checkpoints = Checkpoints(Path(folder, name) if number == 0 else None, stop=stop)
            step, calls = trainer._Steps.__call__, []

            def wrapper(self, *args, step=step, calls=calls, stop=stop):
                calls.append(None)
                stop.requested = number == 1 and len(calls) == 9
                return step(self, *args)

            trainer._Steps.__call__ = wrapper
            train(name, data, checkpoints, shard_tables=shard)
            trainer._Steps.__call__ = step
        else:
            checkpoints = Checkpoints(Path(earlier, name) if number == 0 else None)
            out['resumed'][name] = train(name, data, checkpoints, shard_tables=shard)
    torch.save(out, Path(folder, f'{number}.pt'))
    dist.destroy_process_group()


def start(size, folder, earlier=None):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    mp.spawn(work, (size, port, str(folder), earlier), nprocs=size)
    return [torch.load(folder / f'{number}.pt', weights_only=True) for number in range(size)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('two')


@pytest.fixture(scope='module')
def two(folder):
    return start(2, folder)


@pytest.fixture(scope='module')
def four(two, folder, tmp_path_factory):
    return start(4, tmp_path_factory.mktemp('four'), str(folder))


@pytest.fixture(scope='module', params=[2, 4])
def several(request):
    return request.getfixturevalue(NAMES[request.param])


@pytest.fixture(scope='module')
def data():
    return make_data()


@pytest.fixture(scope='module')
def alone(data):
    torch.set_default_dtype(torch.double)
    try:
        yield {name: train(name, data) for name in CASES}
    finally:
        torch.set_default_dtype(torch.float)


def assert_same_training(found, expected):
    assert found['loss'] == pytest.approx(expected['loss'], rel=1e-6)
    assert found['gate_loss'] == pytest.approx(expected['gate_loss'], rel=1e-5)
    assert (found['mrr'], found['best']) == (pytest.approx(expected['mrr']), expected['best'])
    for part in ('state', 'sampler'):
        assert found[part].keys() == expected[part].keys()
        for name, x in found[part].items():
            # Statistics of negatives and what dense Adam divides by are in single precision.
            torch.testing.assert_close(x.double(), expected[part][name].double(), rtol=1e-4,
                                       atol=1e-5, msg=name)


# Training #######################################################################################


@pytest.mark.parametrize('number,name', [*((2, name) for name in CASES),
                                         *((4, name) for name in OF_FOUR)])
def test_training_is_that_of_one_process(number, name, alone, request):
    several = request.getfixturevalue(NAMES[number])
    assert_same_training(several[0][name], alone[name])
    for other in several[1:]:  # Bit for bit, or they would drift apart.
        for key, x in several[0][name]['state'].items():
            assert x.equal(other[name]['state'][key]), key


@pytest.mark.parametrize('number,name', [(2, 'sampled'), (2, 'sampled-adam'), (4, 'sampled-adam')])
def test_sharded_tables_train_as_whole_ones(number, name, alone, request):
    for out in request.getfixturevalue(NAMES[number]):
        assert_same_training(out[f'{name}-sharded'], alone[name])


def test_sharded_tables_are_encoded_in_chunks(two, alone):
    assert_same_training(two[0]['sharded-chunks'], alone['sampled'])


@pytest.mark.parametrize('name', RESUMED)
def test_another_number_of_processes_goes_on(name, two, four, alone, data, folder):
    assert_same_training(four[0]['resumed'][name], alone[name])
    checkpoints = Checkpoints(folder / name)
    epochs = len(checkpoints.latest()['training']['progress']['history'])
    assert 0 < epochs < 4
    torch.set_default_dtype(torch.double)
    try:
        assert_same_training(train(name, data, checkpoints), alone[name])
    finally:
        torch.set_default_dtype(torch.float)


def test_tables_cannot_be_sharded_for_losses_over_all_entities(data):
    with pytest.raises(ValueError, match=r"'shard_tables' needs 'objective' to be 'sampled' \(got "
                                         r"'softmax'\)"):
        train('complex', data, shard_tables=True)


# Evaluation #####################################################################################


def test_ranks_are_exactly_those_of_one_process(several):
    for i, kwargs in enumerate(RANKINGS):
        expected = ranks(**kwargs)
        for out in several:
            assert out['ranks'][i].equal(expected), kwargs


def test_evaluation_is_that_of_one_process(several, data):
    torch.set_default_dtype(torch.double)
    try:
        torch.manual_seed(0)
        found = evaluate(MoCME.from_data(data, **MOCME), data, 'test')
    finally:
        torch.set_default_dtype(torch.float)
    for out in several:
        assert {k: x.tolist() for k, x in out['evaluate'].items()} == {
            k: x.rank.tolist() for k, x in found.ranks.items()}


def test_a_score_that_is_no_number_is_seen_by_all(several):
    assert all('queries in a batch have NaN scores' in out['nan'] for out in several)


# Shares #########################################################################################


@pytest.mark.parametrize('num_rows', [1, 3, 4, 10])
def test_shares_are_all_of_the_batch(num_rows):
    shares = [Share(num_rows, rank, 4) for rank in range(4)]
    taken = [row for share in shares for row in range(num_rows)[share.rows] if share.weight > 0]
    assert taken == list(range(num_rows))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(len(range(num_rows)[share.rows]) > 0 for share in shares)
    assert max(shares[0].counts) - min(shares[0].counts) <= 1


def test_bounds_are_a_partition():
    assert bounds(2, 9, 3) == [(2, 4), (4, 6), (6, 9)]
    assert bounds(0, 2, 3) == [(0, 0), (0, 1), (1, 2)]


def test_random_rows_are_those_of_the_batch():
    whole = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    parts = []
    for number in range(2):
        share = Share(5, number, 2)
        with sharing(share):
            parts.append(rand_rows((share.counts[number], 3),
                                   generator=torch.Generator().manual_seed(1)))
    assert torch.cat(parts).equal(whole)


# Starting, and what may go wrong ################################################################


def test_processes_are_those_of_torchrun(monkeypatch):
    assert distributed.world(3, 2) == (3, 2)
    monkeypatch.setattr(dist, 'is_torchelastic_launched', lambda: True)
    monkeypatch.setenv('WORLD_SIZE', '8')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert distributed.world(3, 1) == (4, 2)


def test_fewer_gpus_than_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError, match="'devices' is 2, but this machine has 1 GPUs"):
        distributed.launch('cuda', 2)


def test_one_process_is_nothing_special():
    processes = distributed.launch('cpu')
    assert str(processes) == 'Processes(rank=0, size=1)'
    assert (processes.is_first, processes.group, processes.share(5)) == (True, None, None)
    assert processes.any(True, False) == [True, False]


def test_only_errors_of_the_network_tell_of_a_lost_process(monkeypatch):
    monkeypatch.setattr(dist, 'get_backend', lambda: 'gloo')
    processes = distributed.Processes(0, 2)
    with pytest.raises(RuntimeError, match='^mat1 and mat2'), processes.watch():
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    monkeypatch.setattr(processes, '_lost', lambda: [1])
    with pytest.raises(distributed.LostProcessError,
                       match=r'the process of rank 1 has ended or does not answer \(seen by rank 0 '
                             r'of 2\)'), processes.watch():
        raise RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by peer')


def test_a_lost_process_ends_the_run_which_goes_on_with_another_number(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, '_draw', lambda run: None)  # Pictures take longer than that.
    write_folder(FakeMMKG(seed=1)[0], tmp_path / 'graph')
    # Who waits for a timeout instead of seeing the loss is too late for us.
    options = {'model.hidden_channels': 8, 'train.batch_size': 64, 'train.eval_every': 1,
               'train.checkpoint_minutes': 1e-3, 'train.timeout_minutes': 60.0}
    command = ['train', '--dataset', tmp_path / 'graph', '--model', 'complex', '--device', 'cpu',
               '--epochs', '3', '--devices', '2', '--out', tmp_path / 'run']
    for key, value in options.items():
        command += ['--set', f'{key}={value}']
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, command)], capture_output=True, text=True,
        check=False, timeout=900,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), 'LOST': '1:14'})
    assert done.returncode != 0
    # Either we see it first, or Fabric, which looks every five seconds.
    assert ('Error: the process of rank 1 has ended or does not answer (seen by rank 0 of 2)'
            in done.stderr or '[rank: 1] Child process' in done.stderr)
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run' / 'metrics.json').exists()

    resume_run(tmp_path / 'run', devices=1)
    train_run(MMKGFolder(tmp_path / 'graph'), 'complex', epochs=3, device='cpu',
              overrides=options, out=tmp_path / 'whole')
    found, expected = (json.loads((tmp_path / name / 'metrics.json').read_text())
                       for name in ('run', 'whole'))
    assert found['both']['mrr'] == pytest.approx(expected['both']['mrr'], abs=0.01)
    history = [[json.loads(line)['loss'] for line in (tmp_path / name / 'history.jsonl').open()]
               for name in ('run', 'whole')]
    assert history[0] == pytest.approx(history[1], rel=1e-3)
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == sorted(
        p.name for p in (tmp_path / 'whole').iterdir())


def test_a_table_has_as_many_rows_as_processes(monkeypatch):
    monkeypatch.setattr(dist, 'get_world_size', lambda group=None: 3)
    monkeypatch.setattr(dist, 'get_rank', lambda group=None: 2)
    table = torch.nn.Embedding(7, 2)
    shard = ShardedEmbedding(table)
    assert shard.weight.equal(table.weight[4:])
    assert (shard.num_embeddings, shard.counts) == (7, [2, 2, 3])
    with pytest.raises(ValueError, match='a table of 2 rows cannot be spread over 3 processes'):
        ShardedEmbedding(torch.nn.Embedding(2, 2))
