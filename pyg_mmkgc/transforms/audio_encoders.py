r"""Encoders of sound: callables from waveforms to a tensor with one row each."""
from typing import Sequence

import torch
from torch import Tensor

#: The energy at which the logarithm is cut off, far below what 16 bits can hold.
FLOOR = 1e-10


class LogMelEncoder:
    r"""Mean and standard deviation over time of the log-mel energies of a sound.

    With waveform :math:`x`, periodic Hann window :math:`w_n = \frac12 - \frac12 \cos(2 \pi n / L)`
    of :math:`L` samples, hop :math:`H`, and the next power of two :math:`F \ge L`, frame
    :math:`t` has the energies

    .. math::
        E_{t,j} = \sum_{k=0}^{F/2} H_j(k f_s / F) \left| \sum_{n=0}^{L-1} w_n \, x_{tH + n} \,
        e^{-2 \pi i k n / F} \right|^2

    in :math:`M` triangular filters :math:`H_j` that rise linearly (in Hz) from 0 at :math:`f_{j-1}`
    to 1 at :math:`f_j` and fall to 0 at :math:`f_{j+1}`, where :math:`f_0, \dots, f_{M+1}` are
    equally far apart, from 0 Hz to :math:`f_s / 2`, in mel: :math:`2595 \log_{10}(1 + f/700)`. The
    vector of a sound is the mean over :math:`t` of :math:`\ln \max(E_{t,j}, 10^{-10})`, for each
    :math:`j`, followed by its (population) standard deviation.

    There is no padding at the ends, except that a sound shorter than one window is filled up with
    zeros to one. What follows the last whole frame is left out.

    Args:
        sample_rate (int, optional): Samples per second, :math:`f_s`. (default: :obj:`16000`)
        num_mels (int, optional): The number of filters, :math:`M`. (default: :obj:`40`)
        window (float, optional): Length of a frame in seconds. (default: :obj:`0.025`)
        hop (float, optional): Time from frame to frame in seconds. (default: :obj:`0.01`)

    Shapes:
        - **input:** :math:`n` waveforms, each ``[num_samples]``
        - **output:** vectors :math:`(n, 2 M)`

    Raises:
        ValueError: If an argument is not positive, or there are more filters than the
            frequencies of a frame can fill.
    """
    def __init__(self, sample_rate: int = 16000, num_mels: int = 40, window: float = 0.025,
                 hop: float = 0.01):
        for argument, value in [('sample_rate', sample_rate), ('num_mels', num_mels),
                                ('window', window), ('hop', hop)]:
            if value <= 0:
                raise ValueError(f'{argument!r} needs to be positive (got {value})')
        self.sample_rate = sample_rate
        self.num_mels = num_mels
        self.window = window
        self.hop = hop
        self.channels = 2 * num_mels
        self._length = max(1, round(window * sample_rate))
        self._step = max(1, round(hop * sample_rate))
        self._fft_size = 1 << (self._length - 1).bit_length()
        self._window = torch.hann_window(self._length, periodic=True, dtype=torch.float64)
        self._filters = mel_filters(sample_rate, self._fft_size, num_mels)

    @property
    def cache_key(self) -> str:
        r"""All options."""
        return f'{self!r} 1'

    def __call__(self, waveforms: Sequence[Tensor]) -> Tensor:
        if len(waveforms) == 0:
            return torch.zeros(0, self.channels)
        return torch.stack([self._encode(waveform) for waveform in waveforms])

    def energies(self, waveform: Tensor) -> Tensor:
        r"""The energies of each frame in each filter, ``[num_frames, num_mels]``.

        Args:
            waveform (torch.Tensor): The sound, ``[num_samples]``.
        """
        missing = max(0, self._length - waveform.numel())
        x = torch.nn.functional.pad(waveform.double(), (0, missing))
        frames = x.unfold(0, self._length, self._step)  # [num_frames, length]
        # In parts, so that an hour of sound does not need gigabytes.
        return torch.cat([self._filtered(part) for part in frames.split(4096)])

    def _filtered(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self._window, n=self._fft_size)  # [n, fft_size / 2 + 1]
        return spectrum.abs().square() @ self._filters

    def _encode(self, waveform: Tensor) -> Tensor:
        level = self.energies(waveform).clamp(min=FLOOR).log()
        return torch.cat([level.mean(dim=0), level.std(dim=0, correction=0)]).float()

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.sample_rate}, num_mels={self.num_mels}, '
                f'window={self.window}, hop={self.hop})')


def mel_filters(sample_rate: int, fft_size: int, num_mels: int) -> Tensor:
    r"""The triangular filters of :class:`LogMelEncoder`, ``[fft_size // 2 + 1, num_mels]``.

    Args:
        sample_rate (int): Samples per second.
        fft_size (int): Size of the Fourier transform.
        num_mels (int): The number of filters.

    Raises:
        ValueError: If a filter lies between two frequencies of the transform.
    """
    top = torch.tensor(sample_rate / 2, dtype=torch.float64)
    mel = torch.linspace(0, 1, num_mels + 2, dtype=torch.float64) * (1 + top / 700).log10()
    edge = 700 * (10**mel - 1)  # [num_mels + 2], in Hz.
    frequency = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * sample_rate / fft_size
    rising = (frequency.unsqueeze(-1) - edge[:-2]) / (edge[1:-1] - edge[:-2])
    falling = (edge[2:] - frequency.unsqueeze(-1)) / (edge[2:] - edge[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    empty = (filters.sum(dim=0) == 0).nonzero().view(-1).tolist()
    if empty:
        raise ValueError(f"'num_mels' is too large for this window: filter {empty[0]} of {num_mels}"
                         f' lies between two frequencies (expected fewer filters, or a longer '
                         f'window than {fft_size} samples)')
    return filters
