"""The decode state of exact attention."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.cache import Cache
from qkv.shapes import Value
from qkv.tracing import can_read, is_transformed


class ExactState(NamedTuple):
    """The keys and values that have been read.

    Args:
        keys: The keys as the score prepared them.
        values: The values.
        keep: [B,S], True for real keys; None where all are real.
        steps: How many queries have attended to a memory.
        return_weights: Whether steps return their weights, for which all keys are kept.
    """

    keys: Cache
    values: Cache
    keep: Tensor | None
    steps: int = 0
    return_weights: bool = False


def append_keys_and_values(
    state: ExactState, prepared_keys: Tensor, v: Value, keep: Tensor | None
) -> ExactState:
    """The state with further keys and values, of which `keep` [B,t] marks the real ones; None for all.

    Args:
        state: The state before.
        prepared_keys: The keys as the score prepared them, [B,Hk,t,...].
        v: Values [B,Hk,t,E].
        keep: [B,t], True for real keys; None where all are real.

    Returns:
        The state that holds them too.
    """
    merged = state.keep
    if merged is not None or keep is not None:
        old = merged if merged is not None else _make_all_true_keep_mask(state.values.entries)
        merged = torch.cat([old, keep if keep is not None else _make_all_true_keep_mask(v)], 1)
    return state._replace(keys=state.keys.append(prepared_keys), values=state.values.append(v), keep=merged)


def drop_unreachable_keys(state: ExactState, reach: tuple[int, int] | None) -> ExactState:
    """The state without the keys that no later window reaches.

    Args:
        state: The state after a step.
        reach: How many positions a window reaches back and ahead; None for no limit.

    Returns:
        The state, perhaps with fewer keys.
    """
    if reach is None or state.return_weights or is_transformed():
        return state
    count = reach[0] + 1  # the position of a padded query is that of the last real key
    if state.keep is not None:
        if not can_read(state.keep):
            return state
        is_reached = state.keep.flip(1).cumsum(1) <= count
        count = int(is_reached.sum(1).max())
        state = state._replace(keep=state.keep[:, max(state.keep.shape[1] - count, 0) :])
    return state._replace(
        keys=state.keys.keep_last_positions(count), values=state.values.keep_last_positions(count)
    )


def _make_all_true_keep_mask(v: Value) -> Tensor:
    """A `keep` mask [B,S] that marks all keys as real."""
    return torch.ones(v.shape[0], v.shape[2], dtype=torch.bool, device=v.device)
