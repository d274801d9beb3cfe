r"""Videos of the entities as a modality."""
from typing import Any, List, Union

import torch
from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.cache import FeatureCache
from pyg_mmkgc.transforms.encode_content import EncodeFiles, checked_vectors, resolve_encoder
from pyg_mmkgc.transforms.encode_image import IMAGE_ENCODERS, ImageEncoder
from pyg_mmkgc.transforms.image_encoders import HuggingFaceImageEncoder
from pyg_mmkgc.transforms.read_video import read_frames


class EncodeVideo(EncodeFiles):
    r"""Encodes videos of the entities into one modality with its mask: the mean of the vectors of
    :math:`n` frames, which are spread evenly over the time, see :func:`read_frames`.

    An animated GIF, WebP or PNG and a folder of images are read by Pillow, video files by PyAV.
    An entity with several videos gets the mean of their vectors.

    Args:
        encoder (str or callable, optional): An encoder of images, as in :class:`EncodeImage`;
            it is called with the frames of one video. (default: :obj:`'efficientnet-lite0'`)
        num_frames (int, optional): The number of frames, :math:`n`. (default: :obj:`8`)
        source (str, optional): The attribute of ``data['entity']`` that holds the paths: for each
            entity one, a list of several, or :obj:`None`. (default: :obj:`'video_path'`)
        modality (str, optional): The name of the modality. (default: :obj:`'video'`)
        cache (FeatureCache or str, optional): Where vectors are kept, see :class:`FeatureCache`:
            only those of encoders with a `cache_key`, such as the named ones.
            (default: the folder `$PYG_MMKGC_CACHE` if set, else nowhere)
        on_error (str, optional): What a missing or damaged file means: ``'raise'``, an error, or
            ``'mask'``, that the entity does without it, with a warning in the log.
            (default: :obj:`'raise'`)

    Raises:
        ImportError: If Pillow, PyAV for a video file, or what a named encoder needs, is not
            installed.
        ValueError: If the encoder is unknown or returns another shape, the source is missing, or
            a file is damaged.
        FileNotFoundError: If there is no such file.
    """
    batch_size = 1
    shard_size = 16

    def __init__(self, encoder: Union[str, ImageEncoder] = 'efficientnet-lite0',
                 num_frames: int = 8, source: str = 'video_path', modality: str = 'video',
                 cache: Union[FeatureCache, PathLike, None] = None, on_error: str = 'raise'):
        if num_frames < 1:
            raise ValueError(f"'num_frames' needs to be positive (got {num_frames})")
        function = resolve_encoder(encoder, IMAGE_ENCODERS, HuggingFaceImageEncoder)
        super().__init__(encoder, function, source, modality, cache, on_error)
        self.num_frames = num_frames

    @property
    def reader(self) -> str:
        r"""The version of reading, with the number of frames."""
        return f'video 1 {self.num_frames}'

    def read(self, item: str) -> List[Any]:
        r"""The frames of a video, see :func:`read_frames`."""
        return read_frames(item, self.num_frames)

    def encode(self, contents: List[List[Any]]) -> Tensor:
        r"""The vectors of a batch of videos, ``[n, C]``."""
        return torch.stack([
            checked_vectors(self.encoder, self._encoder(frames), len(frames)).mean(dim=0)
            for frames in contents])

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, num_frames={self.num_frames})'
