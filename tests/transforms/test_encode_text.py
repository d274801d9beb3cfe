import pytest
import torch

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EncodeText, FeatureCache, HashTextEncoder


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


def test_array(data):
    out = EncodeText(lambda texts: lengths(texts).double().numpy())(data)
    assert out['entity'].text.dtype == torch.float32
    assert torch.equal(out['entity'].text, lengths(data['entity'].label))


class Counting:
    """An encoder of its own words: a cache key, and a note of what it was asked."""
    channels = 2

    def __init__(self, cache_key='counting 1', fail_after=None):
        self.cache_key = cache_key
        self.fail_after = fail_after
        self.asked = []
        self.checked = []

    def check(self, texts):
        self.checked += texts

    def __call__(self, texts):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += texts
        return lengths(texts)


class Sharded(EncodeText):
    batch_size, shard_size = 2, 4


def test_cached(data, tmp_path):
    first = Counting()
    out = EncodeText(first, source='description', cache=tmp_path)(data)
    assert first.asked == ['first', 'other']  # Equal texts once.
    assert first.checked == ['first'] + ['other'] * 13
    plain = EncodeText(lengths, source='description')(data)
    second = Counting()
    again = EncodeText(second, source='description', cache=FeatureCache(tmp_path))(data)
    assert second.asked == []
    assert second.checked == first.checked  # A warning does not depend on the cache.
    for other in (out, again):
        assert torch.equal(other['entity'].text, plain['entity'].text)
        assert torch.equal(other['entity'].text_mask, plain['entity'].text_mask)

    other = Counting('counting 2')
    EncodeText(other, source='description', cache=tmp_path)(data)
    assert other.asked == ['first', 'other']
    data['entity'].description = ['first', 'second'] + [None] * 14
    EncodeText(second, source='description', cache=tmp_path)(data)
    assert second.asked == ['second']


@pytest.mark.parametrize('variable', [True, False])
def test_cache_of_the_environment(data, tmp_path, monkeypatch, variable):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.delenv('PYG_MMKGC_CACHE', raising=False)
    if variable:
        monkeypatch.setenv('PYG_MMKGC_CACHE', str(tmp_path / 'named'))
    EncodeText(Counting())(data)
    EncodeText('hash')(data)  # Its vectors depend on all texts.
    assert len(list(tmp_path.rglob('*.safetensors'))) == int(variable)
    assert (tmp_path / 'named').exists() == variable
    assert not (tmp_path / 'home').exists()


def test_interrupted_and_resumed(data, tmp_path):
    labels = list(data['entity'].label)
    with pytest.raises(KeyboardInterrupt):
        Sharded(Counting(fail_after=10), cache=tmp_path)(data)
    rest = Counting()
    out = Sharded(rest, cache=tmp_path)(data)
    assert rest.asked == labels[8:]  # Two shards of four were whole.
    assert torch.equal(out['entity'].text, lengths(labels))


def test_progress_bar_only_if_slow(data, tmp_path, capsys, monkeypatch):
    Sharded(Counting())(data)
    assert capsys.readouterr().err == ''
    monkeypatch.setattr('pyg_mmkgc.transforms.encode_content._DELAY', 0)
    Sharded(Counting())(data)
    assert 'Encoding text: 100%' in capsys.readouterr().err


def test_cached_but_no_text(data, tmp_path):
    data['entity'].description = [None] * 16
    out = EncodeText(Counting(), source='description', cache=tmp_path)(data)
    assert out['entity'].text.shape == (16, 2)
    assert not bool(out['entity'].text_mask.any())


def test_not_finite_is_not_cached(data, tmp_path):
    def broken(texts):
        return torch.full((len(texts), 2), float('nan'))

    broken.cache_key = 'broken'
    with pytest.raises(ValueError, match='NaN or infinite values in 16 rows'):
        EncodeText(broken, cache=tmp_path)(data)
    assert list(tmp_path.rglob('*.safetensors')) == []


def test_sizes_differ(data):
    def growing(texts):
        growing.calls += 1
        return torch.zeros(len(texts), growing.calls)

    growing.calls, growing.cache_key = 0, 'growing'
    with pytest.raises(ValueError, match=r'vectors of one size .got \[1, 2, 3, 4, 5, 6, 7, 8\]'):
        Sharded(growing)(data)


def test_no_text_at_all(data):
    data['entity'].description = [None] * 16
    out = EncodeText(source='description', modality='words')(data)
    assert not bool(out['entity'].words_mask.any())
    assert float(out['entity'].words.abs().sum()) == 0


def test_unknown_encoder():
    with pytest.raises(ValueError, match=r"Unknown encoder 'bert' .* one of \['hash', 'minilm'\], "
                       "or 'hf:' with a name or folder"):
        EncodeText('bert')
    with pytest.raises(ValueError, match='Unknown encoder 3 '):
        EncodeText(3)


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
    with pytest.raises(ValueError, match="'x' needs one item for each of 16 entities .got 1"):
        EncodeText(source='x')(data)
