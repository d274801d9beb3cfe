r"""The state of a training on disk, from which one that was stopped goes on bit for bit.

What has state says so by `state_dict` and `load_state_dict`; whoever composes such things attaches
them to :class:`Checkpoints`. Nothing here knows what they are.
"""
import json
import logging
import os
import random
import re
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Protocol, Set

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import pyg_mmkgc
from pyg_mmkgc.data.io import JSON_KEY, METADATA_KEY, PathLike, atomic_path, checksum, own

try:
    import fcntl
except ImportError:  # Not on Windows.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

FORMAT = 'Checkpoint 1'
#: How many checkpoints are kept: the newest may turn out to be damaged.
NUM_KEPT = 2
#: At the end of an epoch a checkpoint is written after at least so many seconds without one, and
#: so many times the seconds that the last one took.
EPOCH_SECONDS, EPOCH_RATIO = 30, 20
#: Stand in JSON where a tensor, or a mapping, stood.
TENSOR_KEY, ITEMS_KEY = '.tensor', '.items'


class Stateful(Protocol):
    r"""What can be part of a checkpoint: its state is made of mappings, lists, tensors and what
    JSON can hold."""
    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class DamagedCheckpoint(ValueError):
    r"""A file that is no checkpoint any more."""


class StopRequest:
    r"""Whether somebody wants the training to stop; inside its `with` block such a wish waits for
    the end of a step."""
    def __init__(self) -> None:
        self.requested = self.waits = False

    def __enter__(self) -> 'StopRequest':
        self.waits = True
        return self

    def __exit__(self, *args: Any) -> None:
        self.waits = False


class Checkpoints:
    r"""The last two checkpoints of a training, in a folder of their own.

    A checkpoint is one safetensors file: tensors under the names of what they belong to, all else
    as JSON, a checksum over both, and nothing pickled. It is written beside its final name, flushed
    to the disk and renamed, so that what is killed while writing leaves the earlier ones as they
    are; so does a disk that is full, of which a warning tells.

    Args:
        folder (str or os.PathLike, optional): The folder; what is in there is gone on with. None
            keeps nothing. (default: :obj:`None`)
        minutes (float, optional): How often to write one; at the end of an epoch they may follow
            each other faster. None writes one only when a stop is requested.
            (default: :obj:`None`)
        options (Mapping[str, Any], optional): What a checkpoint in the folder must have been made
            with, as JSON can hold it. (default: none)
        stop (StopRequest, optional): Who may want the training to stop. (default: nobody)

    Raises:
        ValueError: If the newest checkpoint is of another format or was made with other options, or
            all of them are damaged.
    """
    def __init__(self, folder: Optional[PathLike] = None, minutes: Optional[float] = None,
                 options: Optional[Mapping[str, Any]] = None, stop: Optional[StopRequest] = None):
        self.folder = None if folder is None else Path(folder)
        self.minutes = minutes
        self.options = json.loads(json.dumps(options or {}))
        self.stop = StopRequest() if stop is None else stop
        #: The processes that train together, of which the first has the folder.
        self.processes: Optional[Any] = None
        self.parts: Dict[str, Stateful] = {}
        self.kept: List[Path] = []
        self._found: Dict[str, Any] = self._newest() or {}
        self._time, self._seconds = time.monotonic(), 0.0

    def attach(self, name: str, part: Stateful) -> None:
        r"""Makes something a part of the checkpoints to come, in the place of what had this name,
        and gives it the state that was found, once."""
        self.parts[name] = part
        state = self._found.pop(name, None)
        if self.processes is not None:
            state = self.processes.same_state(state)
        if state is not None:
            part.load_state_dict(state)

    def __call__(self, epoch_ended: bool = False) -> None:
        r"""To be called between two steps: writes a checkpoint if it is time to.

        Args:
            epoch_ended (bool, optional): Whether an epoch has just ended. (default: :obj:`False`)

        Raises:
            KeyboardInterrupt: If a stop is requested, behind a last checkpoint.
        """
        due = self.folder is not None and self._is_due(epoch_ended)
        stop = self.stop.requested
        if self.processes is not None:  # All do what one of them has to.
            due, stop = self.processes.any(due, stop)
        if (due or stop) and (self.processes is not None or self.folder is not None):
            self.save()
        if stop:
            raise KeyboardInterrupt

    def _is_due(self, epoch_ended: bool) -> bool:
        if self.minutes is None:
            return False
        seconds = 60 * self.minutes
        if epoch_ended:
            seconds = min(seconds, max(EPOCH_SECONDS, EPOCH_RATIO * self._seconds))
        return time.monotonic() - self._time >= seconds

    def save(self) -> None:
        r"""Writes a checkpoint now. If it cannot be written, the earlier ones stay."""
        start = time.monotonic()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if self.folder is None:
            return  # It had a part in the state that another process writes.
        number = 1 + max((int(path.stem) for path in self.kept), default=0)
        path = self.folder / f'{number:06d}.safetensors'
        try:
            save_state({**state, '.options': self.options, '.machine': _machine()}, path)
            self.kept = [*self.kept, path][-NUM_KEPT:]
            self._tidy(self.folder)
        except (OSError, MemoryError) as error:
            logger.warning("No checkpoint was written (%s); training goes on, %s", error,
                           f"the last one is '{self.kept[-1]}'" if self.kept else 'without one')
        self._time = time.monotonic()
        self._seconds = self._time - start

    def latest(self) -> Optional[Dict[str, Any]]:
        r"""The state in the newest checkpoint of this training, if there is one."""
        return load_state(self.kept[-1]) if self.kept else None

    def _newest(self) -> Optional[Dict[str, Any]]:
        paths = [] if self.folder is None else sorted(self.folder.glob('[0-9]*.safetensors'),
                                                      key=lambda path: int(path.stem))
        for i in reversed(range(len(paths))):
            try:
                state = load_state(paths[i])
            except DamagedCheckpoint as error:
                logger.warning('%s; %s', error, f"'{paths[i - 1]}' takes its place" if i > 0 else
                               'there is none before it')
                continue
            _check_options(paths[i], state.pop('.options'), self.options)
            changed = [name for name, value in _machine().items()
                       if state['.machine'].get(name) != value]
            if changed:
                logger.warning("'%s' was written with another %s: results may differ in the last "
                               'digits', paths[i], ', '.join(changed))
            del state['.machine']
            self.kept = paths[max(0, i + 1 - NUM_KEPT):i + 1]
            self._tidy(paths[i].parent)
            return state
        if paths:
            raise ValueError(f"All checkpoints in '{self.folder}' are damaged; without that folder "
                             f'the training starts from its beginning')
        return None

    def _tidy(self, folder: Path) -> None:
        # Older ones, damaged ones, and what a process that was killed had begun to write.
        for path in folder.glob('*.safetensors'):
            if path not in self.kept:
                path.unlink()


class Parts:
    r"""Several things with state as one; their states are loaded in this order.

    Args:
        parts (Mapping[str, Stateful]): The things by name.
    """
    def __init__(self, parts: Mapping[str, Stateful]):
        self.parts = dict(parts)

    def state_dict(self) -> Dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if state.keys() != self.parts.keys():
            raise ValueError(f'The checkpoint holds {list(state)} (expected {list(self.parts)})')
        for name, part in self.parts.items():
            part.load_state_dict(state.pop(name))


class Generators:
    r"""The global generators: those of torch on CPU and on a device, of NumPy and of Python.

    Args:
        device (torch.device): The device.
    """
    def __init__(self, device: torch.device):
        self.device = device

    def state_dict(self) -> Dict[str, Any]:
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (whoever uses it)
        cuda = self.device.type == 'cuda'
        return {'torch': torch.get_rng_state(),
                'cuda': torch.cuda.get_rng_state(self.device) if cuda else None,
                'numpy': [numpy['bit_generator'], numpy['state']['key'].tolist(),
                          numpy['state']['pos'], numpy['has_gauss'], numpy['gauss']],
                'python': random.getstate()}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        torch.set_rng_state(state['torch'])
        if self.device.type == 'cuda' and state['cuda'] is not None:
            torch.cuda.set_rng_state(state['cuda'], self.device)
        name, keys, *rest = state['numpy']
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
        version, numbers, gauss = state['python']
        random.setstate((version, tuple(numbers), gauss))


def save_state(state: Mapping[str, Any], path: PathLike) -> None:
    r"""Write a state into one safetensors file, atomically.

    Args:
        state (Mapping[str, Any]): Mappings (with names or numbers as keys), lists, tensors and what
            JSON can hold; a tuple becomes a list.
        path (str or os.PathLike): The file.

    Raises:
        OSError: If it cannot be written; whatever was there is untouched.
    """
    tensors: Dict[str, Tensor] = {}
    encoded = json.dumps(pack(state, '', tensors))
    storages: Set[Any] = set()
    tensors = {key: own(x.detach().cpu(), storages) for key, x in tensors.items()}
    tensors[JSON_KEY] = torch.frombuffer(bytearray(encoded.encode()), dtype=torch.uint8)
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {METADATA_KEY: f'{FORMAT} {checksum(tensors)}'})
    except SafetensorError as error:
        raise OSError(f"'{path}': {error}") from error


def load_state(path: PathLike) -> Dict[str, Any]:
    r"""Read a state that :func:`save_state` wrote. Nothing is unpickled.

    Args:
        path (str or os.PathLike): The file.

    Raises:
        DamagedCheckpoint: If it is damaged.
        ValueError: If it is of another format.
    """
    try:
        with safe_open(path, framework='pt') as f:
            found, _, stored = (f.metadata() or {}).get(METADATA_KEY, '').rpartition(' ')
            # Copies, since an operator may round otherwise where memory is not aligned.
            tensors = {key: f.get_tensor(key).clone() for key in f.keys()}
    except SafetensorError as error:
        raise DamagedCheckpoint(f"'{path}' is damaged or no safetensors file ({error})") from error
    if re.fullmatch(r'Checkpoint \d+', found) and found != FORMAT:
        raise ValueError(f"'{path}' was written by another version of this package (expected "
                         f'{FORMAT!r}, got {found!r})')
    if found != FORMAT or stored != checksum(tensors):
        raise DamagedCheckpoint(f"'{path}' is damaged (its checksum does not match)")
    return unpack(json.loads(tensors[JSON_KEY].numpy().tobytes()), tensors)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    r"""Turns Ctrl-C and SIGTERM into a request to stop where one is waited for, else (and at the
    second time) into a :class:`KeyboardInterrupt`. A handler of somebody else stays."""
    stop, previous = StopRequest(), {}

    def handle(number: int, frame: Any) -> None:
        if stop.requested or not stop.waits:
            raise KeyboardInterrupt
        stop.requested = True

    if threading.current_thread() is threading.main_thread():
        for number, default in [(signal.SIGINT, signal.default_int_handler),
                                (signal.SIGTERM, signal.SIG_DFL)]:
            if signal.getsignal(number) is default:
                previous[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def lock_folder(path: PathLike) -> Iterator[None]:
    r"""Keeps other processes from training in a folder; the lock ends with the process.

    Args:
        path (str or os.PathLike): The folder.

    Raises:
        ValueError: If another process has it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process is training in '{path}'") from error
        except OSError:
            pass  # Some file systems know no locks.
        yield
    finally:
        os.close(descriptor)


def pack(value: Any, key: str, tensors: Dict[str, Tensor]) -> Any:
    r"""A state as JSON can hold it; its tensors go into :obj:`tensors`."""
    if isinstance(value, Tensor):
        tensors[key] = value
        return {TENSOR_KEY: key}
    if isinstance(value, Mapping):
        return {ITEMS_KEY: [[k, pack(v, f'{key}/{k}', tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [pack(v, f'{key}/{i}', tensors) for i, v in enumerate(value)]
    return value


def unpack(value: Any, tensors: Dict[str, Tensor]) -> Any:
    r"""The state that :func:`pack` took apart."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if isinstance(value, dict):
        if TENSOR_KEY in value:
            return tensors[value[TENSOR_KEY]]
        return {k: unpack(v, tensors) for k, v in value[ITEMS_KEY]}
    return value


def _machine() -> Dict[str, Any]:
    # What the last digits of a result may depend on.
    return {'version of torch': str(torch.__version__),
            'version of pyg_mmkgc': pyg_mmkgc.__version__,
            'number of threads': torch.get_num_threads()}


def _check_options(path: Path, found: Any, expected: Any) -> None:
    found, expected = dict(_leaves(found)), dict(_leaves(expected))
    changed = [f'{key} is {expected.get(key)!r}, was {found.get(key)!r}'
               for key in {**found, **expected} if found.get(key) != expected.get(key)]
    if changed:
        raise ValueError(f"'{path}' was written with other options: {'; '.join(changed)}")


def _leaves(value: Any, key: str = '') -> Iterator[Any]:
    if isinstance(value, dict) and value:
        for k, v in value.items():
            yield from _leaves(v, f'{key}.{k}' if key else k)
    else:
        yield key, value
