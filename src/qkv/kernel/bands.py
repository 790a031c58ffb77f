"""Windowed attention in bands: blocks of queries, each with the few keys that its windows reach.

A block of C queries at positions p … p + C - 1, whose windows reach `left` positions back and `right` ahead,
sees W = C + left + right keys:

            keys
    queries |#####  .  .  .|     block 0
            |  .#######.  .|     block 1       C·W pairs per block
            |  .  .#######.|     block 2
            |  .  .  .#####|     block 3

The blocks form a batch of small attentions.  Instead of T·S pairs they have T·W, so that time and memory grow
linearly with the length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.kernel.memory_pool import allocate_pooled_empty
from qkv.shapes import Keep
from qkv.token_positions import TokenPositions
from qkv.tracing import can_bypass_dispatcher, holds_for_all_sizes

Vectors = Float[Tensor, "B H N D"]
Blocks = Float[Tensor, "Bn H C D"]
AttendBlocks = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Blocks of half the reach compute few pairs outside of the windows; smaller blocks make slow products.
MIN_BLOCK, MAX_BLOCK = 32, 128
# Without gradients this many blocks are computed at a time, so that their tensors stay in the cache.
BLOCKS_AT_A_TIME = 16


class Bands(NamedTuple):
    """n blocks of C queries, each with W = C + left + right slots for keys.

    Args:
        key_index: [B or 1,n,W], the index of the key in each slot; any index where the slot is empty.
        allow: [B or 1,n,C,W], whether the window of a query holds the key in a slot.
        first_slot: The index of the key in the first slot of the first block, where all slots follow each
            other without gaps; None otherwise.
    """

    key_index: Int[Tensor, "#B n W"]
    allow: Bool[Tensor, "#B n C W"]
    first_slot: int | None


def compute_queries_per_band_block(left: int, right: int) -> int:
    """C, the number of queries in a block, for windows that reach so many positions back and ahead.

    Args:
        left: How many positions a window reaches back.
        right: How many positions a window reaches ahead.

    Returns:
        C.
    """
    return min(max((left + right) // 2, MIN_BLOCK), MAX_BLOCK)


def are_bands_cheaper(queries: int, keys: int, left: int, right: int) -> bool:
    """Whether bands have fewer pairs than half of all pairs, which a causal mask leaves.

    Args:
        queries: T.
        keys: S.
        left: How many positions a window reaches back.
        right: How many positions a window reaches ahead.

    Returns:
        True if so; in a recorded program, only if it is so for all lengths.
    """
    size = compute_queries_per_band_block(left, right)
    return holds_for_all_sizes(queries > size) and holds_for_all_sizes(2 * (size + left + right) < keys)


def describe_bands(queries: int, left: int, right: int) -> str:
    """The blocks of T queries in words, for `explain`."""
    size = compute_queries_per_band_block(left, right)
    return (
        f"in bands: {-(-queries // size)} blocks of {size} queries with {size + left + right} keys in reach"
    )


def build_bands(positions: TokenPositions, keep: Keep | None, left: int, right: int, is_self: bool) -> Bands:
    """The bands of windows p - left … p + right.

    Args:
        positions: Of queries and keys; the position grows by at most 1 from query to query.
        keep: [B,S], True for real keys; None where all are real.
        left: How many positions a window reaches back.
        right: How many positions a window reaches ahead.
        is_self: Whether the queries are keys too, so that without padding their positions grow by exactly 1.

    Returns:
        The blocks, their keys and masks.
    """
    size, queries, keys = (
        compute_queries_per_band_block(left, right),
        positions.queries.shape[1],
        positions.keys.shape[1],
    )
    query_positions = F.pad(positions.queries, (0, -queries % size)).unflatten(1, (-1, size))
    offsets = torch.arange(size + left + right, device=positions.keys.device)
    slots = query_positions[:, :, :1] - left + offsets
    has_key = (slots >= 0) & (slots < positions.key_counts[:, :, None])
    is_regular = is_self and keep is None  # every block has the same distances between queries and slots
    if is_regular:
        ahead = slots[:, :1, None] - query_positions[:, :1, :, None]
    else:
        ahead = slots[:, :, None] - query_positions[..., None]
    allow = has_key[:, :, None] & ((ahead >= -left) & (ahead <= right))
    index = slots.clamp(0, keys - 1)
    if keep is not None:  # the indices of the real keys, in order, wherever the padding is
        order = (~keep).sort(dim=1, stable=True).indices
        index = order.gather(1, index.flatten(1)).view_as(index)
    return Bands(index, allow, keys - queries - left if is_regular else None)


def attend_in_bands(attend: AttendBlocks, q: Tensor, k: Tensor, v: Tensor, bands: Bands) -> Vectors:
    """Windowed attention [B,H,T,E].

    Args:
        attend: `attend(q, k, v, allow)` computes the output of a batch of blocks.
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D].
        v: Values [B,Hk,S,E].
        bands: What `build_bands` returned for them.

    Returns:
        out [B,H,T,E].
    """
    if bands.first_slot is None or not can_bypass_dispatcher((q, k, v)) or q.device.type != "cpu":
        return _attend_blocks_as_batch(attend, q, k, v, bands)
    batch, heads, queries = q.shape[:3]
    out: Any = None
    blocks, size = bands.allow.shape[1:3]
    for begin in range(0, blocks, BLOCKS_AT_A_TIME):
        some = slice(begin, begin + BLOCKS_AT_A_TIME)
        rows = slice(begin * size, (begin + BLOCKS_AT_A_TIME) * size)
        part = Bands(bands.key_index[:, some], bands.allow[:, some], bands.first_slot + begin * size)
        block_out = _attend_blocks_as_batch(attend, q[:, :, rows], k, v, part)
        if out is None:  # autocast may have changed the dtype
            out = allocate_pooled_empty((batch, queries, heads, v.shape[3]), block_out.dtype).transpose(1, 2)
        out[:, :, rows] = block_out
    return out


def _attend_blocks_as_batch(attend: AttendBlocks, q: Tensor, k: Tensor, v: Tensor, bands: Bands) -> Vectors:
    """The output [B,H,T,E] of all blocks, as one batch."""
    (batch, _, queries, _), size = q.shape, bands.allow.shape[2]
    allow = bands.allow.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    out = attend(
        _pad_and_split_queries_into_blocks(q, size),
        _gather_keys_or_values_of_blocks(k, bands),
        _gather_keys_or_values_of_blocks(v, bands),
        allow,
    )
    return _merge_blocks_and_drop_padding(out, batch, queries)


def _pad_and_split_queries_into_blocks(x: Vectors, size: int) -> Blocks:
    """[B,H,T,D] -> blocks as a batch [B·n,H,C,D]; the last one is padded with zeros."""
    rows, missing = x.transpose(1, 2), -x.shape[2] % size
    rows = F.pad(rows, (0, 0, 0, 0, 0, missing)) if missing else rows
    return rows.reshape(-1, size, *rows.shape[2:]).transpose(1, 2)


def _gather_keys_or_values_of_blocks(x: Vectors, bands: Bands) -> Blocks:
    """Keys or values [B,H,S,D] -> those in the slots of every block [B·n,H,W,D]."""
    blocks, width = bands.key_index.shape[1:]
    rows = x.transpose(1, 2)
    if bands.first_slot is None:
        return _gather_rows_into_batch_of_blocks(rows, bands.key_index).transpose(1, 2)
    size = bands.allow.shape[2]
    slots = (blocks - 1) * size + width
    begin, end = (min(max(slot, 0), x.shape[2]) for slot in (bands.first_slot, bands.first_slot + slots))
    before = min(max(-bands.first_slot, 0), slots)
    after = slots - before - (end - begin)
    rows = rows[:, begin:end]
    rows = F.pad(rows, (0, 0, 0, 0, before, after)) if before or after else rows
    return rows.unfold(1, width, size).permute(0, 1, 2, 4, 3).flatten(0, 1)


def _merge_blocks_and_drop_padding(out: Blocks, batch: int, queries: int) -> Vectors:
    """The blocks [B·n,H,C,E] as one sequence [B,H,T,E]."""
    rows = out.transpose(1, 2).reshape(batch, -1, out.shape[1], out.shape[3])
    return rows[:, :queries].transpose(1, 2)


def _gather_rows_into_batch_of_blocks(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B,S,H,D] at an index [B or 1,n,W] -> [B·n,W,H,D]."""
    batch, keys, heads, width = rows.shape
    offsets = torch.arange(batch, device=rows.device)[:, None, None] * keys
    # An embedding, because torch sums its gradient in parallel.
    gathered = F.embedding(index + offsets, rows.reshape(batch * keys, heads * width))
    return gathered.view(-1, index.shape[2], heads, width)
