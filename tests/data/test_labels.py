import copy
import pickle
from collections.abc import Sequence

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_mmkgc.data import Labels

NAMES = ['Oslo', 'Rome', None, 'Zürich', 'Rome']


@pytest.fixture
def labels():
    return Labels(NAMES)


def test_it_is_a_sequence(labels):
    assert isinstance(labels, Sequence)
    assert not isinstance(labels, (list, tuple))  # Which PyG would take for a node feature.
    assert len(labels) == 5
    assert list(labels) == NAMES
    assert [labels[i] for i in range(5)] == NAMES
    assert (labels[-1], labels[3]) == ('Rome', 'Zürich')
    assert 'Oslo' in labels
    assert None in labels
    assert 'Bonn' not in labels
    assert labels.index('Rome') == 1
    assert labels.count('Rome') == 2
    assert list(reversed(labels)) == NAMES[::-1]


def test_index_out_of_range(labels):
    with pytest.raises(IndexError):
        labels[5]


def test_a_slice_is_labels_again(labels):
    assert isinstance(labels[1:3], Labels)
    assert list(labels[1:3]) == ['Rome', None]
    assert list(labels[::-2]) == NAMES[::-2]
    assert len(labels[5:]) == 0


def test_equality_and_hash(labels):
    for other in (Labels(NAMES), NAMES, tuple(NAMES)):
        assert labels == other
        assert other == labels
    assert labels != Labels(NAMES[:4])
    assert labels != NAMES[::-1]
    assert labels != 'Oslo'
    assert labels != 5
    assert hash(labels) == hash(Labels(NAMES)) == hash(tuple(NAMES))
    assert len({labels, Labels(NAMES), Labels([])}) == 2


def test_it_takes_any_iterable_once():
    names = ['a', 'b']
    labels = Labels(names)
    names.append('c')
    assert labels == ['a', 'b']
    assert Labels(str(i) for i in range(3)) == ['0', '1', '2']
    assert Labels(labels) == labels


def test_it_cannot_be_changed(labels):
    with pytest.raises(TypeError):
        labels[0] = 'Bergen'
    with pytest.raises(AttributeError):
        labels.extra = 1


def test_copies_and_pickles(labels):
    for other in (copy.copy(labels), copy.deepcopy(labels), pickle.loads(pickle.dumps(labels))):
        assert isinstance(other, Labels)
        assert other == labels


def test_pyg_leaves_labels_alone(labels):
    data = HeteroData()
    data['entity'].x = torch.randn(5, 2)
    data['entity'].label = labels
    part = data.subgraph({'entity': torch.tensor([0, 2])})
    assert part['entity'].x.size(0) == 2
    assert part['entity'].label == labels
    assert data.clone()['entity'].label == labels
    assert not data['entity'].is_node_attr('label')


def test_labels_repr(labels):
    assert repr(labels) == 'Labels(5)'
