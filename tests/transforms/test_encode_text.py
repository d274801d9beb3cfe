import pytest
import torch

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EncodeText, HashTextEncoder


@pytest.fixture
def data():
    data = FakeMMKG(num_entities=16, modalities={})[0]
    data['entity'].description = [None, 'first', ''] + ['other'] * 13
    data['entity'].nickname = [None] * 4 + ['nick'] + [None] * 11
    return data


def lengths(texts):
    return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_callable_and_mask(data):
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return lengths(texts)

    out = EncodeText(encoder, source='description', modality='words')(data)
    assert seen == ['first'] + ['other'] * 13  # Neither None nor the empty text.
    assert out['entity'].words_mask.tolist() == [False, True, False] + [True] * 13
    assert out['entity'].words.tolist() == [[0, 0], [5, 1], [0, 0]] + [[5, 1]] * 13
    assert modality_names(out) == ['words']
    assert modality_names(data) == []  # The input is not changed.


def test_sources_are_joined(data):
    seen = []

    def encoder(texts):
        seen.extend(texts)
        return lengths(texts)

    EncodeText(encoder, source=['label', 'nickname', 'description'])(data)
    assert seen[:5] == ['entity 0', 'entity 1: first', 'entity 2', 'entity 3: other',
                        'entity 4: nick: other']
    assert len(seen) == 16


def test_default_is_the_hash_encoder(data):
    out = EncodeText()(data)
    torch.testing.assert_close(out['entity'].text, HashTextEncoder()(data['entity'].label))
    assert bool(out['entity'].text_mask.all())


def test_repr():
    assert str(EncodeText()) == "EncodeText('hash', source=['label'], modality='text')"


def test_no_text_at_all(data):
    data['entity'].description = [None] * 16
    out = EncodeText(source='description', modality='words')(data)
    assert not bool(out['entity'].words_mask.any())
    assert float(out['entity'].words.abs().sum()) == 0


def test_unknown_encoder():
    with pytest.raises(ValueError, match=r"Unknown encoder 'bert' .* one of \['hash', 'minilm'\]"):
        EncodeText('bert')


@pytest.mark.parametrize('result,found', [
    (torch.ones(16), r'\[16\]'),
    (torch.ones(15, 2), r'\[15, 2\]'),
    ([[1.0]] * 16, 'list'),
])
def test_bad_result(data, result, found):
    with pytest.raises(ValueError, match=rf'return .* shape \[16, channels\] .got {found}'):
        EncodeText(lambda texts: result)(data)


def test_not_finite(data):
    with pytest.raises(ValueError, match="modality 'text' has NaN or infinite values in 16 rows"):
        EncodeText(lambda texts: torch.full((len(texts), 2), float('nan')))(data)


def test_bad_source(data):
    with pytest.raises(ValueError, match=r"no texts 'x' .expected one of \['description', 'label'"):
        EncodeText(source='x')(data)
    data['entity'].x = torch.ones(16)
    with pytest.raises(ValueError, match="no texts 'x'"):
        EncodeText(source='x')(data)
    data['entity'].x = ['a']
    with pytest.raises(ValueError, match="'x' needs one text for each of 16 entities .got 1"):
        EncodeText(source='x')(data)
