"""A cache that grows: what a step appends is written behind it, into room that is kept ready.

A cache is a value: what it holds never changes.  Room behind it is written to once, by the first cache that
grows into it; any other that stands there (a state kept and extended twice, a reordered beam) copies.
"""

from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from qkv.state import Shared
from qkv.tracing import can_read, is_transformed

# Room for fewer would be used up at once.
FEWEST = 16


class Room:
    """Memory [B,H,capacity,D], of which the first `used` positions are taken."""

    def __init__(self, memory: Tensor, used: int) -> None:
        self.memory, self.used, self.lock = memory, used, Lock()

    def take(self, held: Tensor, more: Tensor) -> slice | None:
        """The positions behind `held`, for `more`; None where somebody has them or they are too few.  Of two
        threads one gets them.
        """
        with self.lock:
            if not self._behind(held, more):
                return None
            begin = self.used
            self.used += more.shape[2]
        return slice(begin, begin + more.shape[2])

    def _behind(self, held: Tensor, more: Tensor) -> bool:
        begin, memory = self.used - held.shape[2], self.memory
        return (
            begin >= 0
            and memory.shape[:2] == held.shape[:2]
            and memory.shape[2] >= self.used + more.shape[2]
            and memory.dtype == held.dtype == more.dtype
            and memory[:, :, begin:].data_ptr() == held.data_ptr()
            and memory.is_inference() == torch.is_inference_mode_enabled()
        )


class Cache(NamedTuple):
    """held: [B,H,S,D].  room: Shared(Room) or Shared(None)."""

    held: Tensor
    room: Shared = Shared(None)

    def last(self, count: int) -> "Cache":
        """The cache of the last `count` positions alone, which lets go of the memory of many others."""
        ahead = self.held.shape[2] - count
        if ahead <= 0:
            return self
        held = self.held[:, :, ahead:]
        return Cache(held.clone()) if ahead > max(count, FEWEST) else self._replace(held=held)

    def grown(self, more: Tensor) -> "Cache":
        """The cache that holds `more` [B,H,t,D] too: amortised O(t), whatever it holds already."""
        # A layer without parameters cannot know, when it starts, what will be read.
        held, room = self.held.to(more), self.room.value
        if torch.is_grad_enabled() or is_transformed() or not can_read(more):
            return Cache(torch.cat([held, more], 2))
        place = None if room is None else room.take(held, more)
        if room is None or place is None:
            room = _made(held, more)
            return Cache(room.memory[:, :, : room.used], Shared(room))
        room.memory[:, :, place] = more
        return Cache(room.memory[:, :, place.start - held.shape[2] : place.stop], Shared(room))


def _made(held: Tensor, more: Tensor) -> Room:
    count = held.shape[2]
    capacity = max(2 * (count + more.shape[2]), FEWEST)
    memory = held.new_empty(*held.shape[:2], capacity, held.shape[3])
    used = count + more.shape[2]
    memory[:, :, :count], memory[:, :, count:used] = held, more
    return Room(memory, used)
