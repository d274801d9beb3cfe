r"""Sound of the entities as a modality."""
from typing import Callable, Sequence, Union

from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.audio_encoders import LogMelEncoder
from pyg_mmkgc.transforms.cache import FeatureCache
from pyg_mmkgc.transforms.encode_content import EncodeFiles, resolve_encoder
from pyg_mmkgc.transforms.read_audio import read_audio

AudioEncoder = Callable[[Sequence[Tensor]], Tensor]


class EncodeAudio(EncodeFiles):
    r"""Encodes audio files of the entities into one modality with its mask.

    Each file is read, mixed to one channel (the mean of all) and resampled, see
    :func:`read_audio`: WAV without any other package, other formats by `soundfile`. An entity with
    several files gets the mean of their vectors.

    Args:
        encoder (str or callable, optional): Takes a list of :math:`n` waveforms at
            :obj:`sample_rate` (float tensors ``[num_samples]`` between -1 and 1, at most 16) and
            returns a tensor or array :math:`(n, C)`; or ``'logmel'`` (:class:`LogMelEncoder`).
            (default: :obj:`'logmel'`)
        source (str, optional): The attribute of ``data['entity']`` that holds the paths: for each
            entity one, a list of several, or :obj:`None`. (default: :obj:`'audio_path'`)
        modality (str, optional): The name of the modality. (default: :obj:`'audio'`)
        cache (FeatureCache or str, optional): Where vectors are kept, see :class:`FeatureCache`:
            only those of encoders with a `cache_key`, such as the named one.
            (default: the folder `$PYG_MMKGC_CACHE` if set, else nowhere)
        sample_rate (int, optional): Samples per second that the encoder gets.
            (default: :obj:`16000`)
        on_error (str, optional): What a missing or damaged file means: ``'raise'``, an error, or
            ``'mask'``, that the entity does without it, with a warning in the log.
            (default: :obj:`'raise'`)

    Raises:
        ImportError: If `soundfile` is needed and not installed.
        ValueError: If the encoder is unknown or returns another shape, the source is missing, or
            a file is damaged.
        FileNotFoundError: If there is no such file.
    """
    def __init__(self, encoder: Union[str, AudioEncoder] = 'logmel', source: str = 'audio_path',
                 modality: str = 'audio', cache: Union[FeatureCache, PathLike, None] = None,
                 sample_rate: int = 16000, on_error: str = 'raise'):
        if sample_rate < 1:
            raise ValueError(f"'sample_rate' needs to be positive (got {sample_rate})")
        named = {'logmel': lambda: LogMelEncoder(sample_rate)}
        super().__init__(encoder, resolve_encoder(encoder, named), source, modality, cache,
                         on_error)
        self.sample_rate = sample_rate

    @property
    def reader(self) -> str:
        r"""The version of reading, with the rate."""
        return f'audio 1 {self.sample_rate}'

    def read(self, item: str) -> Tensor:
        r"""The waveform of a file, see :func:`read_audio`."""
        return read_audio(item, self.sample_rate)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, sample_rate={self.sample_rate})'
