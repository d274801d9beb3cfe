import json

import pytest
import torch
from torch import nn
from torch_geometric.testing import withCUDA

from pyg_mmkgc.data import EDGE, build_data, get_triples
from pyg_mmkgc.evaluation import Evaluation, Ranks, evaluate
from pyg_mmkgc.testing import FakeMMKG

# Entity 5 is in no training triple; relation 2 neither; (0, 0, 1) is in two splits, (2, 0, 3)
# twice in 'test'; (1, 1, 1) is a self-loop; 0 and 1 are joined by two relations.
SPLITS = {
    'train': [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 1, 1), (3, 0, 4), (0, 0, 1)],
    'val': [(0, 0, 3), (0, 0, 1)],
    'test': [(0, 0, 4), (2, 0, 3), (2, 0, 3), (1, 1, 0), (4, 2, 3)],
    'inductive_test': [(5, 0, 1), (0, 1, 5), (0, 0, 3)],
}
N, R = 6, 3
ENTITIES, RELATIONS = list('ABCDEF'), ['likes', 'knows', 'meets']


def make_data(splits=None, entities=ENTITIES, relations=RELATIONS):
    splits = splits or SPLITS
    return build_data({s: torch.tensor(t) for s, t in splits.items()}, entities, relations)


def make_table(seed=0, high=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (N, 2 * R, N), generator=generator).float()


class TableModel(nn.Module):
    r"""Scores from a table, through dropout, so that the training mode would show."""
    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def scorer(self):
        def score(head_index, rel_type, start, stop):
            assert not torch.is_grad_enabled()
            return self.frozen(self.dropout(self.table[head_index, rel_type, start:stop]))

        return score


def table_scorer(table):
    return lambda head_index, rel_type, start, stop: table[head_index, rel_type, start:stop]


def brute_force(table, split, filter_splits, candidates):
    r"""Realistic ranks of heads and tails by loops over sets."""
    known = {triple for s in filter_splits for triple in SPLITS[s]}
    out = {'head': [], 'tail': []}
    for h, r, t in SPLITS[split]:
        for side in out:
            def triple(e, side=side, h=h, r=r, t=t):
                return (e, r, t) if side == 'head' else (h, r, e)

            answer = h if side == 'head' else t
            score = table[t, r + R] if side == 'head' else table[h, r]
            others = [float(score[e]) for e in candidates
                      if e != answer and triple(e) not in known]
            own = float(score[answer])
            out[side].append(1 + sum(s > own for s in others) + sum(s == own for s in others) / 2)
    return out


def mrr(ranks):
    return pytest.approx(sum(1 / x for x in ranks) / len(ranks))


@pytest.mark.parametrize('split', list(SPLITS))
@pytest.mark.parametrize('sizes', [(None, None), (1, 1), (2, 4), (3, 5)])
def test_evaluate_against_brute_force(split, sizes):
    table = make_table()
    out = evaluate(table_scorer(table), make_data(), split, batch_size=sizes[0],
                   chunk_size=sizes[1])
    expected = brute_force(table, split, SPLITS, range(N))
    assert out.ranks['head'].rank.tolist() == expected['head']
    assert out.ranks['tail'].rank.tolist() == expected['tail']
    assert out.metrics('head')['mrr'] == mrr(expected['head'])
    assert out.metrics('tail')['mrr'] == mrr(expected['tail'])
    assert out.metrics()['mrr'] == out.mrr == mrr(expected['head'] + expected['tail'])
    assert out.metrics()['count'] == 2 * len(SPLITS[split])


@pytest.mark.parametrize('filter_splits', [[], ['train'], ['train', 'val'], ('test', )])
def test_filter_splits(filter_splits):
    table = make_table()
    out = evaluate(table_scorer(table), make_data(), 'test', filter_splits=filter_splits)
    expected = brute_force(table, 'test', filter_splits, range(N))
    assert out.ranks['head'].rank.tolist() == expected['head']
    assert out.ranks['tail'].rank.tolist() == expected['tail']
    assert out.protocol['filter_splits'] == list(filter_splits)
    assert out.protocol['filtered'] == (len(filter_splits) > 0)


def test_seen_candidates():
    table = make_table()
    out = evaluate(table_scorer(table), make_data(), 'test', candidates='seen')
    expected = brute_force(table, 'test', SPLITS, range(5))
    assert out.ranks['head'].rank.tolist() == expected['head']
    assert out.ranks['tail'].rank.tolist() == expected['tail']
    assert out.protocol['candidates'] == 'seen'
    assert out.protocol['num_candidates'] == 5


def test_default_candidates():
    data, scorer = make_data(), table_scorer(make_table())

    def protocol(split, **kwargs):
        out = evaluate(scorer, data, split, **kwargs).protocol
        return out['candidates'], out['num_candidates']

    assert protocol('test') == ('all', 6)
    data.candidates = 'seen'
    assert protocol('val') == ('seen', 5)
    assert protocol('test') == ('seen', 5)
    assert protocol('test', candidates='all') == ('all', 6)
    assert protocol('inductive_test') == ('all', 6)


def test_unseen_answers_among_seen_candidates_raise():
    data, scorer = make_data(), table_scorer(make_table())
    match = r"1 entities of split 'inductive_test'.*first: 'F'.*pass candidates='all'"
    with pytest.raises(ValueError, match=match):
        evaluate(scorer, data, 'inductive_test', candidates='seen')
    data = make_data({'train': SPLITS['train'], 'test': SPLITS['inductive_test']})
    data.candidates = 'seen'
    with pytest.raises(ValueError, match=r"split 'test'.*first: 'F'"):
        evaluate(scorer, data, 'test')
    del data['entity'].label
    with pytest.raises(ValueError, match=r"split 'test'.*first: 5"):
        evaluate(scorer, data, 'test')


def test_unknown_candidates_raise():
    data, scorer = make_data(), table_scorer(make_table())
    with pytest.raises(ValueError, match=r"^'candidates' needs to be 'seen' or 'all' \(got 'x'\)"):
        evaluate(scorer, data, 'test', candidates='x')
    data.candidates = 'some'
    with pytest.raises(ValueError, match=r"'data.candidates' needs to be .* \(got 'some'\)"):
        evaluate(scorer, data, 'test')


def test_unknown_splits_raise():
    data, scorer = make_data(), table_scorer(make_table())
    with pytest.raises(ValueError, match="Unknown split 'valid'"):
        evaluate(scorer, data, 'valid')
    with pytest.raises(ValueError, match="Unknown split 'valid'"):
        evaluate(scorer, data, 'test', filter_splits=['train', 'valid'])


def test_model_that_is_no_scorer_raises():
    with pytest.raises(ValueError, match="'int' cannot be evaluated"):
        evaluate(3, make_data(), 'test')


def test_unknown_side_raises():
    out = evaluate(table_scorer(make_table()), make_data(), 'test')
    with pytest.raises(ValueError, match="Unknown side 'left'"):
        out.metrics('left')


def test_to_dict_has_the_shape_of_metrics_json():
    out = evaluate(table_scorer(make_table()), make_data(), 'test').to_dict()
    assert list(out) == ['split', 'protocol', 'both', 'head', 'tail', 'by_relation',
                         'by_relation_class', 'by_seen', 'by_degree', 'by_modalities']
    assert out['split'] == 'test'
    assert out['protocol'] == {
        'filtered': True,
        'filter_splits': ['train', 'val', 'test', 'inductive_test'],
        'ties': 'realistic',
        'sides': ['head', 'tail'],
        'candidates': 'all',
        'num_candidates': 6,
    }
    keys = ['mrr', 'mr', 'amri', 'hits@1', 'hits@3', 'hits@10', 'count']
    for metrics in [out['both'], out['head'], out['tail'], *out['by_relation'].values()]:
        assert list(metrics) == keys
    assert json.loads(json.dumps(out, allow_nan=False)) == out


def test_groups_hold_both_sides_of_their_triples():
    table = make_table()
    out = evaluate(table_scorer(table), make_data(), 'test').to_dict()
    ranks = brute_force(table, 'test', SPLITS, range(N))

    def check(metrics, rows):
        assert metrics['count'] == 2 * len(rows)
        assert metrics['mrr'] == mrr([ranks[side][i] for side in ranks for i in rows])

    assert list(out['by_relation']) == ['likes', 'knows', 'meets']
    check(out['by_relation']['likes'], [0, 1, 2])
    check(out['by_relation']['knows'], [3])
    check(out['by_relation']['meets'], [4])
    # likes: 0 -> {1, 2}, 3 -> {4}: 1.5 tails per head, 1 head per tail; the repeated training
    # triple does not count. knows: 1 tail per head, 2 heads per tail. meets: not in training.
    assert list(out['by_relation_class']) == ['1-1', 'N-1', 'unseen']
    check(out['by_relation_class']['1-1'], [0, 1, 2])
    check(out['by_relation_class']['N-1'], [3])
    check(out['by_relation_class']['unseen'], [4])
    assert list(out['by_seen']) == ['seen']
    check(out['by_seen']['seen'], [0, 1, 2, 3, 4])

    out = evaluate(table_scorer(table), make_data(), 'inductive_test').to_dict()
    ranks = brute_force(table, 'inductive_test', SPLITS, range(N))
    check(out['by_seen']['seen'], [2])
    check(out['by_seen']['unseen'], [0, 1])


def test_relation_labels():
    scorer = table_scorer(make_table())
    data = make_data(relations=['likes', 'meets', 'meets'])
    assert list(evaluate(scorer, data, 'test').to_dict()['by_relation']) == [
        'likes', 'meets (1)', 'meets (2)']
    del data[EDGE].label
    assert list(evaluate(scorer, data, 'test').to_dict()['by_relation']) == ['0', '1', '2']


def test_model_equals_its_scorer_and_keeps_its_modes():
    table = make_table()
    model, data = TableModel(table), make_data()
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    expected = evaluate(table_scorer(table), data, 'test')
    assert evaluate(model, data, 'test').to_dict() == expected.to_dict()
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)

    with torch.no_grad():
        model.table.fill_(float('nan'))
    with pytest.raises(ValueError, match='NaN scores'):
        evaluate(model, data, 'test')
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)


def test_module_that_is_a_scorer_itself():
    class Scorer(nn.Module):
        def __init__(self, table):
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.table = table

        def forward(self, head_index, rel_type, start, stop):
            return self.dropout(self.table[head_index, rel_type, start:stop])

    table, data = make_table(), make_data()
    assert (evaluate(Scorer(table), data, 'test').to_dict() ==
            evaluate(table_scorer(table), data, 'test').to_dict())


@withCUDA
def test_queries_go_to_the_device_of_the_model(device):
    table, data = make_table(), make_data()
    expected = evaluate(table_scorer(table), data, 'test', candidates='seen').to_dict()
    model = TableModel(table).to(device)
    assert evaluate(model, data, 'test', candidates='seen').to_dict() == expected
    data = data.to(device)
    assert evaluate(model, data, 'test', candidates='seen').to_dict() == expected
    scorer = table_scorer(table)
    out = evaluate(scorer, data, 'test', candidates='seen', device=torch.device('cpu'))
    assert out.to_dict() == expected


def test_order_of_entities_does_not_matter():
    table, generator = make_table(), torch.Generator().manual_seed(5)
    expected = evaluate(table_scorer(table), make_data(), 'test', candidates='seen').to_dict()
    for _ in range(5):
        new_id = torch.randperm(N, generator=generator)
        splits = {s: [(int(new_id[h]), r, int(new_id[t])) for h, r, t in triples]
                  for s, triples in SPLITS.items()}
        permuted = torch.empty_like(table)
        permuted[new_id.view(-1, 1), :, new_id] = table.transpose(1, 2)
        out = evaluate(table_scorer(permuted), make_data(splits), 'test', candidates='seen',
                       chunk_size=4)
        assert out.to_dict() == expected


def test_constant_scores_are_not_flattered():
    def scorer(head_index, rel_type, start, stop):
        return torch.zeros(head_index.numel(), stop - start)

    out = evaluate(scorer, make_data(), 'test').metrics()
    assert out['amri'] == pytest.approx(0.)
    assert out['hits@1'] == 0.0


def test_perfect_scores_on_an_awkward_graph():
    # An oracle of all splits that prefers the known: every answer is first after filtering.
    dataset = FakeMMKG()
    data = dataset[0]
    num_entities, num_relations = data['entity'].num_nodes, data[EDGE].num_relations
    table = torch.zeros(num_entities, 2 * num_relations, num_entities)
    for split in ['train', 'val', 'test']:
        prefix = '' if split == 'train' else f'{split}_'
        store = data[EDGE]
        head_index, tail_index = store[f'{prefix}edge_label_index' if prefix else 'edge_index']
        rel_type = store[f'{prefix}edge_label_type' if prefix else 'edge_type']
        table[head_index, rel_type, tail_index] = 1.
        table[tail_index, rel_type + num_relations, head_index] = 1.

    for split in ['train', 'val', 'test']:
        out = evaluate(table_scorer(table), data, split, batch_size=7, chunk_size=11)
        assert out.metrics()['mrr'] == 1.0
        assert out.metrics()['amri'] == 1.0
        worst = evaluate(table_scorer(-table), data, split)
        for ranks in worst.ranks.values():
            assert torch.equal(ranks.rank, ranks.num_candidates.double())
    unfiltered = evaluate(table_scorer(table), data, 'train', filter_splits=[])
    assert unfiltered.metrics()['mrr'] < 1.0


def test_evaluation_repr():
    ranks = Ranks(torch.tensor([2]), torch.tensor([2]), torch.tensor([5]))
    out = Evaluation('val', {'filtered': True}, {'head': ranks, 'tail': ranks})
    assert str(out) == "Evaluation('val', mrr=0.5000)"
    assert out.metrics('tail')['mr'] == 2.0


def test_progress_bar_of_evaluation(capsys):
    scorer, data = table_scorer(make_table()), make_data()
    evaluate(scorer, data, 'test')
    assert capsys.readouterr() == ('', '')
    evaluate(scorer, data, 'test', log=True)
    assert 'Ranking' in capsys.readouterr().err


def test_groups_by_degree_and_modalities_against_a_count_by_hand():
    data = FakeMMKG(inductive=True)[0]
    table = torch.randn(2 * 5 * 40, 40, generator=torch.Generator().manual_seed(0))

    def scorer(head_index, rel_type, start, stop):
        return table[rel_type * 40 + head_index, start:stop]

    found = evaluate(scorer, data, 'test')
    out = found.to_dict()
    train = [tuple(row) for row in torch.stack(get_triples(data, 'train'), dim=1).tolist()]
    degree = [sum((h == e) + (t == e) for h, _, t in train) for e in range(40)]
    bins = {'0': range(1), '1-2': range(1, 3), '3-5': range(3, 6), '6-10': range(6, 11),
            '11-20': range(11, 21), '>20': range(21, 10_000)}
    names = ['image', 'numeric', 'text']
    by_degree, by_modalities = {}, {}
    for i, (h, _, t) in enumerate(torch.stack(get_triples(data, 'test'), dim=1).tolist()):
        rarer = min(degree[h], degree[t])
        by_degree.setdefault(next(n for n, b in bins.items() if rarer in b), []).append(i)
        both = [m for m in names if data['entity'][f'{m}_mask'][[h, t]].all()]
        by_modalities.setdefault('+'.join(both) or 'none', []).append(i)
    assert len(by_degree) > 2
    assert 'none' in by_modalities
    for key, expected in [('by_degree', by_degree), ('by_modalities', by_modalities)]:
        assert set(out[key]) == set(expected)
        for name, rows in expected.items():
            assert out[key][name] == found.metrics(mask=torch.tensor(rows))
    assert list(out['by_degree']) == [name for name in bins if name in by_degree]


def test_graph_without_modalities_has_one_group_of_them():
    data = FakeMMKG(modalities={})[0]
    out = evaluate(lambda h, r, start, stop: torch.zeros(len(h), stop - start), data, 'test')
    assert list(out.to_dict()['by_modalities']) == ['none']
