import sys

import numpy as np
import pytest
import torch

from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import (
    EncodeImage,
    EncodeText,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
)

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'entity', 'river', 'town', *'0123456789']


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    hub = pytest.importorskip('huggingface_hub', reason='needs the extra `text`')
    monkeypatch.setattr(hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))


@pytest.fixture
def text_model(tmp_path):
    """A tiny BERT with random weights, and the folder it was saved to."""
    transformers = pytest.importorskip('transformers', reason='needs the extra `text`')
    path = tmp_path / 'bert'
    path.mkdir()
    (path / 'vocab.txt').write_text('\n'.join(WORDS))
    tokenizer = transformers.BertTokenizer(str(path / 'vocab.txt'))
    if len(tokenizer) != len(WORDS):  # Version 5 takes the words themselves.
        tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32)).eval()
    model.save_pretrained(path)
    return path, tokenizer, model


TEXTS = ['river 1', 'town', 'entity 1 2 3 4 5 6', 'river', 'town 9 9']


@torch.no_grad()
def test_text_against_one_by_one(text_model):
    path, tokenizer, model = text_model
    x = HuggingFaceTextEncoder(path, batch_size=2)(TEXTS)
    assert x.shape == (5, 16)
    for row, text in zip(x, TEXTS, strict=True):
        hidden = model(**tokenizer(text, return_tensors='pt')).last_hidden_state[0]
        expected = hidden.mean(dim=0)
        torch.testing.assert_close(row, expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_text_max_length(text_model):
    path, _, _ = text_model
    short = HuggingFaceTextEncoder(path, max_length=4)
    x = short(['river 1 2 3', 'river 1'])
    torch.testing.assert_close(x[0], x[1])
    assert repr(short) == f'HuggingFaceTextEncoder({str(path)!r}, max_length=4)'
    assert short.cache_key != HuggingFaceTextEncoder(path).cache_key
    assert short([]).shape == (0, 16)


def test_text_by_name(text_model, tmp_path):
    path, _, _ = text_model
    data = FakeMMKG(num_entities=16, modalities={})[0]
    transform = EncodeText(f'hf:{path}', cache=tmp_path / 'cache')
    out = transform(data)
    expected = HuggingFaceTextEncoder(path)(data['entity'].label)
    torch.testing.assert_close(out['entity'].text, expected)
    assert repr(transform) == f"EncodeText('hf:{path}', source=['label'], modality='text')"
    assert len(list((tmp_path / 'cache').rglob('*.safetensors'))) == 1


def test_other_weights_have_another_key(text_model):
    path, _, model = text_model
    before = HuggingFaceTextEncoder(path).cache_key
    assert HuggingFaceTextEncoder(path).cache_key == before
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 1
    model.save_pretrained(path)
    assert HuggingFaceTextEncoder(path).cache_key != before


def test_text_from_the_local_cache_of_the_hub(text_model, tmp_path):
    path, _, _ = text_model
    folder = tmp_path / 'hub' / 'models--me--tiny'
    commit = '0' * 40
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text(commit)
    (folder / 'snapshots').mkdir()
    path.rename(folder / 'snapshots' / commit)
    encoder = HuggingFaceTextEncoder('me/tiny')
    assert encoder.path == folder / 'snapshots' / commit
    assert encoder(TEXTS).shape == (5, 16)


@pytest.mark.parametrize('make', [HuggingFaceTextEncoder, HuggingFaceImageEncoder,
                                  lambda name: EncodeText(f'hf:{name}'),
                                  lambda name: EncodeImage(f'hf:{name}')])
@pytest.mark.parametrize('name', ['nobody/nothing', 'no such folder'])
def test_no_such_model(make, name):
    pytest.importorskip('transformers', reason='needs the extra `text`')
    with pytest.raises(OSError, match=f"no model '{name}': neither a folder, nor in the local .* "
                       "Without network: name a folder that holds 'config.json'"):
        make(name)


def test_transformers_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    for encoder in (HuggingFaceTextEncoder, HuggingFaceImageEncoder):
        with pytest.raises(ImportError, match=r"'transformers': pip install \"pyg-mmkgc\[text\]\""):
            encoder(tmp_path)


@pytest.mark.parametrize('encoder,kwargs,match', [
    (HuggingFaceTextEncoder, {'batch_size': 0}, "'batch_size' needs to be positive .got 0"),
    (HuggingFaceTextEncoder, {'max_length': 0}, "'max_length' needs to be positive .got 0"),
    (HuggingFaceImageEncoder, {'batch_size': -1}, "'batch_size' needs to be positive .got -1"),
])
def test_bad_arguments(tmp_path, encoder, kwargs, match):
    with pytest.raises(ValueError, match=match):
        encoder(tmp_path, **kwargs)


@pytest.fixture(params=['vit', 'resnet', 'clip'])
def image_model(request, tmp_path):
    transformers = pytest.importorskip('transformers', reason='needs the extra `text`')
    pytest.importorskip('PIL', reason='needs the extra `image`')
    torch.manual_seed(0)
    size = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
            'intermediate_size': 16}
    if request.param == 'vit':
        model = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=8))
    elif request.param == 'resnet':
        model = transformers.ResNetModel(transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic'))
    else:
        model = transformers.CLIPModel(transformers.CLIPConfig(
            text_config={**size, 'vocab_size': 10}, projection_dim=16,
            vision_config={**size, 'image_size': 32, 'patch_size': 8}))
    model = model.eval()
    model.save_pretrained(tmp_path)
    (tmp_path / 'preprocessor_config.json').write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, '
        '"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    return request.param, tmp_path, model


@torch.no_grad()
def test_image_against_one_by_one(image_model):
    from PIL import Image

    kind, path, model = image_model
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    encoder = HuggingFaceImageEncoder(path, batch_size=2)
    x = encoder([Image.fromarray(array) for array in arrays])
    assert x.shape == (3, 16)
    for row, array in zip(x, arrays, strict=True):
        pixels = torch.from_numpy(array / 127.5 - 1).float().permute(2, 0, 1).unsqueeze(0)
        if kind == 'clip':
            pooled = model.vision_model(pixel_values=pixels).pooler_output
            expected = model.visual_projection(pooled)[0]
        else:
            hidden = model(pixel_values=pixels).last_hidden_state[0]
            expected = hidden.mean(dim=0) if kind == 'vit' else hidden.flatten(1).mean(dim=1)
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-4)
    assert encoder.cache_key == HuggingFaceImageEncoder(path).cache_key
    assert repr(encoder) == f'HuggingFaceImageEncoder({str(path)!r})'

    data = FakeMMKG(num_entities=16, modalities={})[0]
    data['entity'].image_path = [None] * 15 + [str(path / 'x.png')]
    Image.fromarray(arrays[0]).save(path / 'x.png')
    out = EncodeImage(f'hf:{path}')(data)
    torch.testing.assert_close(out['entity'].image[15], x[0])
