r"""Features that stay in their file, of which rows are read as they are asked for."""
import json
import math
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_mmkgc.data.io import PathLike

SAFETENSORS_DTYPES = {'F16': 'float16', 'BF16': 'bfloat16', 'F32': 'float32', 'F64': 'float64'}


class MemoryMapped(Tensor):
    r"""A tensor on the CPU whose numbers stand in a file; what is computed from it is a plain
    tensor in memory.

    It is made by :func:`memory_map`. Models gather the rows of a batch from it before they convert
    them and move them to their device, and never copy it as a whole. Changing it does not change
    the file, and copying it gives the same one, since nothing ought to change it.
    """
    # As `torch.nn.Parameter` does; torch types it as a class method.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> 'MemoryMapped':
        return self


def memory_map(path: PathLike, key: Optional[str] = None) -> MemoryMapped:
    r"""Map a matrix of floating-point numbers from a file into memory, without reading it.

    Args:
        path (str or os.PathLike): A `.npy` or `.safetensors` file.
        key (str, optional): The name of the matrix in a `.safetensors` file.
            (default: the only one)

    Returns:
        MemoryMapped: The matrix :math:`(N, C)`, in the type that the file has.

    Raises:
        ValueError: If the file holds something else.
    """
    path = Path(path)
    if path.suffix == '.npy':
        x = _map_npy(path)
    elif path.suffix == '.safetensors':
        x = _map_safetensors(path, key)
    else:
        raise ValueError(f"{path}: expected a '.npy' or '.safetensors' file")
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f'{path}: expected a matrix of floating-point numbers (got {x.dtype} of '
                         f'shape {list(x.shape)})')
    return torch.Tensor._make_subclass(MemoryMapped, x)


def _map_npy(path: Path) -> Tensor:
    try:
        # Copy on write: tensors know no read-only memory.
        return torch.from_numpy(np.load(path, mmap_mode='c', allow_pickle=False))
    except (ValueError, TypeError, EOFError) as e:
        raise ValueError(f'{path}: expected an array of numbers in C order ({e})') from None


def _map_safetensors(path: Path, key: Optional[str]) -> Tensor:
    size = path.stat().st_size
    try:
        with path.open('rb') as f:
            start = 8 + int.from_bytes(f.read(8), 'little')
            if start > size:
                raise ValueError('the header is longer than the file')
            header = json.loads(f.read(start - 8))
        header = {name: value for name, value in header.items() if name != '__metadata__'}
    except (ValueError, AttributeError) as e:
        raise ValueError(f'{path}: expected a safetensors file ({e})') from None
    if key is None and len(header) == 1:
        key, = header
    if key not in header:
        raise ValueError(f"{path}: expected 'key' to be one of {sorted(header)} (got {key!r})")
    name, shape = header[key]['dtype'], header[key]['shape']
    begin, end = header[key]['data_offsets']
    if name not in SAFETENSORS_DTYPES:
        raise ValueError(f'{path}: expected floating-point numbers (got {name} in {key!r})')
    dtype = getattr(torch, SAFETENSORS_DTYPES[name])
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
        raise ValueError(f'{path}: {key!r} of shape {shape} does not fit into its {end - begin} '
                         f'bytes, or the file is cut off')
    mapped = np.memmap(path, np.uint8, 'c', offset=start + begin, shape=(end - begin, ))
    return torch.from_numpy(mapped).view(dtype).view(shape)
