"""A cache of keys or values that grows in place, into memory that is allocated ahead.

A cache is a value: its entries never change.  A step writes new entries behind them and returns a new cache
that shares the memory.  Each free position is written to once.  Any other cache that would append there (a
state that is kept and extended twice, a reordered beam) copies its entries to new memory.
"""

from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from qkv.state import Shared
from qkv.tracing import can_read, is_transformed

# A smaller buffer would be full after a few steps.
MIN_CAPACITY = 16


class CacheBuffer:
    """The memory that several caches share.

    Args:
        memory: [B,H,capacity,D].
        used: The number of positions, from the first on, that have been written to.
    """

    def __init__(self, memory: Tensor, used: int) -> None:
        self.memory, self.used, self.lock = memory, used, Lock()

    def reserve_positions_behind(self, entries: Tensor, new: Tensor) -> slice | None:
        """Reserve the positions behind `entries` for `new`; of several threads, one gets them.

        Args:
            entries: [B,H,S,D] of the cache that grows.
            new: [B,H,t,D], its new entries.

        Returns:
            The positions; None where they have been written to, are too few, or the tensors do not match.
        """
        with self.lock:
            if not self._can_append(entries, new):
                return None
            begin = self.used
            self.used += new.shape[2]
        return slice(begin, begin + new.shape[2])

    def _can_append(self, entries: Tensor, new: Tensor) -> bool:
        """Whether `entries` are the last positions in use, and `new` fits behind them."""
        begin, memory = self.used - entries.shape[2], self.memory
        return (
            begin >= 0
            and memory.shape[:2] == entries.shape[:2]
            and memory.shape[2] >= self.used + new.shape[2]
            and memory.dtype == entries.dtype == new.dtype
            and memory[:, :, begin:].data_ptr() == entries.data_ptr()
            and memory.is_inference() == torch.is_inference_mode_enabled()
        )


class Cache(NamedTuple):
    """The keys or values of a decode state.

    Args:
        entries: [B,H,S,D].
        buffer: Shared(CacheBuffer) whose memory holds the entries, or Shared(None).
    """

    entries: Tensor
    buffer: Shared = Shared(None)

    def keep_last_positions(self, count: int) -> "Cache":
        """The cache of the last `count` positions; it copies them where that frees much memory.

        Args:
            count: How many positions to keep.

        Returns:
            A cache of at most `count` positions.
        """
        dropped = self.entries.shape[2] - count
        if dropped <= 0:
            return self
        entries = self.entries[:, :, dropped:]
        if dropped > max(count, MIN_CAPACITY):
            return Cache(entries.clone())
        return self._replace(entries=entries)

    def append(self, new: Tensor) -> "Cache":
        """The cache with further entries [B,H,t,D], in amortised O(t) time if no gradient is recorded.

        Args:
            new: Entries [B,H,t,D] that follow; the cache takes their dtype.

        Returns:
            A cache of S + t positions; this one does not change.
        """
        # A layer without parameters does not know, when it starts, the dtype of its inputs.
        entries, buffer = self.entries.to(new), self.buffer.value
        if torch.is_grad_enabled() or is_transformed() or not can_read(new):
            return Cache(torch.cat([entries, new], 2))
        positions = None if buffer is None else buffer.reserve_positions_behind(entries, new)
        if buffer is None or positions is None:
            buffer = _allocate_buffer_and_copy_entries(entries, new)
            return Cache(buffer.memory[:, :, : buffer.used], Shared(buffer))
        buffer.memory[:, :, positions] = new
        begin = positions.start - entries.shape[2]
        return Cache(buffer.memory[:, :, begin : positions.stop], Shared(buffer))


def _allocate_buffer_and_copy_entries(entries: Tensor, new: Tensor) -> CacheBuffer:
    """A buffer of twice the size that holds both."""
    count = entries.shape[2]
    used = count + new.shape[2]
    memory = entries.new_empty(*entries.shape[:2], max(2 * used, MIN_CAPACITY), entries.shape[3])
    memory[:, :, :count], memory[:, :, count:used] = entries, new
    return CacheBuffer(memory, used)
