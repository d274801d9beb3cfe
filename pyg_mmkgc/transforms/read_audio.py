r"""Audio files as waveforms."""
import math
import struct
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.io import PathLike

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: What a program writes that does not know the length beforehand, to a pipe for example.
_UNKNOWN_LENGTH = 0xFFFFFFFF


def read_audio(path: PathLike, sample_rate: int) -> Tensor:
    r"""Read an audio file as one waveform.

    All channels are averaged. Another rate than :obj:`sample_rate` is resampled by a polyphase
    filter (:func:`scipy.signal.resample_poly`: a low-pass filter by a Kaiser window with
    :math:`\beta = 5`, ratio in lowest terms). WAV files with uncompressed samples (integers of 8,
    16, 24 or 32 bits, floating point of 32 or 64) are read here, all else by `soundfile`.

    Args:
        path (str or os.PathLike): The file.
        sample_rate (int): Samples per second of the result.

    Returns:
        torch.Tensor: The waveform ``[num_samples]``, ``float32``; full scale is from -1 to 1.

    Raises:
        ImportError: If the format needs `soundfile`, which is not installed.
        ValueError: If the file is damaged, empty or no audio.
    """
    content = Path(path).read_bytes()
    samples, rate = _read_wav(path, content) or _read_soundfile(path)
    if samples.size == 0:
        raise ValueError(f"'{path}' holds no sound (expected at least one sample)")
    if not np.isfinite(samples).all():
        raise ValueError(f"'{path}' is damaged (samples are NaN or infinite)")
    waveform = samples.mean(axis=1)  # [num_samples]
    if rate != sample_rate:
        from scipy.signal import resample_poly

        divisor = math.gcd(rate, sample_rate)
        waveform = resample_poly(waveform, sample_rate // divisor, rate // divisor)
    return torch.from_numpy(waveform.astype(np.float32))


def _read_wav(path: PathLike, content: bytes) -> Optional[Tuple[np.ndarray, int]]:
    # Samples [num_samples, num_channels] and rate, or None if it is another format.
    if content[:4] != b'RIFF' or content[8:12] != b'WAVE':
        return None
    layout, data, position = None, None, 12
    while position + 8 <= len(content) and data is None:
        name, size = struct.unpack_from('<4sI', content, position)
        position += 8
        if name == b'data' and size == _UNKNOWN_LENGTH:
            size = len(content) - position
        if position + size > len(content):
            raise ValueError(f"'{path}' is damaged (chunk {name!r} has {len(content) - position} "
                             f'of {size} bytes)')
        if name == b'fmt ':
            layout = content[position:position + size]
        elif name == b'data':
            data = content[position:position + size]
        position += size + size % 2  # Chunks begin at even places.
    if layout is None or len(layout) < 16 or data is None:
        raise ValueError(f"'{path}' is damaged (expected the chunks 'fmt ' and 'data')")
    code, channels, rate, _, _, bits = struct.unpack_from('<HHIIHH', layout)
    if code == _EXTENSIBLE and len(layout) >= 26:
        code, = struct.unpack_from('<H', layout, 24)
    if (code, bits) not in [(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32),
                            (_FLOAT, 64)]:
        return None
    if channels == 0 or rate == 0:
        raise ValueError(f"'{path}' is damaged ({channels} channels, {rate} samples per second)")
    frame = channels * bits // 8
    return _decode(data[:len(data) // frame * frame], code, bits).reshape(-1, channels), rate


def _decode(data: bytes, code: int, bits: int) -> np.ndarray:
    if code == _FLOAT:
        return np.frombuffer(data, f'<f{bits // 8}').astype(np.float64)
    if bits == 8:  # Unsigned, unlike all longer ones.
        return (np.frombuffer(data, np.uint8) - 128.0) / 128
    if bits == 24:  # As the upper bytes of 32.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view('<i4').reshape(-1) / 2.0**31
    return np.frombuffer(data, f'<i{bits // 8}') / 2.0**(bits - 1)


def _read_soundfile(path: PathLike) -> Tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(f"'{path}' is no uncompressed WAV file; other formats need the package "
                          '\'soundfile\': pip install "pyg-mmkgc[audio]"') from error
    try:
        return soundfile.read(str(path), dtype='float64', always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"'{path}' is no audio that can be read ({error})") from error
