"""Memory of large results, kept for the next one.

The C library hands large blocks back to the system as soon as they are free, and the system clears every
page of the next one: at 16 384 tokens of 8 heads of 64 that takes a quarter of a pass's time.  It can be
brought to keep blocks of nearly 32 MB; larger ones are kept here.
"""

import mmap
import weakref
from collections import deque
from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

# The largest block that the C library keeps if it is asked to, and what waits here at most.
LARGEST = 31 << 20
MOST = 128 << 20

# A process that forks must not share its results with its children.
PRIVATE: dict[str, Any] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)

_waiting: deque[mmap.mmap] = deque()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of whatever stands in memory, on the CPU.

    Its storage cannot be resized where it is larger than LARGEST.  Raises MemoryError where there is none.
    """
    keep_blocks()
    count = prod(shape)
    if count * dtype.itemsize <= LARGEST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    pages = _taken(_rounded(count * dtype.itemsize))
    view = memoryview(pages)  # torch holds it for as long as anything uses the memory
    weakref.finalize(view, _keep, pages).atexit = False
    return torch.frombuffer(view, dtype=dtype, count=count).view(shape)


@cache
def keep_blocks() -> None:
    """Have the C library keep smaller blocks, which are asked for and freed in turn: glibc does once it has
    seen one of nearly 32 MB freed, which here is never touched.
    """
    torch.empty(LARGEST, dtype=torch.uint8, device="cpu")


def _rounded(size: int) -> int:
    """Up to eighths of a power of two, so that lengths that differ a little find each other's memory."""
    unit = 1 << (size.bit_length() - 4)
    return -(-size // unit) * unit


def _taken(size: int) -> mmap.mmap:
    # Other threads and finalizers take and bring blocks meanwhile: every step is one that they cannot divide.
    for _ in range(len(_waiting)):
        try:
            pages = _waiting.pop()
        except IndexError:
            break
        if len(pages) == size:
            return pages
        _waiting.appendleft(pages)
    try:
        return mmap.mmap(-1, size, **PRIVATE)
    except OSError as error:
        raise MemoryError(
            f"no memory for a result of {size:,} bytes: use shorter or fewer sequences"
        ) from error


def _keep(pages: mmap.mmap) -> None:
    if len(pages) > MOST:
        return
    _waiting.append(pages)
    while sum(map(len, list(_waiting))) > MOST:
        try:
            _waiting.popleft()
        except IndexError:
            break
