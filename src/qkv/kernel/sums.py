"""Sums over keys, which linear attention keeps instead of attention weights.

For query features φ(q_t), key features φ(k_s), values v_s and key weights m_ts (see `key_weights`):

    feature_sums_t = Σ_s m_ts φ(k_s) ⊗ [v_s, 1]           [F,E+1]
    plain_sums_t   = Σ_s m_ts [v_s, 1, m_ts]              [E+2]
    query_sums_t   = φ(q_t) @ feature_sums_t              [F] @ [F,E+1] -> [E+1]
    out_t          = query_sums_t[:E] / query_sums_t[E]

Features that may be negative can bring the denominator Σ_s w_ts, with w_ts = m_ts φ(q_t)·φ(k_s), near or
below zero.  The noise of such a sum grows as sqrt(Σ m²).  Where the denominator is smaller than floor·sqrt(Σ
m²), the deficit d = floor·sqrt(Σ m²) - Σ w is distributed over the keys in proportion to their weights m:

    out_t = (Σ_s w_ts v_s + d · Σ_s m_ts v_s / Σ_s m_ts) / (Σ_s w_ts + d)

The denominator is then positive, constant values give a constant output, and the result is still an average
with weights that can be computed (`compute_implied_weights`).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.kernel.key_weights import (
    LOG_ZERO,
    KeyWeights,
    compute_detached_row_max,
    compute_log_weights_after_last_key,
    subtract_max_and_exp,
)
from qkv.shapes import Weights

Features = Float[Tensor, "B H N F"]
ValuesWithOne = Float[Tensor, "B H N E1"]
ValueWeightAndSquareSums = Float[Tensor, "B H #N E2"]


class MappedKeys(NamedTuple):
    """Keys and values that are ready to be summed; the features and values of padding are 0.

    Args:
        features: φ(k) [B,H,S,F].
        values: [v, 1] [B,H,S,E+1].
        key_weights: None where every real key has the weight 1.
    """

    features: Tensor
    values: Tensor
    key_weights: Any


class Sums(NamedTuple):
    """The sums over the keys that have been read.

    Args:
        feature_sums: [B,H,F,E+1] = Σ_s m_s φ(k_s) ⊗ [v_s, 1].
        plain_sums: [B,H,1,E+2] = Σ_s m_s [v_s, 1, m_s].
        log_scale: [B,H,1,1], the log of the number that all m were divided by; None where every real key has
            the weight 1.
    """

    feature_sums: Tensor
    plain_sums: Tensor
    log_scale: Any


class OutputAndSums(NamedTuple):
    """What a pass over queries and keys returns.

    Args:
        out: [B,H,T,E], the averages of the queries.
        sums: The sums after the last key.
    """

    out: Tensor
    sums: Sums


def compute_implied_weights(
    query_features: Features,
    key_features: Float[Tensor, "B H S F"],
    key_weights: Float[Tensor, "#B #H #N S"] | Bool[Tensor, "#B #H #N S"] | None,
    floor: float,
) -> Weights:
    """The attention weights w / Σ w [B,H,T,S] of a feature map, with the deficit distributed.

    Args:
        query_features: φ(q) [B,H,T,F].
        key_features: φ(k) [B,H,S,F].
        key_weights: m of every key at every query, 0 (or False) where the query may not attend to the key;
            None for 1 everywhere.
        floor: See the module's docstring.

    Returns:
        Weights [B,H,T,S] that sum to 1, or to 0 for a query without keys.
    """
    scores = query_features @ key_features.mT  # [B,H,T,F] @ [B,H,F,S] -> [B,H,T,S]
    m = torch.ones_like(scores) if key_weights is None else key_weights.to(scores.dtype).expand_as(scores)
    scores = scores * m
    total, count = scores.sum(-1, keepdim=True), m.sum(-1, keepdim=True)
    has_keys = count > 0
    deficit = compute_denominator_deficit(total, m.square().sum(-1, keepdim=True), floor)
    denominator = torch.where(has_keys, total + deficit, 1)
    return (scores + m * (deficit / torch.where(has_keys, count, 1))) / denominator


def average_from_sums(
    query_sums: ValuesWithOne, plain_sums: ValueWeightAndSquareSums, floor: float
) -> Float[Tensor, "B H N E"]:
    """Averages [B,H,N,E] from φ(q) @ feature_sums [B,H,N,E+1] and the plain sums; 0 where no key was read.

    Args:
        query_sums: φ(q) @ feature_sums, [B,H,N,E+1].
        plain_sums: [B,H,N or 1,E+2], as in `Sums`.
        floor: See the module's docstring.

    Returns:
        Averages [B,H,N,E].
    """
    values, count, squares = plain_sums.split([plain_sums.shape[-1] - 2, 1, 1], -1)
    total, has_keys = query_sums[..., -1:], count > 0
    deficit = compute_denominator_deficit(total, squares, floor)
    mean = values / torch.where(has_keys, count, 1)
    return (query_sums[..., :-1] + deficit * mean) / torch.where(has_keys, total + deficit, 1)


def compute_denominator_deficit(total: Tensor, squares: Tensor, floor: float) -> Tensor:
    """How much the denominator `total` is short of floor·sqrt(squares); 0 where it is not.

    Args:
        total: Denominators Σ w, [...,1].
        squares: Σ m², of the same shape.
        floor: See the module's docstring.

    Returns:
        The deficit d, never negative.
    """
    # The derivative of the root at 0 is infinite.  The squares are 0 only where there are no keys.
    return (floor * torch.where(squares > 0, squares, 1).sqrt() - total).clamp_min(0)


def create_empty_sums(keys: MappedKeys) -> Sums:
    """The sums over no keys, with the shapes and dtypes that `keys` lead to.

    Args:
        keys: Mapped keys of any number, also 0.

    Returns:
        Sums of zeros.
    """
    features, values = keys.features[:, :, :1], keys.values[:, :, :1]
    feature_sums = features.new_zeros(*features.shape[:2], features.shape[-1], values.shape[-1])
    plain_sums = features.new_zeros(*features.shape[:2], 1, values.shape[-1] + 1)
    log_scale = None if keys.key_weights is None else features.new_full((*features.shape[:2], 1, 1), LOG_ZERO)
    return Sums(feature_sums, plain_sums, log_scale)


def decay_carry_and_add_keys(keys: MappedKeys, carry: Sums) -> Sums:
    """The sums over the keys in `carry` and over all of `keys`, which follow them.

    Args:
        keys: The keys to add.
        carry: The sums over all earlier keys.

    Returns:
        The sums after the last of `keys`.
    """
    return combine_sums(carry, sum_keys(keys), sum_log_decay(keys.key_weights))


def sum_keys(keys: MappedKeys) -> Sums:
    """The sums over these keys alone, as they stand after the last of them.

    Args:
        keys: Mapped keys [B,H,S,...].

    Returns:
        Their sums, scaled by the largest key weight.
    """
    features, values, key_weights = keys
    if key_weights is None:
        plain_sums = values.sum(2, keepdim=True)
        # [B,H,F,S] @ [B,H,S,E+1] -> [B,H,F,E+1]
        return Sums(features.mT @ values, torch.cat([plain_sums, plain_sums[..., -1:]], -1), None)
    logs = compute_log_weights_after_last_key(key_weights)
    log_scale = compute_detached_row_max(logs)
    m = subtract_max_and_exp(logs, log_scale)
    # [B,H,1,S] @ [B,H,S,E+1] -> [B,H,1,E+1]
    plain_sums = torch.cat([m @ values, m.square().sum(-1, keepdim=True)], -1)
    return Sums((features.mT * m) @ values, plain_sums, log_scale)  # [B,H,F,S] @ [B,H,S,E+1] -> [B,H,F,E+1]


def combine_sums(earlier: Sums, later: Sums, log_decay: Tensor | None) -> Sums:
    """The sums over earlier and later keys together.

    Args:
        earlier: The sums over the earlier keys, as they stood after the last of these.
        later: The sums over the later keys alone.
        log_decay: [B,H,1,1], how much the later keys let the earlier sums decay; None for not at all.

    Returns:
        The sums over all these keys.
    """
    if later.log_scale is None:
        return Sums(earlier.feature_sums + later.feature_sums, earlier.plain_sums + later.plain_sums, None)
    decayed = earlier.log_scale if log_decay is None else earlier.log_scale + log_decay
    log_scale = torch.maximum(later.log_scale, decayed.detach())
    old, new = subtract_max_and_exp(decayed, log_scale), subtract_max_and_exp(later.log_scale, log_scale)
    feature_sums = old * earlier.feature_sums + new * later.feature_sums
    plain_sums = _scale_value_weight_and_square_sums(
        earlier.plain_sums, old
    ) + _scale_value_weight_and_square_sums(later.plain_sums, new)
    return Sums(feature_sums, plain_sums, log_scale)


def sum_log_decay(key_weights: KeyWeights | None) -> Tensor | None:
    """The log [B,H,1,1] of the factor by which these keys let all earlier sums decay; None for 0.

    Args:
        key_weights: Of S keys; None where all have the weight 1.

    Returns:
        [B,H,1,1], or None.
    """
    if key_weights is None or key_weights.log_decay is None:
        return None
    return key_weights.log_decay.sum(2)[..., None, None]


def _scale_value_weight_and_square_sums(
    plain_sums: ValueWeightAndSquareSums, factor: Tensor
) -> ValueWeightAndSquareSums:
    """The plain sums after all m were multiplied by a factor: their last entry is the sum of m²."""
    return torch.cat([factor * plain_sums[..., :-1], factor.square() * plain_sums[..., -1:]], -1)
