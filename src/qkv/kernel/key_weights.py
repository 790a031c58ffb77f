"""Weights of keys in the sums of a feature map, kept as logarithms.

A feature map that scales its features to a safe range returns the scale of every key as a factor m, and a
gate g lets the past decay.  For the query at position t, key s has the weight

    m_s (1 - g_s) Π_{s<l<=t} g_l                                     Peng et al. 2021, eq. 7, unrolled

Only ratios of the weights that one query sees matter.  They are therefore divided by the largest of these,
and never by a later one: nothing overflows, and no information leaks from the future.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from qkv import masks

KeyLogs = Float[Tensor, "B H S"]
PairLogs = Float[Tensor, "B H T S"]
LOG_ZERO = float("-inf")


class KeyWeights(NamedTuple):
    """The weight of every key when it is read, and the decay that every key causes.

    Args:
        log_weights: [B,H,S] = log m_s (1 - g_s); -inf for a padded key.
        log_decay: [B,H,S] = log g_s; 0 for a padded key, which changes no sum.  None without a gate.
    """

    log_weights: Tensor
    log_decay: Tensor | None


def compute_key_weights(
    log_factor: KeyLogs | None, gate_logits: KeyLogs | None, keep: Bool[Tensor, "B S"] | None
) -> KeyWeights | None:
    """Combine the factors log m, the logits of the gate and the padding mask of all keys.

    Args:
        log_factor: [B,H,S] = log m of the feature map; None for m = 1.
        gate_logits: [B,H,S], the logits of g; None without a gate.
        keep: [B,S], True for real keys; None where all are real.

    Returns:
        The weights, or None where every real key has the weight 1.
    """
    logs = [log_factor] if log_factor is not None else []
    log_decay = None if gate_logits is None else F.logsigmoid(gate_logits)
    if gate_logits is not None:
        logs.append(F.logsigmoid(-gate_logits))
    if not logs:
        return None
    log_weights = torch.stack(logs).sum(0)
    if keep is not None:
        padded = ~keep[:, None]
        log_weights = log_weights.masked_fill(padded, LOG_ZERO)
        log_decay = None if log_decay is None else log_decay.masked_fill(padded, 0)
    return KeyWeights(log_weights, log_decay)


def concat_key_weights(earlier: KeyWeights, later: KeyWeights) -> KeyWeights:
    """Concatenate the weights of keys and of the keys that follow them.

    Args:
        earlier: Of S keys.
        later: Of t keys.

    Returns:
        The weights of S + t keys.
    """
    return _apply_to_log_weights_and_log_decay(lambda *parts: torch.cat(parts, 2), earlier, later)


def fold_key_weight_tiles_into_heads(key_weights: KeyWeights, tile_size: int) -> KeyWeights:
    """Split the keys into tiles and fold these into the heads: [B,H,S] -> [B,H·n,tile_size].

    Args:
        key_weights: Of S keys per head.
        tile_size: The number of keys in a tile, which divides S.

    Returns:
        The weights of `tile_size` keys for each of H·S/tile_size heads.
    """
    return _apply_to_log_weights_and_log_decay(
        lambda x: x.unflatten(2, (-1, tile_size)).flatten(1, 2), key_weights
    )


def compute_log_weights_after_last_key(key_weights: KeyWeights) -> PairLogs:
    """Log weights [B,H,1,S] of all keys after the last key.

    Args:
        key_weights: Of S keys.

    Returns:
        [B,H,1,S].
    """
    logs = key_weights.log_weights
    if key_weights.log_decay is not None:
        logs = logs + _sum_later_log_decay(key_weights.log_decay)
    return logs[:, :, None]


def compute_causal_log_weights_at_queries(key_weights: KeyWeights, queries: int) -> PairLogs:
    """Log weights [B,H,T,S] of all keys at each of the last T positions; -inf for later keys.

    Every Σ log g runs over exactly the gates between key and query.  Differences of one long prefix sum would
    lose small terms next to large ones.

    Args:
        key_weights: Of S keys.
        queries: T; the last query is at the last key.

    Returns:
        [B,H,T,S].
    """
    keys = key_weights.log_weights.shape[2]
    logs, rows = key_weights.log_weights[:, :, None], min(queries, keys)
    if key_weights.log_decay is not None and rows > 0:
        first = keys - rows
        decay_at_first = _sum_later_log_decay(key_weights.log_decay[:, :, : first + 1])
        column = F.pad(decay_at_first, (0, rows - 1))[..., None]
        later = key_weights.log_decay[:, :, None, first + 1 :].expand(-1, -1, keys, -1).triu(-first)
        decay = torch.cat([column, later], 3).cumsum(3)  # along the last dimension, where cumsum is fast
        logs = logs + F.pad(decay, (queries - rows, 0)).mT
    return logs.masked_fill(~masks.causal(queries, keys, logs.device), LOG_ZERO)


def compute_detached_row_max(logs: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T 1"]:
    """The largest log weight of every row; -inf for a row without keys.  Detached, because it cancels.

    Args:
        logs: Log weights [B,H,T,S].

    Returns:
        [B,H,T,1].
    """
    if logs.shape[-1] == 0:
        return logs.new_full((*logs.shape[:-1], 1), LOG_ZERO)
    return logs.detach().amax(-1, keepdim=True)


def subtract_max_and_exp(
    logs: Float[Tensor, "B H #T S"], maximum: Float[Tensor, "B H T 1"]
) -> Float[Tensor, "B H T S"]:
    """exp(logs - maximum); 0 where both are -inf, instead of NaN.

    Args:
        logs: Log weights [B,H,T or 1,S].
        maximum: What to subtract [B,H,T,1].

    Returns:
        Weights [B,H,T,S] between 0 and 1.
    """
    return (logs - maximum.masked_fill(maximum == LOG_ZERO, 0)).exp()


def _sum_later_log_decay(log_decay: KeyLogs) -> KeyLogs:
    """Σ_{l>s} log g_l for every key s: how much the key has decayed after the last key."""
    return F.pad(log_decay, (0, 1))[:, :, 1:].flip(-1).cumsum(-1).flip(-1)


def _apply_to_log_weights_and_log_decay(change: Callable[..., Tensor], *weights: KeyWeights) -> KeyWeights:
    """Apply `change` to the log weights and to the log decays of one or several KeyWeights."""
    decays = [part.log_decay for part in weights]
    log_decay = None if any(decay is None for decay in decays) else change(*decays)
    return KeyWeights(change(*(part.log_weights for part in weights)), log_decay)
