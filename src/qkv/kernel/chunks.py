"""Long sequences chunk by chunk: what a chunk needs in between, like the features of its positions, is never
there for all of them at once.  Training keeps only what goes from chunk to chunk, and computes the rest anew
on its way back.
"""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Pairs within a chunk cost as much as its sums where it is about as long as there are features, and what the
# operators make of a chunk of 8 heads stays near a core.
CHUNK = 128

Step = Callable[..., tuple[Any, Any]]


def fold(step: Step, state: Any, *tensors: Tensor | None) -> tuple[list[Any], Any]:
    """What `step(state, positions, *chunks) -> (out, state)` gives for every chunk of tensors [B,H,N,*], and
    the state after the last.
    """
    length = next(x.shape[2] for x in tensors if x is not None)
    anew = length > CHUNK and torch.is_grad_enabled()
    starts, outs = range(0, length, CHUNK), []
    for begin, *chunks in zip(starts, *map(_chunks, tensors), strict=False):
        now = slice(begin, begin + CHUNK)
        out, state = _anew(step, state, now, *chunks) if anew else step(state, now, *chunks)
        outs.append(out)
    return outs, state


def _chunks(x: Tensor | None) -> Iterable[Tensor | None]:
    # Not slices: the backward pass of each would fill a tensor of the whole length.
    return repeat(None) if x is None else x.split(CHUNK, 2)


def _anew(step: Step, *given: Any) -> Any:
    return checkpoint(step, *given, use_reentrant=False, preserve_rng_state=False)
