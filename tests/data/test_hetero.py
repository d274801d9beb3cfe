import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import (
    EDGE,
    build_data,
    build_index,
    get_triples,
    modality_dicts,
    modality_names,
    seen_entities,
    set_modality,
    split_names,
)

SPLITS = {
    'train': torch.tensor([[0, 1, 2], [0, 1, 2], [3, 0, 3]]),
    'val': torch.tensor([[0, 2, 1]]),
    'test': torch.tensor([[2, 1, 4], [0, 1, 2]]),
    'inductive_test': torch.tensor([[5, 0, 0]]),
}
ENTITIES = ['a', 'b', 'c', 'd', 'e', 'f']
RELATIONS = ['p', 'q', 'r']


@pytest.fixture
def data():
    x = torch.arange(12.).view(6, 2)
    mask = torch.tensor([True, False, True, True, False, True])
    return build_data(SPLITS, ENTITIES, RELATIONS, {'text': (x, mask), 'image': (x, ~mask)})


def test_layout(data):
    assert isinstance(data, HeteroData)
    assert data.node_types == ['entity']
    assert data.edge_types == [EDGE] == [('entity', 'to', 'entity')]
    assert data['entity'].num_nodes == 6
    assert data['entity'].label == ENTITIES
    assert data[EDGE].label == RELATIONS
    assert data[EDGE].num_relations == 3
    # Columns of `SPLITS` are head, relation, tail.
    assert data[EDGE].edge_index.tolist() == [[0, 0, 3], [2, 2, 3]]
    assert data[EDGE].edge_type.tolist() == [1, 1, 0]
    assert data[EDGE].test_edge_label_index.tolist() == [[2, 0], [4, 2]]
    assert data[EDGE].test_edge_label_type.tolist() == [1, 1]
    assert data[EDGE].edge_index.is_contiguous()
    data.validate()


def test_splits(data):
    assert split_names(data) == list(SPLITS)
    for split, triples in SPLITS.items():
        assert torch.equal(torch.stack(get_triples(data, split), dim=1), triples)
    with pytest.raises(ValueError, match=r"Unknown split 'x' .expected one of \['train', 'val'"):
        get_triples(data, 'x')


def test_modalities(data):
    assert modality_names(data) == ['image', 'text']
    x_dict, mask_dict = modality_dicts(data)
    assert list(x_dict) == list(mask_dict) == ['image', 'text']
    assert x_dict['text'].tolist() == [[0, 1], [0, 0], [4, 5], [6, 7], [0, 0], [10, 11]]
    assert mask_dict['text'].tolist() == [True, False, True, True, False, True]


def test_what_is_no_modality(data):
    data['entity'].train_mask = torch.ones(6, dtype=torch.bool)
    data['entity'].loose = torch.ones(6, 2)  # No mask.
    data['entity'].count = torch.ones(6, 2, dtype=torch.long)
    data['entity'].count_mask = torch.ones(6, dtype=torch.bool)
    data['entity'].name_mask = torch.ones(6, dtype=torch.bool)
    data['entity'].name = list('abcdef')
    assert modality_names(data) == ['image', 'text']


def test_masked_rows_do_not_matter_and_inputs_stay():
    x = torch.ones(6, 2)
    x[1], x[4] = float('nan'), float('inf')
    mask = torch.tensor([True, False, True, True, False, True])
    data = build_data(SPLITS, ENTITIES, RELATIONS, {'text': (x, mask)})
    assert data['entity'].text.sum(dim=1).tolist() == [2, 0, 2, 2, 0, 2]
    assert bool(x[1].isnan().all())


def test_default_mask(data):
    set_modality(data, 'audio', torch.ones(6, 1))
    assert bool(data['entity'].audio_mask.all())
    assert modality_names(data) == ['audio', 'image', 'text']


def test_seen_entities(data):
    assert seen_entities(data).tolist() == [True, False, True, True, False, False]


@pytest.mark.parametrize('splits', [None, ['train'], ['val', 'test']])
def test_build_index(data, splits):
    index = build_index(data, splits)
    known = {tuple(row) for split in splits or SPLITS for row in SPLITS[split].tolist()}
    assert len(index) == len(known)
    for h in range(6):
        for r in range(3):
            out = index.contains(torch.tensor(h), torch.tensor(r), torch.arange(6))
            assert out.tolist() == [(h, r, t) in known for t in range(6)]


def test_build_index_errors(data):
    with pytest.raises(ValueError, match="Unknown split 'x'"):
        build_index(data, ['train', 'x'])
    with pytest.raises(ValueError, match="'splits' is empty"):
        build_index(data, [])


@pytest.mark.parametrize('change,match', [
    ({'train': None}, r"'splits' has no 'train' .got \['inductive_test', 'test', 'val'\]"),
    ({'val': torch.empty(0, 3, dtype=torch.long)}, "split 'val' is empty"),
    ({'val': torch.ones(2, 2)}, r"split 'val' needs triples of shape \[T, 3\] .got \[2, 2\]"),
    ({'val': torch.ones(3)}, r"split 'val' needs triples of shape \[T, 3\] .got \[3\]"),
    ({'val': torch.tensor([[6, 0, 0]])}, "'val heads' holds id 6 at position 0 .expected 0 to 5"),
    ({'test': torch.tensor([[0, 0, 0], [0, 3, 0]])}, "'test relations' holds id 3 at position 1"),
    ({'train': torch.tensor([[0, 0, -1]])}, "'train tails' holds id -1 at position 0"),
])
def test_bad_splits(change, match):
    splits = {name: part for name, part in {**SPLITS, **change}.items() if part is not None}
    with pytest.raises(ValueError, match=match):
        build_data(splits, ENTITIES, RELATIONS)


@pytest.mark.parametrize('name,x,mask,match', [
    ('structure', torch.ones(6, 2), None, "modality name 'structure' is kept for the learned tab"),
    ('a b', torch.ones(6, 2), None, "modality name 'a b' is not usable .*a Python identifier"),
    ('x_mask', torch.ones(6, 2), None, "modality name 'x_mask' is not usable"),
    ('label', torch.ones(6, 2), None, "modality name 'label' is not usable"),
    ('num_nodes', torch.ones(6, 2), None, "modality name 'num_nodes' is not usable"),
    ('x', torch.ones(5, 2), None, r"'x' needs one row for each of 6 entities .got shape \[5, 2\]"),
    ('x', torch.ones(6), None, r"'x' needs one row for each of 6 entities .got shape \[6\]"),
    ('x', torch.ones(6, 2).long(), None, "'x' needs floating-point features .got torch.int64"),
    ('x', torch.ones(6, 2), torch.ones(6), r"mask of modality 'x' needs to be boolean .*float32"),
    ('x', torch.ones(6, 2), torch.ones(5).bool(), r"mask of modality 'x' .*\[6\] .*\[5\]"),
    ('x', torch.tensor([[1.], [2.], [float('nan')], [4.], [float('inf')], [6.]]), None,
     "modality 'x' has NaN or infinite values in 2 rows .first: row 2, entity 'c'"),
])
def test_bad_modalities(data, name, x, mask, match):
    before = sorted(data['entity'].keys())
    with pytest.raises(ValueError, match=match):
        set_modality(data, name, x, mask)
    assert sorted(data['entity'].keys()) == before


def test_bad_values_without_labels():
    data = HeteroData()
    data['entity'].num_nodes = 2
    with pytest.raises(ValueError, match="'x' has NaN or infinite values in 1 rows .first: row 1"):
        set_modality(data, 'x', torch.tensor([[0.], [float('nan')]]))
