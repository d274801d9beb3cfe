r"""Memory: to keep what is needed again, and what to lower where it does not suffice."""
import ctypes
import re
import sys
from contextlib import contextmanager
from typing import Iterator

import torch

#: How a `RuntimeError` of torch or of a library below it says so.
PATTERN = re.compile(r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.I)

#: Parameters of `mallopt`, the values for as long as memory is kept, and those of afterwards: the
#: largest that the C library would have chosen itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEEPING = {TRIM_THRESHOLD: 2**31 - 1, MMAP_THRESHOLD: 2**30}
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_THRESHOLD: 2**25}
_keeping = 0


class OutOfMemoryError(MemoryError):
    r"""Memory does not suffice; the message says what to lower."""


@contextmanager
def keeping_memory() -> Iterator[None]:
    r"""Lets the GNU C library keep what is freed for the next tensor, where it would ask the kernel
    for fresh pages, and have them cleared, for each tensor above 32 MB: a third of a step over
    15,000 entities of 1,000 channels. What can be is given back at the end. Does nothing to other C
    libraries, nor to the memory of a GPU; may be nested.
    """
    global _keeping
    libc = ctypes.CDLL(None) if sys.platform == 'linux' else None
    if libc is None or not hasattr(libc, 'mallopt') or not hasattr(libc, 'malloc_trim'):
        yield
        return
    _keeping += 1
    for name, value in KEEPING.items():
        libc.mallopt(name, value)
    try:
        yield
    finally:
        _keeping -= 1
        if _keeping == 0:
            for name, value in USUAL.items():
                libc.mallopt(name, value)
            libc.malloc_trim(0)


@contextmanager
def explain_out_of_memory(doing: str, advice: str) -> Iterator[None]:
    r"""Turns what Python, torch and its devices raise where memory does not suffice into one error,
    which is a :class:`MemoryError`. One that has been explained further inside stays as it is.

    Args:
        doing (str): What it does not suffice for.
        advice (str): What to do about it.

    Raises:
        OutOfMemoryError: If memory does not suffice.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f'out of memory while {doing}; {advice}') from error


def is_out_of_memory(error: BaseException) -> bool:
    r"""Whether an error says that memory does not suffice, on whatever device."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and PATTERN.search(str(error)) is not None)
