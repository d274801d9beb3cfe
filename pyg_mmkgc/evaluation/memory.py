r"""What to lower where memory does not suffice."""
import re
from contextlib import contextmanager
from typing import Iterator

import torch

#: How a `RuntimeError` of torch or of a library below it says so.
PATTERN = re.compile(r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.I)


class OutOfMemoryError(MemoryError):
    r"""Memory does not suffice; the message says what to lower."""


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
