r"""Encoded content on disk: what was encoded once is never encoded again."""
import hashlib
import logging
import os
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyg_mmkgc.data.io import PathLike, atomic_path, checksum

#: What stands in the metadata of each shard, followed by a checksum.
METADATA_KEY = 'pyg_mmkgc'
FORMAT = 'FeatureShard 1'
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


class FeatureCache:
    r"""A folder of vectors, found by what was encoded (its SHA-256) and by what encoded it.

    An encoder takes part if it has the attribute `cache_key`: a string that tells its class,
    options and weights from any other, and declares that a vector depends on its own content
    alone. A bare function has none, unless it is given one (``encoder.cache_key = 'mine 1'``).

    Each encoder has a folder of its own, named by the hash of its key, with shards that
    are written whole or not at all: an interrupted encoding goes on where it was, and several
    processes may fill the same folder. A shard with a wrong checksum is removed, with a warning,
    and what it held is encoded again. Nothing is ever unpickled. The folder may be deleted at any
    time.

    Args:
        folder (str or os.PathLike, optional): The folder; it is made when the first vector is
            stored. (default: `$PYG_MMKGC_CACHE`, else `~/.cache/pyg_mmkgc`)
    """
    def __init__(self, folder: Optional[PathLike] = None):
        folder = folder or os.environ.get('PYG_MMKGC_CACHE') or '~/.cache/pyg_mmkgc'
        self.folder = Path(folder).expanduser()

    @classmethod
    def resolve(cls, cache: Union['FeatureCache', PathLike, None]) -> Optional['FeatureCache']:
        r"""The cache that an argument stands for: a cache itself, a folder, or :obj:`None`, which
        means `$PYG_MMKGC_CACHE` where that is set, and else no cache: without being asked,
        nothing is written into the home directory."""
        if isinstance(cache, FeatureCache):
            return cache
        if cache is None and not os.environ.get('PYG_MMKGC_CACHE'):
            return None
        return cls(cache)

    def load(self, key: str) -> Dict[str, Tensor]:
        r"""All vectors of one encoder.

        Args:
            key (str): What tells the encoder, its options and its weights from any other.

        Returns:
            Dict[str, torch.Tensor]: For each SHA-256 of encoded content a vector ``[C]``.

        Raises:
            ValueError: If vectors of different sizes were stored for one encoder.
        """
        out: Dict[str, Tensor] = {}
        channels = set()
        # What begins with a dot is being written, perhaps by another process.
        for path in sorted(self._folder(key).glob('[!.]*.safetensors')):
            try:
                digests, x = _read(path)
            # Another process has found it damaged, and removed it (while open: a `RuntimeError`).
            except (FileNotFoundError, RuntimeError):
                continue
            except ValueError as error:
                logger.warning('%s; what it held is encoded again', error)
                path.unlink(missing_ok=True)
                continue
            channels.add(x.size(1))
            out.update(zip(digests, x, strict=True))
        if len(channels) > 1:
            raise ValueError(f"The cache '{self._folder(key)}' holds vectors of {sorted(channels)} "
                             f'channels for one encoder, {key!r} (expected one size: an encoder '
                             f"that changes needs another 'cache_key')")
        return out

    def save(self, key: str, digests: Sequence[str], x: Tensor) -> None:
        r"""Store vectors as one shard.

        Args:
            key (str): See :meth:`load`.
            digests (Sequence[str]): The SHA-256 of each content, in hexadecimal digits.
            x (torch.Tensor): One vector each, ``[n, C]``.
        """
        tensors = {
            'digest': torch.frombuffer(bytearray.fromhex(''.join(digests)), dtype=torch.uint8),
            'x': x.detach().cpu().float().contiguous(),
        }
        # Equal content gets an equal name, so that two processes do not store it twice.
        name = hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]
        with atomic_path(self._folder(key) / f'{name}.safetensors') as temporary:
            save_file(tensors, temporary, {METADATA_KEY: f'{FORMAT} {checksum(tensors)}'})

    def _folder(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({str(self.folder)!r})'


def content_digest(path: PathLike) -> str:
    r"""The SHA-256 of a file's bytes or of a folder's files with their names, in hexadecimal
    digits. Neither path nor date counts.

    Args:
        path (str or os.PathLike): The file or folder.

    Raises:
        FileNotFoundError: If there is neither.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob('*') if p.is_file()):
            name = file.relative_to(path).as_posix()
            digest.update(f'{content_digest(file)} {name}\n'.encode('utf-8', 'surrogateescape'))
        return digest.hexdigest()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    with open(path, 'rb') as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path) -> Tuple[List[str], Tensor]:
    damaged = f"The cached features '{path}' are damaged"
    try:
        with safe_open(path, framework='pt') as f:
            found = (f.metadata() or {}).get(METADATA_KEY)
            tensors = {key: f.get_tensor(key) for key in f.keys()}
    except SafetensorError as error:
        raise ValueError(f'{damaged} ({error})') from error
    if found != f'{FORMAT} {checksum(tensors)}':
        raise ValueError(f'{damaged} (their checksum does not match)')
    raw = tensors['digest'].numpy().tobytes().hex()
    return [raw[i:i + 64] for i in range(0, len(raw), 64)], tensors['x']
