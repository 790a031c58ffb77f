"""Exact attention over many pairs in bounded memory: a block of queries at a time, recomputed for gradients.

What a score holds for one pair (`score.per_pair` numbers; the additive score its whole inner layer) is never
held for more than about BLOCK pairs·numbers at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.kernel.given import Given
from qkv.places import Places
from qkv.shapes import Attended

# 8 MB of float32: large enough that one operation's overhead is nothing, small enough for the last cache.
BLOCK = 2**21


class Pairs(NamedTuple):
    """Who meets whom: queries, the keys as the score prepared them, their values, and what was given.

    given.own is spent: `at` says where all stand.  causal: query t sees the keys up to t + S - T.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    given: Given
    at: Places | None
    causal: bool


def rows_at_once(batch: int, heads: int, keys: int, per_pair: int) -> int:
    """How many queries of every row and head make a block."""
    return max(1, BLOCK // max(1, batch * heads * keys * per_pair))


def in_blocks(average: Callable[[slice], Attended], queries: int, rows: int) -> Attended:
    """Attention of all queries from that of `rows` at a time.

    average: attends from the queries of a slice.  With gradients it runs once more for every block in the
    backward pass (drawing the same random numbers), so that only inputs and outputs are kept.
    """
    if queries <= rows:
        return average(slice(0, queries))
    parts = [slice(begin, min(begin + rows, queries)) for begin in range(0, queries, rows)]
    if torch.is_grad_enabled():
        blocks = [checkpoint(average, part, use_reentrant=False) for part in parts]
    else:
        blocks = [average(part) for part in parts]
    outs, weights, log_probs = zip(*blocks, strict=True)
    return Attended(torch.cat(outs, 2), _joined(list(weights)), _joined(list(log_probs)))


def cut(met: Pairs, rows: slice, keys: int) -> Pairs:
    """The pairs of these queries with the first `keys` keys; under a causal order the last key is theirs."""
    q, held, values, (keep, allow, bias, own, gate), at, causal = met
    if q.shape[2] == rows.stop - rows.start and keys == held.shape[2]:
        return met
    allow, bias = (_of_queries(mask, rows, keys) for mask in (allow, bias))
    given = Given(None if keep is None else keep[:, :keys], allow, bias, own, gate)
    at = None if at is None else Places(at.queries[:, rows], at.keys[:, :keys], at.count)
    return Pairs(q[:, :, rows], held[:, :, :keys], values[:, :, :keys], given, at, causal)


def widened(attended: Attended, keys: int) -> Attended:
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
