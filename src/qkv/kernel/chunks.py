"""Long sequences chunk by chunk: what a chunk needs in between, like the features of its positions, is never
there for all of them at once.  Training keeps only what goes from chunk to chunk, and computes the rest anew
on its way back.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.kernel.pages import empty, keep_blocks
from qkv.tracing import can_bypass_dispatcher, is_recording, is_transformed

# Pairs within a tile cost as much as its sums where it is about as long as there are features.  All tiles of
# a chunk go through each operator at once, and what the operators make of 8 heads of it stays near a core.
TILE = 64
CHUNK = 512

Step = Callable[..., tuple[Any, Any]]


def fold(step: Step, state: Any, *tensors: Tensor | None) -> tuple[Any, Any]:
    """What `step(state, positions, *chunks) -> (out, state)` gives for every chunk of tensors [B,H,N,*],
    joined along N, and the state after the last.  A chunk is whole tiles, or shorter than one.
    """
    length = next(x.shape[2] for x in tensors if x is not None)
    if is_recording(length):  # in one chunk: how many there were would be recorded too
        return step(state, slice(None), *tensors)
    if length > CHUNK and not torch.compiler.is_compiling():
        keep_blocks()
    anew = length > CHUNK and torch.is_grad_enabled() and not is_transformed()  # which know no recomputing
    sizes = _sizes(length)
    begin, outs = 0, Outs(length)
    # Not slices: the backward pass of each would fill a tensor of the whole length.
    pieces = (repeat(None) if x is None else x.split(sizes, 2) for x in tensors)
    for size, *chunks in zip(sizes, *pieces, strict=False):
        now = slice(begin, begin + size)
        out, state = _anew(step, state, now, *chunks) if anew else step(state, now, *chunks)
        begin += size
        outs.add(now, out)
    return outs.joined(), state


class Outs:
    """What the chunks give: kept apart where someone sees how it is joined, else written where it belongs."""

    def __init__(self, length: int) -> None:
        self.length, self.parts, self.whole = length, [], None

    def add(self, now: slice, out: Any) -> None:
        """Take the next chunk."""
        if out is None or not can_bypass_dispatcher((out,)) or out.device.type != "cpu":
            self.parts.append(out)
            return
        if self.whole is None:
            self.whole = empty((*out.shape[:2], self.length, *out.shape[3:]), out.dtype)
        self.whole[:, :, now] = out

    def joined(self) -> Any:
        """All chunks, or None where they give nothing."""
        if self.whole is not None or not self.parts or self.parts[0] is None:
            return self.whole
        return torch.cat(self.parts, 2)


def _sizes(length: int) -> list[int]:
    left = length % CHUNK
    return [CHUNK] * (length // CHUNK) + [size for size in (left - left % TILE, left % TILE) if size]


def _anew(step: Step, *given: Any) -> Any:
    return checkpoint(step, *given, use_reentrant=False, preserve_rng_state=False)
