"""Memory of large results, kept for the next one.

The C library hands blocks of 32 MB and more, and some smaller ones, back to the system as soon as they are
free, and the system clears the pages of the next: at 16 384 tokens of 8 heads of 64 that takes a quarter of a
pass's time.
"""

import mmap
import weakref
from collections.abc import Sequence
from functools import cache
from math import prod

import torch
from torch import Tensor

# Bytes from which a block is kept, and of all that wait here at most.
LARGE = 1 << 20
MOST = 128 << 20
# The largest block that the C library keeps if it is asked to.
LARGEST = 31 << 20

_waiting: list[mmap.mmap] = []


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of whatever stands in memory, on the CPU."""
    bytes = prod(shape) * dtype.itemsize
    if bytes < LARGE:
        return torch.empty(shape, dtype=dtype)
    pages = _taken(bytes)
    view = memoryview(pages)  # torch holds it for as long as anything uses the memory
    weakref.finalize(view, _keep, pages).atexit = False
    return torch.frombuffer(view, dtype=dtype).view(shape)


@cache
def keep_blocks() -> None:
    """Have the C library keep smaller blocks, which torch's operators ask for and free in turn: glibc does
    once it has seen one of nearly 32 MB freed, which here is never touched.
    """
    torch.empty(LARGEST, dtype=torch.uint8)


def _taken(bytes: int) -> mmap.mmap:
    for place in range(len(_waiting) - 1, -1, -1):
        if len(_waiting[place]) == bytes:
            return _waiting.pop(place)
    return mmap.mmap(-1, bytes)


def _keep(pages: mmap.mmap) -> None:
    _waiting.append(pages)
    while sum(map(len, _waiting)) > MOST:
        del _waiting[0]
