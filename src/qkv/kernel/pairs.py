"""Exact attention over many pairs in bounded memory: a block of queries at a time, recomputed for gradients.

What a score holds for one pair (`score.numbers_per_pair` numbers; the additive score its whole inner layer)
is never held for more than about BLOCK pairs·numbers at once.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.errors import TooLarge
from qkv.kernel.masking import Masking
from qkv.shapes import Attended
from qkv.token_positions import TokenPositions
from qkv.tracing import is_recording, is_transformed

# 8 MB of float32: large enough that one operation's overhead is nothing, small enough for the last cache.
BLOCK = 2**21


class Pairs(NamedTuple):
    """Who meets whom: queries, the keys as the score prepared them, their values, and what was masking.

    masking.is_self is spent: `at` says where all stand.  causal: query t sees the keys up to t + S - T.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    masking: Masking
    at: TokenPositions | None
    causal: bool


def rows_at_once(batch: int, heads: int, keys: int, per_pair: int) -> int:
    """How many queries of every row and head make a block."""
    size = batch * heads * keys * per_pair
    if is_recording(size):
        return BLOCK  # in one block: how many there were would be recorded too
    return max(1, BLOCK // max(1, size))


def in_blocks(average: Callable[[slice], Attended], queries: int, rows: int) -> Attended:
    """Attention of all queries from that of `rows` at a time.

    average: attends from the queries of a slice.  With gradients it runs once more for every block in the
    backward pass (drawing the same random numbers), so that only inputs and outputs are kept.
    """
    if is_recording(queries) or queries <= rows:
        return average(slice(0, queries))
    parts = [slice(begin, min(begin + rows, queries)) for begin in range(0, queries, rows)]
    if torch.is_grad_enabled() and not is_transformed():  # which know no recomputing
        blocks = [checkpoint(average, part, use_reentrant=False) for part in parts]
    else:
        blocks = [average(part) for part in parts]
    outs, weights, log_probs = zip(*blocks, strict=True)
    return Attended(torch.cat(outs, 2), _joined(list(weights)), _joined(list(log_probs)))


def check_room(met: Pairs) -> None:
    """Raise TooLarge where the weights of all pairs would not fit into memory: at once, not at the end."""
    shape = (*met.q.shape[:3], met.values.shape[2])
    try:
        met.q.new_empty(shape)
    except RuntimeError as error:
        size = math.prod(shape) * met.q.element_size() / 1e9
        raise TooLarge(
            f"the weights [batch, heads, queries, keys] = {list(shape)} would take {size:,.0f} GB. Call the "
            "layer itself instead of attend(): it never holds them all. Or ask about fewer queries at a time"
        ) from error


def cut(met: Pairs, rows: slice) -> Pairs:
    """The pairs of these queries, under a causal order with the keys up to that of the last of them."""
    q, held, values, (keep, allow, bias, own, gate), at, causal = met
    keys = held.shape[2]
    if rows == slice(0, q.shape[2]):
        return met
    if causal:
        keys = min(max(keys - q.shape[2] + rows.stop, 0), keys)
    allow, bias = (_of_queries(mask, rows, keys) for mask in (allow, bias))
    masking = Masking(None if keep is None else keep[:, :keys], allow, bias, own, gate)
    at = None if at is None else TokenPositions(at.queries[:, rows], at.keys[:, :keys], at.key_counts)
    return Pairs(q[:, :, rows], held[:, :, :keys], values[:, :, :keys], masking, at, causal)


def pad_weights(attended: Attended, keys: int) -> Attended:
    """Weights over the first keys as weights over all `keys`: the others were not seen."""
    weights = attended.weights
    if weights is None or weights.shape[-1] == keys:
        return attended
    return attended._replace(weights=F.pad(weights, (0, keys - weights.shape[-1])))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there, 2) if there else None


def _of_queries(mask: Tensor | None, rows: slice, keys: int) -> Tensor | None:
    """The part of a mask or bias [.,.,1 or T,1 or S] for these queries and the first `keys` keys."""
    if mask is None:
        return None
    mask = mask if mask.shape[2] == 1 else mask[:, :, rows]
    return mask if mask.shape[3] == 1 else mask[..., :keys]
