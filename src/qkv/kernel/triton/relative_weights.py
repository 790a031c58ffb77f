"""The weights of keys relative to the largest that a query has seen, computed before the kernels run.

They are one number for every token, so that chunks depend on each other through their sums only.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_ZERO = float("-inf")


class LogWeights(NamedTuple):
    """The log weights of a call.

    Args:
        log_weights: [B·H,S], as in `key_weights.KeyWeights`.
        log_decay: [B·H,S], as in `key_weights.KeyWeights`; None without a gate.
        log_scale: [B·H], of the sums over the earlier keys.
    """

    log_weights: Tensor
    log_decay: Tensor | None
    log_scale: Tensor


class RelativeWeights(NamedTuple):
    """Weights and decay of B·H heads with N tokens in C chunks.  All sums are divided by exp(log_scale).

    Args:
        max_log_weights: [B·H,N], the largest log weight that query t has seen.
        carry_factors: [B·H,N], the factor at query t of the sums before its chunk.
        final_weights: [B·H,N], the weight of key s after the last key of its chunk.
        chunk_carry_factors: [B·H,C], the factor after a chunk of the sums before it.
        initial_factor: [B·H], the factor of the sums over the earlier keys before the first chunk reads them.
        log_scale: [B·H], after the last key.
    """

    max_log_weights: Tensor
    carry_factors: Tensor
    final_weights: Tensor
    chunk_carry_factors: Tensor
    initial_factor: Tensor
    log_scale: Tensor


def compute_causal_relative_weights(weights: LogWeights, chunk: int) -> RelativeWeights:
    """For queries that see the earlier keys and the keys up to their own.

    Args:
        weights: the log weights of N keys.
        chunk: tokens of a chunk.
    """
    log_weights, log_decay, log_scale = weights
    tokens = log_weights.shape[1]
    maxima = _compute_max_log_weights_at_queries(log_weights, log_decay, log_scale)
    ends = F.pad(maxima, (0, -tokens % chunk), value=LOG_ZERO).unflatten(1, (-1, chunk))
    ends = torch.cat([ends[:, :-1, -1], maxima[:, -1:]], 1)
    before = torch.cat([log_scale[:, None], ends[:, :-1]], 1)[:, : ends.shape[1]]
    decay_until, decay_after = _sum_log_decay_in_chunk_until_and_after_tokens(log_weights, log_decay, chunk)
    carry_logs = (before[..., None] + decay_until).flatten(1)[:, :tokens]
    last = ends.repeat_interleave(chunk, 1)[:, :tokens]
    chunk_carry_factors = _subtract_max_and_exp(before + decay_until[..., -1], ends)
    final_weights = _subtract_max_and_exp(log_weights + decay_after.flatten(1)[:, :tokens], last)
    final_scale = ends[:, -1] if tokens else log_scale
    return RelativeWeights(
        maxima,
        _subtract_max_and_exp(carry_logs, maxima),
        final_weights,
        chunk_carry_factors,
        torch.ones_like(log_scale),
        final_scale,
    )


def compute_bidirectional_relative_weights(weights: LogWeights, chunk: int) -> RelativeWeights:
    """For queries that see the earlier keys and all keys; maxima and carry factors of queries stay empty.

    Args:
        weights: the log weights of N keys.
        chunk: tokens of a chunk.
    """
    log_weights, log_decay, log_scale = weights
    total, later = torch.zeros_like(log_scale), torch.zeros_like(log_weights)
    if log_decay is not None:
        # In float64: in a long sum small terms would get lost.
        precise = log_decay.double()
        total = precise.sum(1)
        later = (total[:, None] - precise.cumsum(1)).float()
        total = total.float()
    logs, carry_log = log_weights + later, log_scale + total
    final_scale = torch.cat([carry_log[:, None], logs], 1).amax(1)
    chunk_carry_factors = log_weights.new_ones(len(log_weights), -(-log_weights.shape[1] // chunk))
    empty = log_weights.new_empty(0)
    final_weights = _subtract_max_and_exp(logs, final_scale[:, None])
    initial_factor = _subtract_max_and_exp(carry_log, final_scale)
    return RelativeWeights(empty, empty, final_weights, chunk_carry_factors, initial_factor, final_scale)


def _compute_max_log_weights_at_queries(
    log_weights: Tensor, log_decay: Tensor | None, log_scale: Tensor
) -> Tensor:
    """The largest log weight [B·H,N] that each query has seen, that of the earlier keys included."""
    if log_decay is None:
        return torch.cat([log_scale[:, None], log_weights], 1).cummax(1).values[:, 1:].contiguous()
    decay_until = log_decay.double().cumsum(1)
    logs = torch.cat([log_scale[:, None].double(), log_weights.double() - decay_until], 1)
    return (logs.cummax(1).values[:, 1:] + decay_until).float()


def _sum_log_decay_in_chunk_until_and_after_tokens(
    log_weights: Tensor, log_decay: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Σ log g [B·H,C,chunk] over the tokens of a chunk up to each one, and over those after each one."""
    decay = log_weights if log_decay is None else log_decay
    padded = F.pad(decay, (0, -decay.shape[1] % chunk)).unflatten(1, (-1, chunk))
    if log_decay is None:
        return torch.zeros_like(padded), torch.zeros_like(padded)
    decay_after = F.pad(padded, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)
    return padded.cumsum(-1), decay_after


def _subtract_max_and_exp(logs: Tensor, maximum: Tensor) -> Tensor:
    """exp(logs - maximum); 0 where both are -inf."""
    return (logs - maximum.masked_fill(maximum == LOG_ZERO, 0)).exp()
