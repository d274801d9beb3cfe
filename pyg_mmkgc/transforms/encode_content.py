r"""What the transforms share that fill a modality from texts or files by an encoder."""
import logging
import os
from abc import abstractmethod
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from tqdm import tqdm

from pyg_mmkgc.data.hetero import set_modality
from pyg_mmkgc.data.io import PathLike
from pyg_mmkgc.data.labels import Labels
from pyg_mmkgc.transforms.cache import FeatureCache, content_digest

#: A callable from :math:`n` pieces of content to vectors :math:`(n, C)`.
Encoder = Callable[[Sequence[Any]], Tensor]
#: Names of the hub, or folders, are told from names of encoders by this.
HUGGING_FACE = 'hf:'
_DELAY = 2.0  # Seconds until there is a progress bar.

logger = logging.getLogger(__name__)


def resolve_encoder(encoder: Union[str, Encoder], named: Mapping[str, Callable[[], Encoder]],
                    hugging_face: Optional[Callable[[str], Encoder]] = None) -> Encoder:
    r"""The encoder that an argument stands for.

    Args:
        encoder (str or callable): The argument.
        named (Mapping[str, callable]): What makes each encoder that has a name.
        hugging_face (callable, optional): What makes an encoder from the rest of a name that
            begins with ``'hf:'``. (default: :obj:`None`)

    Raises:
        ValueError: If it is neither callable nor a known name.
    """
    if callable(encoder):
        return encoder
    if isinstance(encoder, str) and encoder in named:
        return named[encoder]()
    if isinstance(encoder, str) and hugging_face and encoder.startswith(HUGGING_FACE):
        return hugging_face(encoder[len(HUGGING_FACE):])
    hub = f", or '{HUGGING_FACE}' with a name or folder" if hugging_face else ''
    raise ValueError(f'Unknown encoder {encoder!r} (expected a callable or one of '
                     f'{sorted(named)}{hub})')


class EncodeContent(BaseTransform):
    r"""The base of transforms that encode content: equal content once, cached, and resumable.

    An encoder with the attribute `cache_key` (a string that tells its options and weights)
    declares that a vector depends on its own content alone; only such vectors are cached. An
    encoder may have a method `check` that is called with all content beforehand.
    """
    #: The encoder is called with at most so many pieces of content at a time.
    batch_size: ClassVar[int] = 16
    #: After so many, vectors are stored.
    shard_size: ClassVar[int] = 64

    def __init__(self, encoder: Union[str, Encoder], encoder_function: Encoder, modality: str,
                 cache: Union[FeatureCache, PathLike, None], on_error: str = 'raise'):
        if on_error not in ('raise', 'mask'):
            raise ValueError(f"'on_error' needs to be 'raise' or 'mask' (got {on_error!r})")
        self.encoder = encoder
        self.modality = modality
        self.cache = FeatureCache.resolve(cache)
        self.on_error = on_error
        self._encoder = encoder_function

    @property
    @abstractmethod
    def reader(self) -> str:
        r"""The version of how content is read; goes into the key of all cached vectors."""

    @abstractmethod
    def contents(self, data: HeteroData) -> List[Sequence[str]]:
        r"""The texts or paths of each entity, none if it lacks the modality."""

    @abstractmethod
    def digest(self, item: str) -> str:
        r"""The SHA-256 of the content that a text or path stands for."""

    def read(self, item: str) -> Any:
        r"""The content that a text or path stands for, as the encoder takes it."""
        return item

    def encode(self, contents: List[Any]) -> Tensor:
        r"""The vectors of a batch of contents ``[n, C]``."""
        return checked_vectors(self.encoder, self._encoder(contents), len(contents))

    def encode_new(self, data: HeteroData, item: str) -> Tensor:
        r"""The vector :math:`(1, C)` of an entity that the graph does not hold.

        Args:
            data (HeteroData): The graph whose entities were encoded.
            item (str): The text or path of the new one.

        Raises:
            ValueError: If a vector may depend on those of others, or the file is damaged.
            FileNotFoundError: If there is no such file.
        """
        if getattr(self._encoder, 'cache_key', None) is None:
            raise ValueError(f"the encoder {self.encoder} has no 'cache_key', so its vectors may "
                             f'depend on each other')
        return self.encode([self.read(item)])

    def forward(self, data: HeteroData) -> HeteroData:
        contents = self.contents(data)
        owner = [i for i, items in enumerate(contents) for _ in items]
        x, present = self.encode_all([item for items in contents for item in items],
                                     lambda i: _name(data, owner[i]))
        index = torch.tensor(owner, dtype=torch.long)[present]
        count = torch.bincount(index, minlength=len(contents))
        # The mean, should an entity have several.
        out = x.new_zeros(len(contents), x.size(1)).index_add_(0, index, x)
        set_modality(data, self.modality, out / count.clamp(min=1).unsqueeze(-1), count > 0)
        return data

    def encode_all(self, items: List[str], name: Callable[[int], str]) -> Tuple[Tensor, Tensor]:
        r"""Encode all items that can be read.

        Args:
            items (List[str]): Texts or paths.
            name (callable): What an error calls the entity that has the item of an index.

        Returns:
            (torch.Tensor, torch.Tensor): Vectors of those that could be read, and
            which these are.
        """
        if hasattr(self._encoder, 'check'):
            self._encoder.check(items)
        key = getattr(self._encoder, 'cache_key', None)
        cache = self.cache if key is not None else None
        key = f'{self.reader} | {key}'
        vectors: Dict[str, Tensor] = {} if cache is None else cache.load(key)
        errors: Dict[int, str] = {}

        def attempt(function: Callable[[str], Any], i: int) -> Any:
            try:
                return function(items[i])
            except (OSError, ValueError) as error:
                errors[i] = f'{name(i)}: {error}'
                if self.on_error == 'raise':
                    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                    raise kind(errors[i]) from error
                return None

        digests = [attempt(self.digest, i) for i in range(len(items))]
        first = {digest: i for i, digest in reversed(list(enumerate(digests)))
                 if digest is not None and digest not in vectors}
        missing = sorted(first.values())
        with tqdm(total=len(missing), desc=f'Encoding {self.modality}', delay=_DELAY) as bar:
            for start in range(0, len(missing), self.shard_size):
                shard = missing[start:start + self.shard_size]
                done: List[str] = []
                for batch in _chunks(shard, self.batch_size):
                    content = {digests[i]: attempt(self.read, i) for i in batch}
                    content = {k: v for k, v in content.items() if v is not None}
                    if content:
                        vectors.update(zip(content, self.encode(list(content.values())),
                                           strict=True))
                        done += content
                    bar.update(len(batch))
                if cache is not None and done:
                    x = self._stack([vectors[digest] for digest in done])
                    if bool(x.isfinite().all()):  # Else `set_modality` names the entity.
                        cache.save(key, done, x)
        present = torch.tensor([digest in vectors for digest in digests], dtype=torch.bool)
        if errors:
            logger.warning('%d of %d files could not be read, and are left out of %r (first: %s)',
                           int((~present).sum()), len(items), self.modality,
                           errors[min(errors)])
        return self._stack([vectors[digest] for digest in digests if digest in vectors]), present

    def _stack(self, vectors: List[Tensor]) -> Tensor:
        sizes = {vector.numel() for vector in vectors}
        if len(sizes) > 1:
            raise ValueError(f'The encoder {self.encoder} needs to return vectors of one size '
                             f'(got {sorted(sizes)} channels)')
        if not vectors:
            return torch.zeros(0, getattr(self._encoder, 'channels', 0))
        return torch.stack(vectors)


class EncodeFiles(EncodeContent):
    r"""The base of transforms that encode files, each entity's one or several."""
    def __init__(self, encoder: Union[str, Encoder], encoder_function: Encoder, source: str,
                 modality: str, cache: Union[FeatureCache, PathLike, None], on_error: str):
        super().__init__(encoder, encoder_function, modality, cache, on_error)
        self.source = source

    def contents(self, data: HeteroData) -> List[Sequence[str]]:
        out: List[Sequence[str]] = []
        for i, value in enumerate(get_column(data, self.source, 'paths')):
            paths = value if isinstance(value, (list, tuple)) else [value] if value else []
            if not all(isinstance(path, (str, os.PathLike)) for path in paths):
                raise ValueError(f"{self.source!r} of {_name(data, i)} needs to be a path, several "
                                 f'or None (got {value!r})')
            out.append([os.fspath(path) for path in paths])
        return out

    def digest(self, item: str) -> str:
        return content_digest(item)

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}({self.encoder!r}, source={self.source!r}, '
                f'modality={self.modality!r}, on_error={self.on_error!r})')


def get_column(data: HeteroData, key: str, what: str) -> Sequence[Any]:
    r"""The texts or paths of the entities, checked.

    Args:
        data (HeteroData): The graph.
        key (str): The attribute of ``data['entity']``.
        what (str): What it holds, for errors.

    Raises:
        ValueError: If it is missing, no list, or has not one item for each entity.
    """
    store = data['entity']
    if key not in store or isinstance(store[key], (Tensor, str)):
        keys = sorted(k for k, value in store.items() if isinstance(value, (Labels, list, tuple)))
        raise ValueError(f"data['entity'] has no {what} {key!r} (expected one of {keys})")
    if len(store[key]) != store.num_nodes:
        raise ValueError(f'{key!r} needs one item for each of {store.num_nodes} entities '
                         f'(got {len(store[key])})')
    return store[key]


def checked_vectors(encoder: Any, x: Any, num_items: int) -> Tensor:
    r"""What an encoder has returned, as a float tensor on the CPU.

    Args:
        encoder (Any): The encoder, for the error.
        x (Any): What it has returned: a tensor or an array.
        num_items (int): How many vectors there should be.

    Raises:
        ValueError: If it is anything but vectors ``[num_items, C]``.
    """
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor) or x.dim() != 2 or len(x) != num_items:
        found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f'The encoder {encoder} needs to return a tensor of shape '
                         f'[{num_items}, channels] (got {found})')
    return x.detach().float().cpu()


def _name(data: HeteroData, i: int) -> str:
    store = data['entity']
    return f'entity {i} ({store.label[i]!r})' if 'label' in store else f'entity {i}'


def _chunks(items: List[int], size: int) -> List[List[int]]:
    return [items[start:start + size] for start in range(0, len(items), size)]
