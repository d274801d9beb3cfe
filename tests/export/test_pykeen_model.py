import numpy as np
import pytest
import torch

from pyg_mmkgc.data import from_pykeen, get_triples, to_pykeen
from pyg_mmkgc.evaluation import evaluate
from pyg_mmkgc.export import PyKEENModel
from pyg_mmkgc.nn import ComplEx, MoCME, TransE
from pyg_mmkgc.testing import FakeMMKG

#: What PyKEEN calls our metrics.
METRICS = {'mrr': 'inverse_harmonic_mean_rank', 'mr': 'arithmetic_mean_rank',
           'hits@1': 'hits_at_1', 'hits@3': 'hits_at_3', 'hits@10': 'hits_at_10',
           'amri': 'adjusted_arithmetic_mean_rank_index', 'count': 'count'}


@pytest.fixture(scope='module')
def data():
    return FakeMMKG()[0]


def build(cls, data):
    torch.manual_seed(0)
    model = cls.from_data(data, hidden_channels=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


class Factory:
    """What `from_pykeen` reads of a `TriplesFactory` of PyKEEN 1.11."""
    def __init__(self, mapped_triples, num_entities, num_relations):
        self.mapped_triples = mapped_triples
        self.num_entities, self.real_num_relations = num_entities, num_relations
        self.entity_to_id = {f'e{i}': i for i in range(num_entities)}
        self.relation_to_id = {f'r{i}': i for i in range(num_relations)}


def rank_plainly(model, queries, known):
    """Filtered realistic ranks of both sides, by the scores that PyKEEN would be given."""
    asked, ranks = PyKEENModel(model), []
    for target, column in [('head', 0), ('tail', 2)]:
        scores = asked.predict(hrt_batch=queries, target=target)
        for row, triple in zip(scores.tolist(), queries.tolist(), strict=True):
            rest = []
            for e, score in enumerate(row):
                other = list(triple)
                other[column] = e
                if e != triple[column] and tuple(other) not in known:
                    rest.append(score)
            own = row[triple[column]]
            ranks.append(1 + sum(s > own for s in rest) + sum(s == own for s in rest) / 2)
    return np.array(ranks)


@pytest.mark.parametrize('cls', [ComplEx, TransE])
def test_factories_in_and_ranks_out(cls, data):
    parts = {split: torch.stack(get_triples(data, split), dim=1)
             for split in ('train', 'val', 'test')}
    names = {'train': 'training', 'val': 'validation', 'test': 'testing'}
    graph = from_pykeen({names[split]: Factory(part, 40, 5) for split, part in parts.items()})
    model = build(cls, graph)
    found = evaluate(model, graph, 'test')
    known = {tuple(row) for part in parts.values() for row in part.tolist()}
    expected = rank_plainly(model, parts['test'], known)
    ranks = torch.cat([found.ranks['head'].rank, found.ranks['tail'].rank]).numpy()
    assert (ranks == expected).all()
    assert found.mrr == pytest.approx((1 / expected).mean())


def test_training_mode_does_not_matter(data):
    model = build(MoCME, data)
    queries = torch.stack(get_triples(data, 'test'), dim=1)
    scores = PyKEENModel(model.train()).predict(queries, 'tail')
    assert not scores.requires_grad
    assert torch.equal(scores, model.eval().score_all(queries[:, 0], queries[:, 1]))


def test_relations_are_not_predicted(data):
    with pytest.raises(ValueError, match="'target' needs to be 'head' or 'tail'"):
        PyKEENModel(build(ComplEx, data)).predict(torch.zeros(1, 3, dtype=torch.long), 'relation')


@pytest.mark.parametrize('cls', [ComplEx, MoCME])
def test_evaluator_of_pykeen_gives_our_metrics(cls, data):
    RankBasedEvaluator = pytest.importorskip('pykeen.evaluation').RankBasedEvaluator
    factories = to_pykeen(data)
    model = build(cls, data)
    results = RankBasedEvaluator().evaluate(
        PyKEENModel(model), factories['test'].mapped_triples, batch_size=7, use_tqdm=False,
        additional_filter_triples=[factories[split].mapped_triples for split in ('train', 'val')])
    ours = evaluate(model, data, 'test')
    for side in ('both', 'head', 'tail'):
        for name, theirs in METRICS.items():
            assert results.get_metric(f'{side}.realistic.{theirs}') == pytest.approx(
                ours.metrics(side)[name], rel=1e-6, abs=1e-6), (side, name)  # Theirs are float32.


def test_dataset_of_pykeen_through_training(tmp_path):
    Nations = pytest.importorskip('pykeen.datasets').Nations
    RankBasedEvaluator = pytest.importorskip('pykeen.evaluation').RankBasedEvaluator
    from pyg_mmkgc.training import TrainConfig, Trainer

    nations = Nations()
    graph = from_pykeen(nations)
    model = ComplEx.from_data(graph, hidden_channels=32)
    Trainer(TrainConfig(epochs=3, device='cpu')).fit(model, graph)
    results = RankBasedEvaluator().evaluate(
        PyKEENModel(model), nations.testing.mapped_triples, use_tqdm=False,
        additional_filter_triples=[nations.training.mapped_triples,
                                   nations.validation.mapped_triples])
    ours = evaluate(model, graph, 'test')
    assert results.get_metric('both.realistic.inverse_harmonic_mean_rank') == pytest.approx(
        ours.mrr, rel=1e-6)
    assert ours.mrr > 0.3
