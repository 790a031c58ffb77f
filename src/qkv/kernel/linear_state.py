"""The decode state of linear attention."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.errors import BadShape
from qkv.kernel.key_weights import KeyWeights, concat_key_weights
from qkv.kernel.sums import MappedKeys, Sums
from qkv.shapes import Query
from qkv.state import Shared


class LinearState(NamedTuple):
    """A decode state of constant size.

    Args:
        feature_sums: [B,H,F,E+1], as in `sums.Sums`.
        plain_sums: [B,H,1,E+2], as in `sums.Sums`.
        log_scale: [B,H,1,1] or None, as in `sums.Sums`.
        projections: Those of the first call, so that all keys and queries of one sequence are mapped alike.
        history: All keys that have been read, where steps return their weights; None otherwise.
    """

    feature_sums: Tensor
    plain_sums: Tensor
    log_scale: Tensor | None
    projections: Shared
    history: "KeyHistory | None" = None


class KeyHistory(NamedTuple):
    """All keys that a state has read.  It grows with the sequence and is kept only to compute weights.

    Args:
        features: φ(k) [B,H,S,F].
        keep: [B,H,S], 1 for a real key and 0 for a padded one.
        key_weights: None where every real key has the weight 1.
    """

    features: Tensor
    keep: Tensor
    key_weights: KeyWeights | None


def cast_state_sums_to_float32_or_64(state: LinearState, q: Query) -> Sums:
    """The sums of a state in float64 for float64 queries, in float32 otherwise.

    An empty state is float32 even if float64 keys follow: it is created before any input is known.

    Args:
        state: A decode state.
        q: The queries that follow.

    Returns:
        The sums in the dtype in which they are continued.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    log_scale = None if state.log_scale is None else state.log_scale.to(dtype)
    return Sums(state.feature_sums.to(dtype), state.plain_sums.to(dtype), log_scale)


def check_state_sizes(state: LinearState, heads: int, features: int, value_width: int) -> None:
    """Check that a state comes from an attention of these sizes.

    Args:
        state: A decode state.
        heads: H.
        features: F.
        value_width: E.

    Raises:
        BadShape: It comes from an attention of other sizes.
    """
    expected = (heads, features, value_width + 1)
    if tuple(state.feature_sums.shape[1:]) != expected:
        raise BadShape(
            f"the state holds sums of shape {list(state.feature_sums.shape[1:])} per row, expected "
            f"{list(expected)} = [heads, features, value width + 1]: pass a state that this layer started"
        )


def append_keys_to_history(history: KeyHistory, keys: MappedKeys) -> KeyHistory:
    """The history with further keys.

    Args:
        history: The keys so far.
        keys: The keys that follow.

    Returns:
        The history of all these keys.
    """
    key_weights = None
    if history.key_weights is not None and keys.key_weights is not None:
        key_weights = concat_key_weights(history.key_weights, keys.key_weights)
    keep = torch.cat([history.keep, keys.values[..., -1]], 2)
    return KeyHistory(torch.cat([history.features, keys.features], 2), keep, key_weights)
