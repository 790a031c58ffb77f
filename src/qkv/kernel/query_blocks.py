"""Exact attention in blocks of queries, whose memory is bounded; the backward pass recomputes each block.

A score needs `score.numbers_per_pair` numbers for each pair of a query and a key (the additive score its
hidden layer).  A block holds about `BLOCK_NUMBERS` of them at most.
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

# 8 MB of float32: large enough that the overhead of an operator does not matter, small enough for the last
# cache.
BLOCK_NUMBERS = 2**21


class AttentionInputs(NamedTuple):
    """The inputs of one call of exact attention.

    Args:
        q: Queries [B,H,T,D].
        keys: The keys as the score prepared them, [B,Hk,S,...].
        values: [B,Hk,S,E].
        masking: The masks and the bias.
        positions: The positions of queries and keys; None where nothing depends on them.
        causal: Whether query t sees keys up to t + S - T only.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    masking: Masking
    positions: TokenPositions | None
    causal: bool


def compute_queries_per_block(batch: int, heads: int, keys: int, numbers_per_pair: int) -> int:
    """The number of queries of every row and head in a block.

    Args:
        batch: B.
        heads: H.
        keys: S.
        numbers_per_pair: How many numbers the score holds for each pair.

    Returns:
        The number, at least 1.
    """
    size = batch * heads * keys * numbers_per_pair
    if is_recording(size):
        return BLOCK_NUMBERS  # one block: a recorded program would fix the number of blocks
    return max(1, BLOCK_NUMBERS // max(1, size))


def attend_in_blocks(attend: Callable[[slice], Attended], queries: int, block_size: int) -> Attended:
    """Attention of all queries, block by block.

    Args:
        attend: Attends from the queries of a slice.  With gradients the backward pass runs it once more for
            every block, with the same random numbers, so that only inputs and outputs are kept.
        queries: T.
        block_size: The number of queries in a block.

    Returns:
        The outputs, weights and log-probabilities of all queries.
    """
    if is_recording(queries) or queries <= block_size:
        return attend(slice(0, queries))
    rows = [slice(begin, min(begin + block_size, queries)) for begin in range(0, queries, block_size)]
    if torch.is_grad_enabled() and not is_transformed():  # function transforms do not support checkpointing
        blocks = [checkpoint(attend, part, use_reentrant=False) for part in rows]
    else:
        blocks = [attend(part) for part in rows]
    outs, weights, log_probs = zip(*blocks, strict=True)
    return Attended(
        torch.cat(outs, 2), _concat_along_queries_or_none(weights), _concat_along_queries_or_none(log_probs)
    )


def check_weights_fit_into_memory(inputs: AttentionInputs) -> None:
    """Check that the weights of all pairs fit into memory, before any block is computed.

    Args:
        inputs: The inputs of the call.

    Raises:
        TooLarge: They do not.
    """
    shape = (*inputs.q.shape[:3], inputs.values.shape[2])
    try:
        inputs.q.new_empty(shape)
    except RuntimeError as error:
        size = math.prod(shape) * inputs.q.element_size() / 1e9
        raise TooLarge(
            f"the weights [batch, heads, queries, keys] = {list(shape)} would take {size:,.0f} GB. Call the "
            "layer itself instead of attend(), which never stores them all, or pass fewer queries at a time"
        ) from error


def slice_queries_and_reachable_keys(inputs: AttentionInputs, rows: slice) -> AttentionInputs:
    """The inputs of these queries; under a causal order, with the keys up to that of the last of them.

    Args:
        inputs: Of all queries.
        rows: Which queries.

    Returns:
        The inputs of these queries.
    """
    q, keys, values, (keep, allow, bias, is_self, gate), positions, causal = inputs
    count = keys.shape[2]
    if rows == slice(0, q.shape[2]):
        return inputs
    if causal:
        count = min(max(count - q.shape[2] + rows.stop, 0), count)
    allow, bias = (_slice_mask(mask, rows, count) for mask in (allow, bias))
    masking = Masking(None if keep is None else keep[:, :count], allow, bias, is_self, gate)
    if positions is not None:
        query_positions, key_positions = positions.queries[:, rows], positions.keys[:, :count]
        positions = TokenPositions(query_positions, key_positions, positions.key_counts)
    return AttentionInputs(
        q[:, :, rows], keys[:, :, :count], values[:, :, :count], masking, positions, causal
    )


def pad_weights_to_all_keys(attended: Attended, keys: int) -> Attended:
    """Append weights of 0 for the keys that a block left out, up to `keys` keys.

    Args:
        attended: The output of a block, with weights [B,H,T,S'] or None.
        keys: S.

    Returns:
        The same with weights [B,H,T,S].
    """
    weights = attended.weights
    if weights is None or weights.shape[-1] == keys:
        return attended
    return attended._replace(weights=F.pad(weights, (0, keys - weights.shape[-1])))


def _concat_along_queries_or_none(blocks: tuple[Tensor | None, ...]) -> Tensor | None:
    """The tensors of all blocks along the queries; None where there are none."""
    tensors = [block for block in blocks if block is not None]
    return torch.cat(tensors, 2) if tensors else None


def _slice_mask(mask: Tensor | None, rows: slice, keys: int) -> Tensor | None:
    """The part of a mask or bias [.,.,1 or T,1 or S] for these queries and the first `keys` keys."""
    if mask is None:
        return None
    mask = mask if mask.shape[2] == 1 else mask[:, :, rows]
    return mask if mask.shape[3] == 1 else mask[..., :keys]
