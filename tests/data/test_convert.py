import random
import sys
import types

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import EDGE, get_triples, split_names, split_triples
from pyg_mmkgc.data.convert import from_dataframe, from_pykeen, from_triples, to_pykeen
from pyg_mmkgc.datasets.openke import read_openke
from pyg_mmkgc.transforms import EncodeNumeric, EncodeText

pd = pytest.importorskip('pandas')
LABELLED = [('Cleo', 'knows', 'Ada'), ('Ada', 'likes', 'Bob'), ('Ada', 'knows', 'Ada'),
            ('Ada', 'likes', 'Bob')]


def triples(data, split='train'):
    return torch.stack(get_triples(data, split), dim=1).tolist()


def named(data, split='train'):
    r"""The triples in words, whatever the ids are."""
    entity, relation = data['entity'].label, data[EDGE].label
    return [(entity[h], relation[r], entity[t]) for h, r, t in triples(data, split)]


# Triples #########################################################################################


@pytest.mark.parametrize('given', [
    LABELLED, tuple(LABELLED), [list(row) for row in LABELLED], np.array(LABELLED),
    np.array(LABELLED, dtype=object),
], ids=['list', 'tuple', 'lists', 'str array', 'object array'])
def test_labels(given):
    data = from_triples(given)
    data.validate()
    assert list(data['entity'].label) == ['Ada', 'Bob', 'Cleo']
    assert list(data[EDGE].label) == ['knows', 'likes']
    assert triples(data) == [[2, 0, 0], [0, 1, 1], [0, 0, 0], [0, 1, 1]]
    assert all(type(label) is str for label in data['entity'].label)
    assert split_names(data) == ['train']
    assert data.candidates == 'all'


@pytest.mark.parametrize('given', [
    torch.tensor([[3, 1, 0], [0, 0, 3]]), torch.tensor([[3, 1, 0], [0, 0, 3]], dtype=torch.int16),
    np.array([[3, 1, 0], [0, 0, 3]], dtype=np.uint8), [(3, 1, 0), (0, 0, 3)],
], ids=['tensor', 'int16', 'uint8', 'list'])
def test_ids_stay_as_they_are(given):
    data = from_triples(given)
    assert triples(data) == [[3, 1, 0], [0, 0, 3]]
    assert list(data['entity'].label) == ['0', '1', '2', '3']  # 1 and 2 are in no triple.
    assert list(data[EDGE].label) == ['0', '1']
    data = from_triples(given, ['a', 'b', 'c', 'd', 'e'], ['r', 's'])
    assert list(data['entity'].label) == ['a', 'b', 'c', 'd', 'e']
    assert named(data) == [('d', 's', 'a'), ('a', 'r', 'd')]


def test_relation_ids_beside_entity_labels():
    data = from_triples([('b', 1, 'a'), ('a', 0, 'b')])
    assert triples(data) == [[1, 1, 0], [0, 0, 1]]
    assert list(data[EDGE].label) == ['0', '1']


def test_given_labels_say_the_order():
    data = from_triples(LABELLED, ['Zoe', 'Cleo', 'Bob', 'Ada'], ['likes', 'knows'])
    assert triples(data) == [[1, 1, 3], [3, 0, 2], [3, 1, 3], [3, 0, 2]]
    assert data['entity'].num_nodes == 4


def test_splits():
    data = from_triples({'train': LABELLED[:2], 'val': [('Bob', 'hates', 'Zoe')],
                         'inductive_test': LABELLED[2:]})
    assert split_names(data) == ['train', 'val', 'inductive_test']
    assert list(data['entity'].label) == ['Ada', 'Bob', 'Cleo', 'Zoe']
    assert named(data, 'val') == [('Bob', 'hates', 'Zoe')]
    assert named(data, 'inductive_test') == LABELLED[2:]


def test_ratios():
    rng = random.Random(0)
    given = [(f'e{rng.randrange(9)}', f'r{rng.randrange(2)}', f'e{rng.randrange(9)}')
             for _ in range(200)]
    data = from_triples(given, ratios=(0.6, 0.2, 0.2), seed=3)
    expected = split_triples(torch.tensor(triples(from_triples(given))), (0.6, 0.2, 0.2), 3)
    assert {split: triples(data, split) for split in split_names(data)} == {
        split: part.tolist() for split, part in expected.items()}
    parts = [named(data, split) for split in split_names(data)]
    assert sorted(sum(parts, [])) == sorted(set(given))


def test_against_a_loop():
    rng = random.Random(1)
    for _ in range(20):
        given = {split: [(rng.choice('aäbc d'), rng.choice('rs'), rng.choice('aäbc d'))
                         for _ in range(rng.randrange(1, 30))] for split in ('train', 'val')}
        data = from_triples(given)
        entities = sorted({x for part in given.values() for h, _, t in part for x in (h, t)})
        assert list(data['entity'].label) == entities
        for split in given:
            assert named(data, split) == given[split]
            assert triples(data, split) == [
                [entities.index(h), sorted(data[EDGE].label).index(r), entities.index(t)]
                for h, r, t in given[split]]


@pytest.mark.parametrize('given,message', [
    ([], r"split 'train' needs triples of shape \[T, 3\] \(got \[0\]"),
    ([('a', 'b')], r"split 'train' needs triples of shape \[T, 3\] \(got \[1, 2\]"),
    ([('a', 'b', 'c'), ('a', 'b')], r'needs triples of shape \[T, 3\] \(got \[2\]'),
    (torch.empty(0, 3, dtype=torch.long), "split 'train' is empty"),
    (torch.zeros(3), r'shape \[T, 3\] \(got \[3\]'),
    (torch.tensor([[0, 0, 1], [0.5, 0, 1]]), "the heads of 'train' need to be all ids or all "
                                             'labels'),
    ([('a', 'r', 'b'), ('a', 'r', None)], r"the tails of 'train' .* \(got None in row 1"),
    ([('a', 'r', 'b'), ('a', '', 'b')], r"the relations of 'train' .* \(got '' in row 1"),
    ([('a', 'r', 'b'), ('a', 7, 'b')], r"the relations of 'train' .* \(got 7 in row 1"),
    ([('a', 'r', 'b'), (float('nan'), 'r', 'b')], r"the heads of 'train' .* \(got nan in row 1"),
    ([(True, 0, 1)], r"the heads of 'train' .* \(got True in row 0"),
    (np.array([[b'a', b'r', b'b']]), "the heads of 'train' need to be all ids or all labels"),
    ([('a', 'r', 1)], r"expected either ids or labels \(got ids in the tails of 'train', labels "
                      r"in the heads of 'train'"),
    ({'train': [('a', 'r', 'b')], 'val': [(0, 'r', 1)]}, "got ids in the heads of 'val', labels "
                                                         "in the heads of 'train'"),
    ([(2**70, 0, 1)], "the heads of 'train' hold an id beyond 64 bits"),
    ([(10**9, 0, 1)], r'entity id 1000000000 is too large for one that counts from 0 \(2 ids'),
    ([(0, 10**9, 1)], r'relation id 1000000000 is too large'),
    ([(0, 0, 1), (0, 0, -1)], r"'train tails' holds id -1 at position 1"),
    ({'val': [('a', 'r', 'b')]}, r"'triples' has no split 'train' \(got \['val'\]"),
])
def test_malformed_triples(given, message):
    with pytest.raises(ValueError, match=message):
        from_triples(given)


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="entity 'Cleo' is not in 'entity_labels'"):
        from_triples(LABELLED, ['Ada', 'Bob'])
    with pytest.raises(ValueError, match="relation 'likes' is not in 'relation_labels'"):
        from_triples(LABELLED, relation_labels=['knows'])
    with pytest.raises(ValueError, match="'entity_labels' holds 'Ada' twice"):
        from_triples(LABELLED, ['Ada', 'Bob', 'Cleo', 'Ada'])
    with pytest.raises(ValueError, match="'train heads' holds id 2 at position 0"):
        from_triples([(2, 0, 1)], ['a', 'b'])
    with pytest.raises(ValueError, match="'ratios' divides triples without splits"):
        from_triples({'train': LABELLED}, ratios=(0.8, 0.1, 0.1))


def test_pandas_is_needed_for_labels_only(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', None)
    assert triples(from_triples(torch.tensor([[0, 0, 1]]))) == [[0, 0, 1]]
    with pytest.raises(ImportError, match=r"pip install 'pyg-mmkgc\[frames\]'"):
        from_triples(LABELLED)


# Modalities ######################################################################################


def test_modalities():
    x = torch.randn(3, 2, dtype=torch.float64)
    mask = torch.tensor([True, False, True])
    data = from_triples(LABELLED, modalities={
        'image': x, 'text': (x.numpy(), mask.numpy()), 'nested': x.tolist(),
        'audio': {'Cleo': [1.0, 2.0, 3.0], 'Ada': np.array([4.0, 5.0, 6.0])},
        'video': {0: torch.ones(1), 2: torch.zeros(1)}})
    store = data['entity']
    for name in ('image', 'nested'):
        assert store[name].dtype == torch.float
        assert torch.equal(store[name], x.float())
        assert bool(store[f'{name}_mask'].all())
    assert torch.equal(store.text, x.float() * mask[:, None])
    assert torch.equal(store.text_mask, mask)
    assert store.audio.tolist() == [[4, 5, 6], [0, 0, 0], [1, 2, 3]]
    assert store.audio_mask.tolist() == [True, False, True]
    assert store.video.tolist() == [[1], [0], [0]]
    assert store.video_mask.tolist() == [True, False, True]


@pytest.mark.parametrize('value,message', [
    (torch.ones(2, 2), "modality 'image' needs one row for each of 3 entities"),
    (torch.ones(3, 2, dtype=torch.long), "modality 'image' needs floating-point features"),
    ((torch.ones(3, 2), torch.ones(2, dtype=torch.bool)), "mask of modality 'image'"),
    ((torch.ones(3, 2), ) * 3, r"needs features, or features and a mask \(got 3 things"),
    ({'Ada': [1.0], 'Dora': [1.0]}, "modality 'image' has a vector of 'Dora', which is no entity"),
    ({3: [1.0]}, "has a vector of 3, which is no entity"),
    ({'Ada': [1.0], 'Bob': [1.0, 2.0]}, r'needs vectors of one size \(got shapes \[\[1\], \[2\]\]'),
    ({'Ada': [[1.0]]}, r'needs vectors of one size \(got shapes \[\[1, 1\]\]'),
    ({}, r'needs vectors of one size \(got shapes \[\]'),
    ({'Ada': [float('nan')]}, "modality 'image' has NaN or infinite values in 1 rows"),
])
def test_malformed_modality(value, message):
    with pytest.raises(ValueError, match=message):
        from_triples(LABELLED, modalities={'image': value})


def test_vectors_by_a_label_that_entities_share():
    with pytest.raises(ValueError, match='cannot be given by label, since entities share one'):
        from_triples([(0, 0, 1)], ['a', 'a'], modalities={'image': {'a': [1.0]}})


# Tables ##########################################################################################


def as_frame(columns):
    return pd.DataFrame(columns)


def as_arrow(columns):
    pa = pytest.importorskip('pyarrow')
    return pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)


TABLES = pytest.mark.parametrize('table', [as_frame, as_arrow], ids=['pandas', 'arrow'])


def columns_of(rows, names=('head', 'relation', 'tail')):
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


@TABLES
def test_table_of_triples(table):
    expected = from_triples(LABELLED)
    frame = table({'note': [1, 2, 3, 4], **columns_of(LABELLED)})
    for data in [from_dataframe(frame), from_dataframe(
            table(columns_of(LABELLED, 'spo')), head='s', relation='p', tail='o')]:
        assert triples(data) == triples(expected)
        assert data['entity'].label == expected['entity'].label
        assert data[EDGE].label == expected[EDGE].label
    data = from_dataframe({'train': frame, 'test': table(columns_of([('Zoe', 'likes', 'Ada')]))})
    assert named(data, 'test') == [('Zoe', 'likes', 'Ada')]
    data = from_dataframe(table(columns_of([(3, 1, 0), (0, 0, 3)])))
    assert triples(data) == [[3, 1, 0], [0, 0, 3]]


@TABLES
def test_categories(table):
    frame = pd.DataFrame(columns_of(LABELLED)).astype('category')
    assert named(from_dataframe(frame if table is as_frame else table(frame))) == LABELLED


@TABLES
def test_table_of_entities(table):
    frame = table({
        'entity': ['Zoe', 'Bob', 'Ada'],  # Cleo has no row, Zoe no triple.
        'height': [1.5, None, 1.7],
        'description': ['  ', 'a builder', None],
        'children': pd.array([None, 2, 3], dtype='Int64'),
        'alive': pd.array([True, None, False], dtype='boolean'),
        'kind': pd.Categorical(['x', None, 'y']),
        'nothing': pd.Series([None] * 3, dtype=object),
    })
    data = from_dataframe(table(columns_of(LABELLED)), frame, modalities={'image': {
        'Zoe': [1.0]}})
    store = data['entity']
    assert list(store.label) == ['Ada', 'Bob', 'Cleo', 'Zoe']
    assert store.image_mask.tolist() == [False, False, False, True]
    assert list(store.description) == [None, 'a builder', None, None]
    assert list(store.kind) == ['y', None, None, 'x']
    assert list(store.nothing) == [None] * 4
    assert store.numeric_attribute == ['height', 'children', 'alive']
    nan = float('nan')
    expected = torch.tensor([[1.7, 3, 0], [nan, 2, nan], [nan] * 3, [1.5, nan, 1]],
                            dtype=torch.float64)
    torch.testing.assert_close(store.numeric_value, expected, rtol=0, atol=0, equal_nan=True)

    # What it is made for:
    EncodeText('hash', ['label', 'description']).forward(data)
    EncodeNumeric().forward(data)
    assert store.numeric_mask.tolist() == [True, True, False, True]
    assert bool(store.text_mask.all())


@TABLES
def test_entities_by_id(table):
    data = from_dataframe(table(columns_of([(2, 0, 0)])),
                          table({'id': [3, 0], 'age': [30, 7]}), entity='id')
    assert data['entity'].num_nodes == 4
    assert data['entity'].numeric_value[[0, 3], 0].tolist() == [7, 30]
    assert data['entity'].numeric_value.isnan().sum() == 2


@TABLES
@pytest.mark.parametrize('change,message', [
    ({'tail': None}, r"split 'train' needs exactly one column 'tail' \(got \['head', 'relation'\]"),
    ({'head': ['a', None, 'b', 'c']}, r"the heads of 'train' .* \(got (None|nan) in row 1"),
    ({'head': pd.array([0, None, 1, 2], dtype='Int64')}, r"the heads of 'train' .* in row 1"),
    ({'head': [0.5, 1, 2, 3]}, r"the heads of 'train' .* \(got 0.5 in row 0"),
    ({'relation': pd.to_datetime(['2020'] * 4)}, "the relations of 'train' need to be all ids"),
])
def test_malformed_table(table, change, message):
    columns = {**columns_of(LABELLED), **change}
    frame = table({name: column for name, column in columns.items() if column is not None})
    with pytest.raises(ValueError, match=message):
        from_dataframe(frame)


@TABLES
@pytest.mark.parametrize('column,message', [
    ({'entity': ['Ada', 'Ada']}, "'entities' has several rows of 'Ada'"),
    ({'entity': ['Ada', None]}, r"the labels of 'entities' .* in row 1"),
    ({'entity': [0, 1]}, "got ids in the labels of 'entities', labels in the heads of 'train'"),
    ({'name': ['Ada', 'Bob']}, r"'entities' needs exactly one column 'entity' \(got \['name'\]"),
    ({'entity': ['Ada', 'Bob'], 'label': ['a', 'b']}, "column 'label' of 'entities' is taken or"),
    ({'entity': ['Ada', 'Bob'], 'my text': ['a', 'b']}, "column 'my text' of 'entities' is taken"),
    ({'entity': ['Ada', 'Bob'], 'a_mask': ['a', 'b']}, "column 'a_mask' of 'entities' is taken or"),
    ({'entity': ['Ada', 'Bob'], 'born': pd.to_datetime(['2020', '2021'])},
     r"column 'born' of 'entities' needs to hold strings or numbers \(got datetime64"),
    ({'entity': ['Ada', 'Bob'], 'age': [1.0, float('inf')]}, "column 'age' of 'entities' holds an "
                                                             'infinite number'),
])
def test_malformed_entities(table, column, message):
    with pytest.raises(ValueError, match=message):
        from_dataframe(table(columns_of(LABELLED)), table(column))


def test_columns_of_one_name():
    frame = pd.DataFrame([['a', 'r', 'b', 'x']], columns=['head', 'relation', 'tail', 'head'])
    with pytest.raises(ValueError, match="needs exactly one column 'head'"):
        from_dataframe(frame)


# PyKEEN ##########################################################################################


class StandIn:
    r"""What is used of `pykeen.triples.TriplesFactory` 1.11, where PyKEEN is not installed."""
    def __init__(self, mapped_triples, entity_to_id, relation_to_id, create_inverse_triples=False):
        assert mapped_triples.dtype == torch.long
        assert mapped_triples.dim() == 2
        self.mapped_triples = mapped_triples
        self.entity_to_id, self.relation_to_id = entity_to_id, relation_to_id
        self.num_entities = max(entity_to_id.values()) + 1
        self.real_num_relations = max(relation_to_id.values()) + 1
        self.num_relations = self.real_num_relations * (1 + create_inverse_triples)
        self.create_inverse_triples = create_inverse_triples


@pytest.fixture(params=['pykeen', 'stand-in'])
def factory_class(request, monkeypatch):
    if request.param == 'pykeen':
        return pytest.importorskip('pykeen.triples').TriplesFactory
    package, module = types.ModuleType('pykeen'), types.ModuleType('pykeen.triples')
    package.triples, module.TriplesFactory = module, StandIn
    monkeypatch.setitem(sys.modules, 'pykeen', package)
    monkeypatch.setitem(sys.modules, 'pykeen.triples', module)
    return StandIn


def check_round_trip(data, factory_class):
    for inverse in (False, True):
        factories = to_pykeen(data, create_inverse_triples=inverse)
        assert list(factories) == split_names(data)
        for split, factory in factories.items():
            assert isinstance(factory, factory_class)
            assert factory.create_inverse_triples == (inverse and split == 'train')
            assert factory.mapped_triples.tolist() == triples(data, split)
            assert factory.num_entities == data['entity'].num_nodes
            assert factory.entity_to_id == {x: i for i, x in enumerate(data['entity'].label)}
        back = from_pykeen(factories)
        assert split_names(back) == split_names(data)
        assert back['entity'].label == data['entity'].label
        assert back[EDGE].label == data[EDGE].label
        assert back[EDGE].num_relations == data[EDGE].num_relations
        for split in split_names(data):
            assert triples(back, split) == triples(data, split)


def test_round_trip(factory_class):
    # Repeats, a self-loop, an entity without a triple, and an order that is not sorted.
    check_round_trip(from_triples({'train': LABELLED, 'val': LABELLED[:1], 'test': LABELLED[1:3]},
                                  ['Zoe', 'Cleo', 'Bob', 'Ada'], ['likes', 'knows']),
                     factory_class)


@pytest.mark.real_data
def test_round_trip_of_a_published_graph(factory_class, mirror):
    entities, relations, splits = read_openke(mirror / 'DB15K')
    check_round_trip(from_triples(splits, entities, relations), factory_class)


def test_from_one_factory(factory_class):
    factory = factory_class(torch.tensor([[0, 1, 1]]), {'a': 0, 'b': 1}, {'s': 1, 'r': 0})
    data = from_pykeen(factory, modalities={'image': {'b': [2.0]}})
    assert named(data) == [('a', 's', 'b')]
    assert list(data[EDGE].label) == ['r', 's']
    assert data['entity'].image.tolist() == [[0], [2]]
    assert split_names(from_pykeen({'training': factory, 'testing': factory,
                                    'validation': factory})) == ['train', 'test', 'val']


def test_factories_that_do_not_fit(factory_class):
    one = factory_class(torch.tensor([[0, 0, 1]]), {'a': 0, 'b': 1}, {'r': 0})
    other = factory_class(torch.tensor([[0, 0, 1]]), {'a': 1, 'b': 0}, {'r': 0})
    with pytest.raises(ValueError, match="split 'testing' has other entity labels or ids than "
                                         "'training'"):
        from_pykeen({'training': one, 'testing': other})
    gap = factory_class(torch.tensor([[0, 0, 2]]), {'a': 0, 'b': 2}, {'r': 0})
    with pytest.raises(ValueError, match=r"split 'train' of PyKEEN needs entity ids from 0 to 2, "
                                         r'each with one label \(got 2 labels'):
        from_pykeen(gap)
    with pytest.raises(ValueError, match=r"split 'train' is given twice"):
        from_pykeen({'training': one, 'train': one})
    with pytest.raises(ValueError, match=r"'triples' has no split 'train' \(got \['test'\]"):
        from_pykeen({'testing': one})
    with pytest.raises(ValueError, match=r"split 'train' needs a triples factory of PyKEEN "
                                         r'\(got Tensor'):
        from_pykeen(one.mapped_triples)


def test_labels_that_pykeen_could_not_tell_apart(factory_class):
    with pytest.raises(ValueError, match=r"entity label 'a' stands for several ids"):
        to_pykeen(from_triples([(0, 0, 1)], ['a', 'a']))
    with pytest.raises(ValueError, match=r"relation label 'r' stands for several ids"):
        to_pykeen(from_triples([(0, 0, 1)], relation_labels=['r', 'r']))


def test_without_pykeen(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pykeen', None)
    monkeypatch.delitem(sys.modules, 'pykeen.triples', raising=False)
    with pytest.raises(ImportError, match=r"pip install 'pyg-mmkgc\[pykeen\]'"):
        to_pykeen(from_triples(LABELLED))


def test_dataset_and_unlabelled_factory_of_pykeen():
    Nations = pytest.importorskip('pykeen.datasets').Nations  # It comes with PyKEEN.
    from pykeen.triples import CoreTriplesFactory
    nations = Nations(create_inverse_triples=True)
    data = from_pykeen(nations)
    assert (data['entity'].num_nodes, data[EDGE].num_relations) == (14, 55)
    assert split_names(data) == ['train', 'test', 'val']
    back = to_pykeen(data, create_inverse_triples=True)
    for name, split in [('training', 'train'), ('validation', 'val'), ('testing', 'test')]:
        own = nations.factory_dict[name]
        assert named(data, split) == [tuple(row) for row in own.triples.tolist()]
        assert torch.equal(back[split].mapped_triples, own.mapped_triples)
        assert back[split].entity_to_id == own.entity_to_id
        assert back[split].relation_to_id == own.relation_to_id
    assert back['train'] == nations.training
    data = from_pykeen(CoreTriplesFactory(torch.tensor([[0, 0, 1]]), 3, 2, True))
    assert list(data['entity'].label) == ['0', '1', '2']
    assert list(data[EDGE].label) == ['0', '1']
