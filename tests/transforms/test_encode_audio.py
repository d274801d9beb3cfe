import math
import struct
import sys
import wave

import numpy as np
import pytest
import torch

from pyg_mmkgc.testing import FakeMMKG
from pyg_mmkgc.transforms import EncodeAudio, LogMelEncoder, read_audio


def write_pcm(path, samples, rate=16000, width=2):
    """By the standard library; `samples` are integers `[num_samples, num_channels]`."""
    samples = np.asarray(samples)
    with wave.open(str(path), 'wb') as f:
        f.setnchannels(samples.shape[1])
        f.setsampwidth(width)
        f.setframerate(rate)
        if width == 1:
            f.writeframes((samples + 128).astype(np.uint8).tobytes())
        else:
            wide = samples.astype('<i4').reshape(-1, 1).view(np.uint8)
            f.writeframes(wide[:, :width].tobytes())


def riff(layout, data, extra=b'', size=None):
    body = b'WAVE' + extra + b'fmt ' + struct.pack('<I', len(layout)) + layout
    body += b'data' + struct.pack('<I', len(data) if size is None else size) + data
    return b'RIFF' + struct.pack('<I', len(body)) + body


def layout_of(code, channels, rate, bits):
    size = channels * bits // 8
    return struct.pack('<HHIIHH', code, channels, rate, rate * size, size, bits)


def tone(frequency, rate=16000, seconds=0.5):
    return np.sin(2 * math.pi * frequency * np.arange(int(rate * seconds)) / rate)


# Reading #########################################################################################


@pytest.mark.parametrize('width', [1, 2, 3, 4])
def test_pcm(tmp_path, width):
    top = 2**(8 * width - 1)
    levels = [0, top - 1, -top, 1, -1, top // 2, -top // 4]
    write_pcm(tmp_path / 'x.wav', [[level] for level in levels], width=width)
    x = read_audio(tmp_path / 'x.wav', 16000)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x.numpy(), np.array(levels, np.float32) / np.float32(top))


@pytest.mark.parametrize('bits', [32, 64])
@pytest.mark.parametrize('extensible', [False, True])
def test_float(tmp_path, bits, extensible):
    x = tone(440)
    layout = layout_of(0xFFFE if extensible else 3, 1, 16000, bits)
    if extensible:
        layout += struct.pack('<HHIH', 22, bits, 0, 3) + bytes(14)
    # With a chunk of odd length before.
    content = riff(layout, x.astype(f'<f{bits // 8}').tobytes(), b'LIST\x03\x00\x00\x00abc\x00')
    (tmp_path / 'x.wav').write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / 'x.wav', 16000).numpy(),
                                  x.astype(np.float32))


def test_channels_are_averaged(tmp_path):
    write_pcm(tmp_path / 'x.wav', [[16384, 0], [-16384, -16384], [0, 8192]])
    assert read_audio(tmp_path / 'x.wav', 16000).tolist() == [0.25, -0.5, 0.125]


def test_length_unknown_and_last_frame_cut(tmp_path):
    layout = layout_of(1, 2, 16000, 16)
    data = np.array([1, 2, 3, 4, 5], '<i2').tobytes()
    (tmp_path / 'x.wav').write_bytes(riff(layout, data, size=0xFFFFFFFF))
    expected = [1.5 / 2**15, 3.5 / 2**15]
    assert read_audio(tmp_path / 'x.wav', 16000).tolist() == expected


@pytest.mark.parametrize('rate', [8000, 22050, 44100])
def test_resampling_keeps_a_tone(tmp_path, rate):
    write_pcm(tmp_path / 'x.wav', (tone(1000, rate) * 2**14).round()[:, None], rate)
    x = read_audio(tmp_path / 'x.wav', 16000).numpy()
    assert x.size == 8000
    inner = slice(200, -200)  # The filter has its say at the ends.
    np.testing.assert_allclose(x[inner], tone(1000)[inner] / 2, atol=5e-3)


def test_resampling_removes_what_the_rate_cannot_hold(tmp_path):
    write_pcm(tmp_path / 'x.wav', (tone(15000, 44100) * 2**14).round()[:, None], 44100)
    assert float(read_audio(tmp_path / 'x.wav', 16000)[200:-200].abs().max()) < 0.01


GOOD = riff(layout_of(1, 1, 16000, 16), bytes(100))


@pytest.mark.parametrize('content,match', [
    (GOOD[:-10], r"is damaged .chunk b'data' has 90 of 100 bytes"),
    (GOOD[:36], r"is damaged .expected the chunks 'fmt ' and 'data'"),
    (riff(layout_of(1, 1, 16000, 16), b''), 'holds no sound'),
    (riff(layout_of(1, 0, 16000, 16), bytes(8)), 'is damaged .0 channels'),
    (riff(layout_of(3, 1, 16000, 32), struct.pack('<f', math.nan)),
     'is damaged .samples are NaN or infinite'),
])
def test_damaged(tmp_path, content, match):
    path = tmp_path / 'x.wav'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"'{path}' {match}"):
        read_audio(path, 16000)


@pytest.mark.parametrize('suffix', ['flac', 'ogg', 'aiff'])
def test_soundfile(tmp_path, suffix):
    soundfile = pytest.importorskip('soundfile', reason='needs the extra `audio`')
    path = tmp_path / f'x.{suffix}'
    soundfile.write(path, np.stack([tone(440), tone(440) / 2], axis=1), 16000)
    np.testing.assert_allclose(read_audio(path, 16000).numpy(), tone(440) * 0.75, atol=0.02)


def test_no_audio(tmp_path):
    pytest.importorskip('soundfile', reason='needs the extra `audio`')
    (tmp_path / 'x').write_bytes(b'no sound')
    with pytest.raises(ValueError, match="'.*x' is no audio that can be read"):
        read_audio(tmp_path / 'x', 16000)


def test_soundfile_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'soundfile', None)
    # Compressed WAV (ADPCM) is none that is read here.
    (tmp_path / 'x.wav').write_bytes(riff(layout_of(2, 1, 16000, 4), bytes(8)))
    with pytest.raises(ImportError, match=r"x.wav' is no unc.* pip install \"pyg-mmkgc\[audio\]\""):
        read_audio(tmp_path / 'x.wav', 16000)


# Log-mel #########################################################################################


def slow_filters(rate, fft_size, num_mels):
    """Each weight on its own, by interpolation."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edge = [700 * (10**(top * j / (num_mels + 1) / 2595) - 1) for j in range(num_mels + 2)]
    return np.array([[np.interp(k * rate / fft_size, edge[j:j + 3], [0, 1, 0])
                      for j in range(num_mels)] for k in range(fft_size // 2 + 1)])


@pytest.mark.parametrize('rate,num_mels,window,hop', [(16000, 40, 0.025, 0.01),
                                                      (8000, 20, 0.032, 0.016)])
def test_log_mel_against_scipy(rate, num_mels, window, hop):
    signal = pytest.importorskip('scipy.signal')
    x = np.random.default_rng(0).normal(size=rate // 2) * 0.1
    length, step = round(window * rate), round(hop * rate)
    fft_size = 512 if rate == 16000 else 256
    _, _, spectrum = signal.stft(x, rate, window='hann', nperseg=length, noverlap=length - step,
                                 nfft=fft_size, boundary=None, padded=False, detrend=False)
    spectrum = spectrum * signal.get_window('hann', length).sum()  # Its scaling undone.
    energies = (np.abs(spectrum)**2).T @ slow_filters(rate, fft_size, num_mels)

    encoder = LogMelEncoder(rate, num_mels, window, hop)
    waveform = torch.from_numpy(x)
    np.testing.assert_allclose(encoder.energies(waveform).numpy(), energies, rtol=1e-8)
    level = np.log(energies)
    expected = np.concatenate([level.mean(axis=0), level.std(axis=0)])
    out = encoder([waveform, waveform[:1000]])
    assert out.shape == (2, 2 * num_mels)
    np.testing.assert_allclose(out[0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('frequency', [300, 1000, 3000, 7000])
def test_tone_lies_in_its_band(frequency):
    out = LogMelEncoder()([torch.from_numpy(tone(frequency))])[0]
    top = 2595 * math.log10(1 + 8000 / 700)
    mel = 2595 * math.log10(1 + frequency / 700)
    # Centre j lies at (j + 1) / 41 of the scale.
    assert abs(int(out[:40].argmax()) - (mel / top * 41 - 1)) <= 0.6
    assert float(out[40 + int(out[:40].argmax())]) < 0.1  # A tone does not change.


def test_silence_and_short():
    encoder = LogMelEncoder()
    out = encoder([torch.zeros(16000), torch.ones(1)])
    torch.testing.assert_close(out[0, :40], torch.full((40, ), math.log(1e-10)))
    assert out[:, 40:].tolist() == [[0] * 40] * 2
    assert encoder([]).shape == (0, 80)
    # Many frames are no other than few.
    x = torch.from_numpy(np.random.default_rng(0).normal(size=160 * 5000))
    parts = torch.cat([encoder.energies(x[:160 * 2000 + 240]), encoder.energies(x[160 * 2000:])])
    torch.testing.assert_close(encoder.energies(x), parts)


@pytest.mark.parametrize('kwargs,match', [
    ({'sample_rate': 0}, "'sample_rate' needs to be positive .got 0"),
    ({'num_mels': 0}, "'num_mels' needs to be positive .got 0"),
    ({'window': -1}, "'window' needs to be positive .got -1"),
    ({'hop': 0.0}, "'hop' needs to be positive .got 0.0"),
    ({'num_mels': 200}, "'num_mels' is too large for this window: filter 0 of 200"),
])
def test_bad_options(kwargs, match):
    with pytest.raises(ValueError, match=match):
        LogMelEncoder(**kwargs)


# The transform ###################################################################################


@pytest.fixture
def data(tmp_path):
    data = FakeMMKG(num_entities=16, modalities={})[0]
    paths = [None] * 16
    for i, frequency in enumerate([300, 1000, 3000]):
        paths[i + 1] = str(tmp_path / f'{frequency}.wav')
        write_pcm(paths[i + 1], (tone(frequency) * 2**14).round()[:, None])
    data['entity'].audio_path = paths
    return data


def test_encode_audio(data, tmp_path):
    transform = EncodeAudio(cache=tmp_path / 'cache')
    out = transform(data)
    assert out['entity'].audio_mask.tolist() == [False] + [True] * 3 + [False] * 12
    expected = LogMelEncoder()([read_audio(path, 16000)
                                for path in data['entity'].audio_path[1:4]])
    torch.testing.assert_close(out['entity'].audio[1:4], expected)
    assert repr(transform) == ("EncodeAudio('logmel', source='audio_path', modality='audio', "
                               "on_error='raise', sample_rate=16000)")
    # Another rate is another vector.
    other = EncodeAudio(sample_rate=8000, cache=tmp_path / 'cache')(data)
    assert not torch.allclose(other['entity'].audio[1:4], expected)
    assert len(list((tmp_path / 'cache').rglob('*.safetensors'))) == 2
    again = transform(data)
    assert torch.equal(again['entity'].audio, out['entity'].audio)


def test_encode_audio_callable(data):
    def encoder(waveforms):
        return torch.tensor([[len(waveform), waveform.abs().max()] for waveform in waveforms])

    out = EncodeAudio(encoder, modality='sound', sample_rate=4000)(data)
    assert out['entity'].sound[1:4, 0].tolist() == [2000] * 3


def test_encode_audio_errors(data, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown encoder 'hf:x' .* one of \['logmel'\]\)"):
        EncodeAudio('hf:x')
    with pytest.raises(ValueError, match="'sample_rate' needs to be positive .got 0"):
        EncodeAudio(sample_rate=0)
    (tmp_path / '300.wav').write_bytes(GOOD[:-10])
    with pytest.raises(ValueError, match="entity 1 .'entity 1'.: '.*300.wav' is damaged"):
        EncodeAudio()(data)
    assert EncodeAudio(on_error='mask')(data)['entity'].audio_mask.sum() == 2
