"""Masses of keys as shares of the largest that a query has met, one number of every token: what is worked out
before the kernels run, so that chunks need nothing of each other but their sums.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING = float("-inf")


class Masses(NamedTuple):
    """The masses of all keys [B·H,S], and what a state that comes first is divided by [B·H]."""

    written: Tensor
    decay: Tensor | None
    scale: Tensor


class Shares(NamedTuple):
    """Of B·H heads, N tokens in C chunks.  A state's sums are divided by its largest mass, exp(scale).

    top: [B·H,N], the largest log mass that query t has met.  rest: [B·H,N], what is left at query t of the
    sums before its chunk.  at_end: [B·H,N], the mass of key s after the last of its chunk.  kept: [B·H,C],
    what is left of the sums before a chunk after it.  left: [B·H], of the state that comes first, before all
    this. scale: [B·H] after the last key.
    """

    top: Tensor
    rest: Tensor
    at_end: Tensor
    kept: Tensor
    left: Tensor
    scale: Tensor


def along(written: Tensor, decay: Tensor | None, scale: Tensor, chunk: int) -> Shares:
    """Causal: every query sees the state and the keys up to its own.

    written, decay [B·H,N] as in `masses.Masses`; scale [B·H] of the state that comes first.
    """
    tokens = written.shape[1]
    top = _tops(written, decay, scale)
    ends = F.pad(top, (0, -tokens % chunk), value=NOTHING).unflatten(1, (-1, chunk))
    ends = torch.cat([ends[:, :-1, -1], top[:, -1:]], 1)
    before = torch.cat([scale[:, None], ends[:, :-1]], 1)[:, : ends.shape[1]]
    so_far, after = _faded(written if decay is None else decay, decay is None, chunk)
    rest = (before[..., None] + so_far).flatten(1)[:, :tokens]
    last = ends.repeat_interleave(chunk, 1)[:, :tokens]
    kept = _share(before + so_far[..., -1], ends)
    at_end = _share(written + after.flatten(1)[:, :tokens], last)
    final = ends[:, -1] if tokens else scale
    return Shares(top, _share(rest, top), at_end, kept, torch.ones_like(scale), final)


def at_once(written: Tensor, decay: Tensor | None, scale: Tensor, chunk: int) -> Shares:
    """Not causal: every query sees the state and all keys; top and rest stay empty."""
    total, after = torch.zeros_like(scale), torch.zeros_like(written)
    if decay is not None:
        # A long sum of gates would lose what is small beside it.
        wide = decay.double()
        total = wide.sum(1)
        after = (total[:, None] - wide.cumsum(1)).float()
        total = total.float()
    logs, left = written + after, scale + total
    final = torch.cat([left[:, None], logs], 1).amax(1)
    kept = written.new_ones(len(written), -(-written.shape[1] // chunk))
    nothing = written.new_empty(0)
    return Shares(nothing, nothing, _share(logs, final[:, None]), kept, _share(left, final), final)


def _tops(written: Tensor, decay: Tensor | None, scale: Tensor) -> Tensor:
    if decay is None:
        return torch.cat([scale[:, None], written], 1).cummax(1).values[:, 1:].contiguous()
    so_far = decay.double().cumsum(1)
    logs = torch.cat([scale[:, None].double(), written.double() - so_far], 1)
    return (logs.cummax(1).values[:, 1:] + so_far).float()


def _faded(decay: Tensor, none: bool, chunk: int) -> tuple[Tensor, Tensor]:
    """Σ log g of a chunk's tokens up to each, and after each [B·H,C,chunk]."""
    padded = F.pad(decay, (0, -decay.shape[1] % chunk)).unflatten(1, (-1, chunk))
    if none:
        return torch.zeros_like(padded), torch.zeros_like(padded)
    after = F.pad(padded, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)
    return padded.cumsum(-1), after


def _share(logs: Tensor, top: Tensor) -> Tensor:
    return (logs - top.masked_fill(top == NOTHING, 0)).exp()
