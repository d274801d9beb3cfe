r"""Files that are whole or absent: atomic writing, and graphs as one safetensors file.

Nothing here ever unpickles. A file is written beside its final name, flushed to the disk and
renamed, so that neither a crash nor a second process can leave or see half of it.
"""
import errno
import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Set, Tuple, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_mmkgc.data.labels import Labels

#: What :func:`save_data` writes into the metadata, followed by a checksum. It is one entry, since
#: safetensors writes several in random order, and equal graphs shall give equal files.
METADATA_KEY = 'pyg_mmkgc'
FORMAT = 'HeteroData 1'
#: The tensor of bytes that holds all that is no tensor, as JSON. It is not kept in the header of
#: the file, which safetensors limits to 100 MB.
JSON_KEY = '.json'
#: Stands in JSON where :class:`Labels` stood.
LABELS_KEY = '.labels'

#: How :func:`atomic_path` names what is not complete yet.
TEMPORARY = re.compile(r'\..+\.\d+-[0-9a-f]{8}(\.\w+)?')

PathLike = Union[str, 'os.PathLike[str]']


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    r"""A temporary name in the folder of :obj:`path` that takes its place on success.

    For writers that want a name rather than an open file; the suffix is kept, since some infer
    the format from it. On any exception (Ctrl-C included) the temporary file is removed and
    whatever stood at :obj:`path` is untouched.

    Args:
        path (str or os.PathLike): The final name; missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}')
    # Made here so that the process's umask gives the permissions: some writers use 0600.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        permissions = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, permissions)
        with open(temporary, 'rb+') as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    r"""A temporary folder that takes the place of :obj:`path` on success, whole or not at all.

    Args:
        path (str or os.PathLike): The final name; missing folders above it are made.

    Raises:
        FileExistsError: If there is something of that name that is no empty folder.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise FileExistsError(f"'{path}' exists and is not overwritten (expected a new or an empty "
                              f'folder)')
    path = path.absolute()  # Else '.' has no name.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}-{secrets.token_hex(4)}')
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            with open(file, 'rb+') as f:
                os.fsync(f.fileno())
        _sync_folder(temporary)
        os.rename(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(f"'{path}' exists by now and is not overwritten") from error
        raise


def remove_temporaries(folder: PathLike) -> None:
    r"""Removes what processes that were killed had begun to write, by :func:`atomic_path` and
    :func:`atomic_folder`.

    Args:
        folder (str or os.PathLike): A folder into which nobody else is writing.
    """
    for path in Path(folder).iterdir():
        if TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync_folder(path: Path) -> None:
    # Else the new name may be lost with the power. Windows opens no folders, and some file systems
    # flush none.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_write(path: PathLike, mode: str = 'w') -> Iterator[IO[Any]]:
    r"""Open :obj:`path` for writing such that it appears whole or not at all.

    Args:
        path (str or os.PathLike): The final name; missing folders are made and an existing file
            is replaced at the end.
        mode (str, optional): ``'w'`` for UTF-8 text with ``\n`` line ends or ``'wb'`` for bytes.
            (default: :obj:`'w'`)

    Raises:
        ValueError: If :obj:`mode` is neither.
    """
    if mode not in ('w', 'wb'):
        raise ValueError(f"'mode' needs to be 'w' or 'wb' (got {mode!r})")
    text: Dict[str, Any] = {'encoding': 'utf-8', 'newline': '\n'} if mode == 'w' else {}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as f:
        yield f


def save_data(data: HeteroData, path: PathLike) -> None:
    r"""Write a graph into one safetensors file, atomically.

    Tensors are stored as they are; everything else (labels, counts, protocol) as JSON, with a
    checksum over both.

    Args:
        data (HeteroData): The graph. Attributes are tensors or what JSON can hold.
        path (str or os.PathLike): The file.

    Raises:
        ValueError: If an attribute is neither a dense tensor nor survives JSON unchanged (a
            tuple or a set, say).
    """
    tensors: Dict[str, Tensor] = {}
    stores: List[Dict[str, Any]] = []
    storages: Set[int] = set()
    for kind, name, store in _stores(data):
        values: Dict[str, Any] = {}
        keys: List[str] = []  # In the order of the store, tensors and values alike.
        for key, value in store.items():
            keys.append(key)
            if isinstance(value, Tensor):
                if value.layout != torch.strided:
                    raise ValueError(f'Attribute {key!r} of {name!r} cannot be saved '
                                     f'(expected a dense tensor, got {value.layout})')
                tensors[_tensor_key(len(stores), key)] = own(value.detach().cpu(), storages)
            else:
                _check_json(name, key, value)
                values[key] = value
        stores.append({'kind': kind, 'name': name, 'keys': keys, 'values': values})

    encoded = json.dumps(stores, ensure_ascii=False, default=_encode)
    tensors[JSON_KEY] = torch.frombuffer(
        bytearray(encoded.encode('utf-8', 'surrogatepass')), dtype=torch.uint8)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: f'{FORMAT} {checksum(tensors)}'})


def write_tensors(path: PathLike, tensors: Dict[str, Tensor], file_format: str) -> None:
    r"""Write tensors into one safetensors file, atomically, with a checksum.

    Args:
        path (str or os.PathLike): The file.
        tensors (Dict[str, torch.Tensor]): Contiguous tensors on CPU that share no memory.
        file_format (str): What they are, and the version of that.
    """
    # As bytes first, so that a full disk is an `OSError` that says so.
    content = save(tensors, {METADATA_KEY: f'{file_format} {checksum(tensors)}'})
    with atomic_write(path, 'wb') as f:
        f.write(content)


def read_tensors(path: PathLike, file_format: str, what: str) -> Dict[str, Tensor]:
    r"""Read what :func:`write_tensors` wrote. Nothing is unpickled.

    Args:
        path (str or os.PathLike): The file.
        file_format (str): What was written.
        what (str): The same for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'")
    try:
        with safe_open(path, framework='pt') as f:
            found, _, stored = (f.metadata() or {}).get(METADATA_KEY, '').rpartition(' ')
            if found != file_format:
                raise ValueError(f"'{path}' {what} (expected {file_format!r}, got {found!r})")
            tensors = {key: f.get_tensor(key) for key in f.keys()}
    except SafetensorError as error:
        raise ValueError(f"'{path}' is damaged or no safetensors file ({error})") from error
    if stored != checksum(tensors):
        raise ValueError(f"'{path}' is damaged (its checksum does not match)")
    return tensors


def load_data(path: PathLike) -> HeteroData:
    r"""Read a graph that :func:`save_data` wrote. Nothing is unpickled.

    Args:
        path (str or os.PathLike): The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or was not written by :func:`save_data`.
    """
    tensors = read_tensors(path, FORMAT, "was not written by this version of 'save_data'")
    if JSON_KEY not in tensors:
        raise ValueError(f"'{path}' is damaged (it lacks {JSON_KEY!r})")

    data = HeteroData()
    stores = json.loads(tensors[JSON_KEY].numpy().tobytes().decode('utf-8', 'surrogatepass'))
    for i, item in enumerate(stores):
        if item['kind'] == 'global':
            store = data._global_store
        else:
            store = data[item['name'] if item['kind'] == 'node' else tuple(item['name'])]
        for key in item['keys']:
            store[key] = (_decode(item['values'][key]) if key in item['values'] else
                          tensors[_tensor_key(i, key)])
    return data


def _stores(data: HeteroData) -> Iterator[Tuple[str, Union[str, List[str]], Any]]:
    yield 'global', '', data._global_store
    for node_type, store in zip(data.node_types, data.node_stores, strict=True):
        yield 'node', node_type, store
    for edge_type, store in zip(data.edge_types, data.edge_stores, strict=True):
        yield 'edge', list(edge_type), store


def check_archive(path: PathLike) -> None:
    r"""Raise before a zip archive (`.npz`) is unpacked that memory would not hold.

    Args:
        path (str or os.PathLike): The file; what is no zip archive is left to its reader.

    Raises:
        ValueError: If it says to be larger than all memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # No reader takes more of a member than its header says.
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return
    if size > memory_size():
        raise ValueError(f'{path}: unpacks to {size} bytes (expected no more than memory holds, '
                         f'{memory_size()})')


def memory_size() -> int:
    r"""The size of the machine's memory in bytes; that of any address where it is unknown."""
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return 2**63 - 1


def own(x: Tensor, storages: Set[int]) -> Tensor:
    r"""A tensor as safetensors takes it, which refuses gaps and two views of one storage; copied
    only where it must be. :obj:`storages` holds those that were seen."""
    storage = x.untyped_storage()
    whole = x.is_contiguous() and storage.nbytes() == x.numel() * x.element_size()
    if not whole or storage.data_ptr() in storages:
        return x.clone(memory_format=torch.contiguous_format)
    storages.add(storage.data_ptr())
    return x


def _tensor_key(index: int, key: str) -> str:
    return f'{index}/{key}'


def _check_json(name: Union[str, List[str]], key: str, value: Any) -> None:
    try:
        same = _decode(json.loads(json.dumps(value, default=_encode))) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(f'Attribute {key!r} of {name!r} cannot be saved (expected a tensor or '
                         f'what JSON can hold, got {type(value).__name__})')


def _encode(value: Any) -> Dict[str, List[Optional[str]]]:
    if isinstance(value, Labels):
        return {LABELS_KEY: list(value)}
    raise TypeError(f'{type(value).__name__} is not JSON')


def _decode(value: Any) -> Any:
    return Labels(value[LABELS_KEY]) if isinstance(value, dict) and LABELS_KEY in value else value


def checksum(tensors: Dict[str, Tensor]) -> str:
    r"""A CRC-32 over tensors on CPU, their names, dtypes and shapes, as eight hexadecimal digits.
    It guards against damage, not against malice."""
    value = 0
    for key in sorted(tensors):
        tensor = tensors[key]
        value = zlib.crc32(f'{key}{tensor.dtype}{list(tensor.shape)}'.encode(), value)
        if tensor.numel() > 0:
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f'{value:08x}'
