import subprocess
import sys

import pytest
import torch

from pyg_mmkgc.data import EDGE, build_data
from pyg_mmkgc.evaluation.ogb import evaluate_ogb
from pyg_mmkgc.nn import ComplEx

NUM_ENTITIES, NUM_RELATIONS, NUM_NEGATIVES = 20, 3, 6


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)

    def draw(high, *size):
        return torch.randint(high, size, generator=generator)

    splits = {split: torch.stack([draw(NUM_ENTITIES, size), draw(NUM_RELATIONS, size),
                                  draw(NUM_ENTITIES, size)], dim=1)
              for split, size in [('train', 50), ('val', 11), ('test', 7)]}
    data = build_data(splits, list(map(str, range(NUM_ENTITIES))), ['a', 'b', 'c'])
    data.ogb_name = 'ogbl-wikikg2'
    for split, size in [('val', 11), ('test', 7)]:
        for side in ('head', 'tail'):
            data[EDGE][f'{split}_{side}_neg'] = draw(NUM_ENTITIES, size, NUM_NEGATIVES).int()
    return data


def table_model(levels=4):
    r"""Scores from a table of small integers, so that there are many ties."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(levels, (NUM_ENTITIES, 2 * NUM_RELATIONS, NUM_ENTITIES),
                          generator=generator).float()
    return table, lambda head_index, rel_type, tail_index: table[head_index, rel_type, tail_index]


def reference(table, data, split):
    r"""The metrics of each side, by sorting candidates one query at a time."""
    store, out = data[EDGE], {}
    index, rel_type = store[f'{split}_edge_label_index'], store[f'{split}_edge_label_type']
    for side in ('head', 'tail'):
        ranks = []
        for i in range(rel_type.numel()):
            (h, t), r = index[:, i].tolist(), int(rel_type[i])
            start, relation, answer = (t, r + NUM_RELATIONS, h) if side == 'head' else (h, r, t)
            own = float(table[start, relation, answer])
            others = [float(table[start, relation, x])
                      for x in store[f'{split}_{side}_neg'][i].tolist()]
            above, ties = sum(x > own for x in others), sum(x == own for x in others)
            ranks.append(1 + above + ties / 2)
        out[side] = ranks
    out['both'] = out['head'] + out['tail']
    return {side: {'mrr': sum(1 / x for x in ranks) / len(ranks),
                   **{f'hits@{k}': sum(x <= k for x in ranks) / len(ranks) for k in (1, 3, 10)},
                   'count': len(ranks)} for side, ranks in out.items()}


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('batch_size', [None, 1, 4])
def test_against_a_loop(data, split, batch_size):
    table, model = table_model()
    out = evaluate_ogb(model, data, split, batch_size=batch_size)
    for side, metrics in reference(table, data, split).items():
        assert out[side] == pytest.approx(metrics, abs=1e-6)
    assert out['head']['mrr'] != out['tail']['mrr']
    assert out['split'] == split
    assert out['protocol'] == {'evaluator': 'ogbl-wikikg2', 'filtered': False, 'ties': 'realistic',
                               'sides': ['head', 'tail'], 'candidates': 'given',
                               'num_candidates': NUM_NEGATIVES + 1}


def test_bounds(data):
    table, model = table_model(levels=1)
    # All scores tie: the rank is in the middle of 1 to 7.
    assert evaluate_ogb(model, data, 'val')['both'] == pytest.approx(
        {'mrr': 1 / 4, 'hits@1': 0, 'hits@3': 0, 'hits@10': 1, 'count': 22})
    data[EDGE].val_edge_label_index[0] = torch.arange(11)  # No two queries are the same.
    head_index, tail_index = data[EDGE].val_edge_label_index
    data[EDGE].val_tail_neg = (tail_index[:, None] + 1 + torch.arange(3)) % NUM_ENTITIES
    table[head_index, data[EDGE].val_edge_label_type, tail_index] = 1
    table[head_index[:, None], data[EDGE].val_edge_label_type[:, None], data[EDGE].val_tail_neg] = 0
    out = evaluate_ogb(model, data, 'val')
    assert out['tail']['mrr'] == out['tail']['hits@1'] == 1


def test_a_model_of_this_package(data):
    torch.manual_seed(0)
    model = ComplEx.from_data(data, hidden_channels=8)
    model.train()
    out = evaluate_ogb(model, data, 'test', log=True)
    assert model.training
    index = torch.arange(NUM_ENTITIES)
    table = torch.stack([torch.stack([
        model.score_all(index[h:h + 1], torch.tensor([r]))[0] for r in range(2 * NUM_RELATIONS)])
        for h in range(NUM_ENTITIES)]).detach()
    assert out['both'] == pytest.approx(reference(table, data, 'test')['both'], abs=1e-6)


def test_errors(data):
    _, model = table_model()
    with pytest.raises(ValueError, match=r"split 'train' has no given negatives \(expected "
                                         "'train_head_neg'"):
        evaluate_ogb(model, data, 'train')
    with pytest.raises(ValueError, match=r"Unknown split 'vla'"):
        evaluate_ogb(model, data, 'vla')
    with pytest.raises(ValueError, match=r"'batch_size' needs to be at least 1 \(got 0\)"):
        evaluate_ogb(model, data, 'val', batch_size=0)
    with pytest.raises(ValueError, match=r'The model returned shape \[77, 1\] for 77 triples'):
        evaluate_ogb(lambda *index: model(*index)[:, None], data, 'val')
    with pytest.raises(ValueError, match='77 of 77 scores in a batch are NaN'):
        evaluate_ogb(lambda *index: model(*index) * float('nan'), data, 'val')
    del data.ogb_name
    with pytest.raises(ValueError, match="'data' is no graph of the Open Graph Benchmark"):
        evaluate_ogb(model, data, 'val')


def test_without_ogb(data, monkeypatch):
    for name in [name for name in sys.modules if name.split('.')[0] == 'ogb']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'ogb', None)
    with pytest.raises(ImportError, match="'evaluate_ogb' needs ogb: pip install ogb"):
        evaluate_ogb(table_model()[1], data, 'val')


def test_import_asks_neither_network_nor_console():
    # In a process of its own, since ogb asks when it is first imported.
    code = '''
import builtins, socket, sys, threading
from pyg_mmkgc.evaluation.ogb import _evaluator

def refused(*args, **kwargs):
    print('ASKED', args)
    raise OSError('refused')

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
builtins.input = refused
evaluator = _evaluator('ogbl-biokg')
assert evaluator.eval_metric == 'mrr'
assert threading.active_count() == 1, threading.enumerate()
assert 'ogb' in sys.modules and 'outdated' not in sys.modules
import outdated
_evaluator('ogbl-wikikg2')
assert sys.modules['outdated'] is outdated
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120,
                         check=False, stdin=subprocess.DEVNULL)
    assert out.returncode == 0, out.stderr
    assert 'ASKED' not in out.stdout
