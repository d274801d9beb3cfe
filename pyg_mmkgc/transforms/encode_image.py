r"""Images of the entities as a modality."""
import io
from typing import Any, Callable, Sequence, Union

import numpy as np
from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.cache import FeatureCache
from pyg_mmkgc.transforms.encode_content import EncodeFiles, resolve_encoder
from pyg_mmkgc.transforms.image_encoders import EfficientNetLite0Encoder, HuggingFaceImageEncoder

ImageEncoder = Callable[[Sequence[Any]], Tensor]

#: The encoders that have a name.
IMAGE_ENCODERS = {'efficientnet-lite0': EfficientNetLite0Encoder}


class EncodeImage(EncodeFiles):
    r"""Encodes image files of the entities into one modality with its mask.

    Images are read by Pillow: turned as their EXIF data say, transparent parts over white, in
    RGB; of an animation the first frame. An entity with several images gets the mean of their
    vectors.

    Args:
        encoder (str or callable, optional): Takes a list of :math:`n` images
            (:class:`PIL.Image.Image`, at most 16) and returns a tensor or array :math:`(n, C)`;
            or ``'efficientnet-lite0'`` (:class:`EfficientNetLite0Encoder`) or
            ``'hf:<name or folder>'`` (:class:`HuggingFaceImageEncoder`).
            (default: :obj:`'efficientnet-lite0'`)
        source (str, optional): The attribute of ``data['entity']`` that holds the paths: for each
            entity one, a list of several, or :obj:`None`. (default: :obj:`'image_path'`)
        modality (str, optional): The name of the modality. (default: :obj:`'image'`)
        cache (FeatureCache or str, optional): Where vectors are kept, see :class:`FeatureCache`:
            only those of encoders with a `cache_key`, such as the named ones.
            (default: the folder `$PYG_MMKGC_CACHE` if set, else nowhere)
        on_error (str, optional): What a missing or damaged file means: ``'raise'``, an error, or
            ``'mask'``, that the entity does without it, with a warning in the log.
            (default: :obj:`'raise'`)

    Raises:
        ImportError: If Pillow, or what a named encoder needs, is not installed.
        ValueError: If the encoder is unknown or returns another shape, the source is missing, or
            a file is damaged.
        FileNotFoundError: If there is no such file.
    """
    reader = 'image 1'

    def __init__(self, encoder: Union[str, ImageEncoder] = 'efficientnet-lite0',
                 source: str = 'image_path', modality: str = 'image',
                 cache: Union[FeatureCache, PathLike, None] = None, on_error: str = 'raise'):
        function = resolve_encoder(encoder, IMAGE_ENCODERS, HuggingFaceImageEncoder)
        super().__init__(encoder, function, source, modality, cache, on_error)

    def read(self, item: str) -> Any:
        r"""The image of a file, see :func:`read_image`."""
        return read_image(item)


def read_image(path: PathLike) -> Any:
    r"""Read an image (:class:`PIL.Image.Image`) in RGB.

    Args:
        path (str or os.PathLike): The file.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If the file is no image or damaged.
    """
    Image = import_pillow()
    from PIL import ImageOps

    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Damaged files make Pillow raise errors of ten kinds.
        raise ValueError(f"'{path}' is no image that can be read ({error})") from error


def thumbnail(path: PathLike, size: int = 96) -> bytes:
    r"""A small copy of an image, as PNG.

    Args:
        path (str or os.PathLike): The file.
        size (int, optional): The longer side in pixels. (default: :obj:`96`)

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If the file is no image or damaged.
    """
    image, content = read_image(path), io.BytesIO()
    image.thumbnail((size, size))
    image.save(content, 'PNG')
    return content.getvalue()


def to_rgb(image: Any) -> Any:
    r"""An image (:class:`PIL.Image.Image`) in RGB, transparent parts over white, and the 16 bits
    of a grey one as 8.

    Args:
        image (PIL.Image.Image): The image.
    """
    Image = import_pillow()
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    elif image.mode.startswith('I;16'):  # Pillow would clip at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert('RGB')


def import_pillow() -> Any:
    r"""The module :mod:`PIL.Image`.

    Raises:
        ImportError: If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Reading images needs the package 'pillow': "
                          'pip install "pyg-mmkgc[image]"') from error
    return Image
