import warnings

import pytest
import torch

from pyg_mmkgc.data import EDGE
from pyg_mmkgc.datasets import KVC16K


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('root')


def ones(texts):
    return torch.ones(len(texts), 2)


@pytest.mark.real_data
def test_structure(mirror, root, benchmark_facts):
    facts = benchmark_facts(KVC16K, root, mirror)
    assert facts.sizes == (16015, 4)
    assert facts.lines == {'train': 180190, 'val': 22523, 'test': 22525}
    assert facts.distinct == {'train': 180019, 'val': 22520, 'test': 22523}
    assert facts.in_train == {'val': 30, 'test': 48}
    assert facts.in_val_and_test == 5
    assert facts.unseen == {'val': 5, 'test': 13}
    assert facts.unseen_relations == []
    assert facts.spent == []


@pytest.mark.real_data
def test_labels(mirror, root):
    dataset = KVC16K(root, mirror=mirror)
    data = dataset[0]
    assert data['entity'].label[1] == '厦门大学'  # Xiamen University.
    assert data[EDGE].label == ['relation 0', 'relation 1', 'relation 2', 'relation 3']
    x = data['entity'].text
    assert int((x == 0).all(dim=1).sum()) < 20  # The default encoder reads Chinese.
    index = {label: i for i, label in enumerate(data['entity'].label)}
    phone, other, food = (x[index[name]] for name in ['iPhone_8', 'iPhone_7', '红烧茄子'])
    assert float(phone @ other) > 0.5 > float(phone @ food)


@pytest.mark.real_data
def test_hint_which_encoder_reads_chinese(mirror, tmp_path, monkeypatch):
    # The real one takes minutes; it is the name that matters.
    monkeypatch.setitem(__import__('pyg_mmkgc.transforms.encode_text', fromlist=['']).ENCODERS,
                        'minilm', lambda: ones)
    with pytest.warns(UserWarning, match="KVC16K: the encoder 'minilm' does not read the language "
                      "of the labels; use encoder='hash', which reads any script, or a multi"):
        KVC16K(tmp_path, mirror=mirror, encoder='minilm')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert KVC16K(tmp_path, mirror=mirror, encoder=ones)[0]['entity'].text.shape == (16015, 2)


@pytest.mark.real_data
def test_released_under_its_first_name(mirror, tmp_path):
    raw = tmp_path / 'kvc16k' / 'raw'
    raw.mkdir(parents=True)
    torch.save(torch.rand(16015, 4), raw / 'Kuai16K-audio.pth')
    torch.save(torch.rand(16015, 4), raw / 'KVC16K-video.pth')
    dataset = KVC16K(tmp_path, mirror=mirror, features='released')
    assert dataset.modalities == ['audio', 'video']
