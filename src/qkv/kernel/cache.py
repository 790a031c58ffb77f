"""A cache that grows: what a step appends is written behind it, into room that is kept ready.

A cache is a value: what it holds never changes.  Room behind it is written to once, by the first cache that
grows into it; any other that stands there (a state kept and extended twice, a reordered beam) copies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.state import Shared

# Room for fewer would be used up at once.
FEWEST = 16


class Room:
    """Memory [B,H,capacity,D], of which the first `used` positions are taken."""

    def __init__(self, memory: Tensor, used: int) -> None:
        self.memory, self.used = memory, used

    def behind(self, held: Tensor, more: Tensor) -> bool:
        """Whether `held` ends where the free room begins, and `more` fits into it."""
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
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return Cache(torch.cat([held, more], 2))
        if room is None or not room.behind(held, more):
            room = _made(held, more)
        begin, end = room.used - held.shape[2], room.used + more.shape[2]
        room.memory[:, :, room.used : end] = more
        room.used = end
        return Cache(room.memory[:, :, begin:end], Shared(room))


def _made(held: Tensor, more: Tensor) -> Room:
    count = held.shape[2]
    capacity = max(2 * (count + more.shape[2]), FEWEST)
    memory = held.new_empty(*held.shape[:2], capacity, held.shape[3])
    memory[:, :, :count] = held
    return Room(memory, count)
