import pytest

from pyg_mmkgc.data import EDGE
from pyg_mmkgc.datasets import TIVA


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


@pytest.mark.real_data
def test_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(TIVA, root, mirror)
    assert facts.sizes == (11858, 16)
    assert facts.lines == {'train': 20071, 'val': 2000, 'test': 2000}
    assert facts.distinct == {'train': 11652, 'val': 1913, 'test': 1906}
    assert facts.in_train == {'val': 1675, 'test': 1664}
    assert facts.in_val_and_test == 154
    assert facts.unseen == {'val': 316, 'test': 326}
    assert facts.unseen_relations == []
    assert facts.spent == ['val', 'test']


@pytest.mark.real_data
def test_clean_splits_leave_entities_without_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(TIVA, root, mirror, 'clean')
    assert facts.distinct == {'train': 9892, 'val': 182, 'test': 1906}
    assert facts.unseen['test'] == 1867


@pytest.mark.real_data
def test_labels(mirror, root):
    dataset = TIVA(root, mirror=mirror)
    data = dataset[0]
    assert data['entity'].label[:3] == ['freon', 'organic compound', 'physiognomer']
    # By the number in the file, which is not the id.
    assert data[EDGE].label[:3] == ['relation 0', 'relation 1', 'relation 4']
    assert dataset.modalities == ['text']
    assert bool(data['entity'].text_mask.all())
    with pytest.raises(ValueError, match='TIVA has no descriptions'):
        TIVA(root, description='modality')
