"""Processes long sequences chunk by chunk, so that intermediate tensors exist for one chunk at a time.

In training only the state between chunks is kept; the backward pass recomputes the rest (checkpointing).
What a chunk computes for linear attention is drawn in `causal_average`.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.kernel.memory_pool import allocate_pooled_empty, raise_malloc_threshold
from qkv.tracing import can_bypass_dispatcher, is_recording, is_transformed

# The pairs within a tile cost as much as its sums where a tile is about as long as there are features.  Each
# operator processes all tiles of a chunk at once; the intermediate tensors of a chunk of 8 heads stay in the
# cache of a core.
TILE = 64
CHUNK = 512

Step = Callable[..., tuple[Any, Any]]


class ScanResult(NamedTuple):
    """What a scan over chunks returns.

    Args:
        out: The outputs concatenated along N; None where they are None.
        state: The state after the last chunk.
    """

    out: Any
    state: Any


def scan_chunks(step: Step, state: Any, *tensors: Tensor | None) -> ScanResult:
    """Apply `step` to every chunk in order, passing a state from chunk to chunk.

    Args:
        step: `step(state, positions, *chunks) -> (out, state)`, where `positions` is the slice of the chunk.
            A chunk is a number of whole tiles, or shorter than one tile.
        state: The state before the first chunk.
        tensors: [B,H,N,...], which are split along N; None stays None.

    Returns:
        The outputs of all chunks, and the state after the last one.
    """
    length = next(x.shape[2] for x in tensors if x is not None)
    if is_recording(length):  # one chunk: a recorded program would fix the number of chunks
        return ScanResult(*step(state, slice(None), *tensors))
    if length > CHUNK and not torch.compiler.is_compiling():
        raise_malloc_threshold()
    # Function transforms do not support checkpointing.
    recompute = length > CHUNK and torch.is_grad_enabled() and not is_transformed()
    sizes = compute_chunk_sizes(length)
    begin, outputs = 0, ChunkOutputs(length)
    # split() instead of slices: the backward pass of each slice would fill a tensor of the full length.
    pieces = (repeat(None) if x is None else x.split(sizes, 2) for x in tensors)
    for size, *chunks in zip(sizes, *pieces, strict=False):
        positions = slice(begin, begin + size)
        if recompute:
            out, state = _checkpoint_step(step, state, positions, *chunks)
        else:
            out, state = step(state, positions, *chunks)
        begin += size
        outputs.append(positions, out)
    return ScanResult(outputs.concat(), state)


class ChunkOutputs:
    """Collects the outputs of chunks: in one preallocated tensor where nothing records the writes, or in a
    list.

    Args:
        length: N, the number of positions of all chunks together.
    """

    def __init__(self, length: int) -> None:
        self.length, self.parts, self.buffer = length, [], None

    def append(self, positions: slice, out: Any) -> None:
        """Add the output of the next chunk.

        Args:
            positions: The slice of the chunk.
            out: [B,H,size,...], or None.
        """
        if out is None or not can_bypass_dispatcher((out,)) or out.device.type != "cpu":
            self.parts.append(out)
            return
        if self.buffer is None:
            self.buffer = allocate_pooled_empty((*out.shape[:2], self.length, *out.shape[3:]), out.dtype)
        self.buffer[:, :, positions] = out

    def concat(self) -> Any:
        """All outputs concatenated; None where they are None or there were no chunks."""
        if self.buffer is not None or not self.parts or self.parts[0] is None:
            return self.buffer
        return torch.cat(self.parts, 2)


def compute_chunk_sizes(length: int) -> list[int]:
    """The sizes of the chunks of so many positions: full ones, the remaining whole tiles, then the rest."""
    remainder = length % CHUNK
    tail = remainder % TILE
    return [CHUNK] * (length // CHUNK) + [size for size in (remainder - tail, tail) if size]


def _checkpoint_step(step: Step, *args: Any) -> Any:
    """Run a step whose intermediate tensors the backward pass recomputes; steps draw no random numbers."""
    return checkpoint(step, *args, use_reentrant=False, preserve_rng_state=False)
