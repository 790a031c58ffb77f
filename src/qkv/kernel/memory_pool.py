"""A pool of memory for large results on a CPU.

The C library returns large blocks to the operating system as soon as they are freed, and the system clears
every page of the next one.  At 16,384 tokens of 8 heads of width 64 this takes a quarter of the time of a
forward pass.  glibc can be made to keep blocks of up to 32 MB; this pool keeps larger ones.
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

# In bytes: the largest block that is left to the C library, and the most memory that waits in the pool.
MAX_MALLOC_BYTES = 31 << 20
MAX_FREE_BYTES = 128 << 20

# A private mapping: after a fork, a process does not share its results with its children.
MMAP_OPTIONS: dict[str, Any] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)

_free_blocks: deque[mmap.mmap] = deque()


def allocate_pooled_empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """torch.empty on the CPU, which reuses the memory of earlier large results.

    A storage of more than `MAX_MALLOC_BYTES` cannot be resized.

    Args:
        shape: The shape of the tensor.
        dtype: The type of its numbers.

    Returns:
        An uninitialised tensor on the CPU.

    Raises:
        MemoryError: There is not enough memory.
    """
    raise_malloc_threshold()
    count = prod(shape)
    if count * dtype.itemsize <= MAX_MALLOC_BYTES:
        return torch.empty(shape, dtype=dtype, device="cpu")
    block = _take_free_or_new_block(_round_up_to_block_size(count * dtype.itemsize))
    view = memoryview(block)  # torch holds it for as long as anything uses the memory
    weakref.finalize(view, _return_block_and_trim_pool, block).atexit = False
    return torch.frombuffer(view, dtype=dtype, count=count).view(shape)


@cache
def raise_malloc_threshold() -> None:
    """Make glibc keep freed blocks of up to 32 MB for reuse.

    glibc raises its threshold for memory mapping to the size of the largest mapped block that was freed.  The
    block here is freed at once and its pages are never touched.
    """
    torch.empty(MAX_MALLOC_BYTES, dtype=torch.uint8, device="cpu")


def _round_up_to_block_size(size: int) -> int:
    """Round up to eighths of a power of two, so that results of similar length can reuse a block."""
    unit = 1 << (size.bit_length() - 4)
    return -(-size // unit) * unit


def _take_free_or_new_block(size: int) -> mmap.mmap:
    """A free block of exactly this size, or a new one."""
    # Other threads and finalizers may change the deque at any time, so that only its atomic operations are
    # used.
    for _ in range(len(_free_blocks)):
        try:
            block = _free_blocks.pop()
        except IndexError:
            break
        if len(block) == size:
            return block
        _free_blocks.appendleft(block)
    try:
        return mmap.mmap(-1, size, **MMAP_OPTIONS)
    except OSError as error:
        raise MemoryError(
            f"no memory for a result of {size:,} bytes: use shorter or fewer sequences"
        ) from error


def _return_block_and_trim_pool(block: mmap.mmap) -> None:
    """Put a block into the pool, and drop the oldest blocks where the pool becomes too large."""
    if len(block) > MAX_FREE_BYTES:
        return
    _free_blocks.append(block)
    while sum(map(len, list(_free_blocks))) > MAX_FREE_BYTES:
        try:
            _free_blocks.popleft()
        except IndexError:
            break
