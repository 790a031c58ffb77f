"""Windows in bands: blocks of queries, each with the few keys that any of its windows reach.

Queries at places p … p + C - 1 that see `left` places back and `right` ahead meet, all together, the
C + left + right keys from p - left on.  So the blocks are a batch of small attentions, and N·(C + left +
right) pairs stand for N·N: time and memory grow as N.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.kernel.memory_pool import pooled_empty
from qkv.shapes import Keep
from qkv.token_positions import TokenPositions
from qkv.tracing import always, can_bypass_dispatcher

Whole = Float[Tensor, "B H N D"]
Blocks = Float[Tensor, "Bn H C D"]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Half of the reach wastes little on the corners of a band; fewer queries make products too small to be fast.
FEWEST, MOST = 32, 128
# Blocks at a time where nobody sees it: what is made of them stays small and near.
RUN = 16


class Bands(NamedTuple):
    """n blocks of C queries, and the W = C + left + right keys of each.

    keys: [B or 1, n, W], which key stands at each slot, any where none does.
    allow: [B or 1, n, C, W], whether the window of a query holds that slot's key.
    first: the place of the first slot where slot after slot, block after block, follow in line; else None.
    """

    keys: Int[Tensor, "#B n W"]
    allow: Bool[Tensor, "#B n C W"]
    first: int | None


def block_size(left: int, right: int) -> int:
    """C, the number of queries in a block."""
    return min(max((left + right) // 2, FEWEST), MOST)


def worth_it(queries: int, keys: int, left: int, right: int) -> bool:
    """Whether bands hold fewer pairs than the half of all pairs that a causal order leaves."""
    size = block_size(left, right)
    return always(queries > size) and always(2 * (size + left + right) < keys)


def bands(at: TokenPositions, keep: Keep | None, left: int, right: int, in_line: bool) -> Bands:
    """The bands of windows p - left … p + right, for places that ascend by at most 1 from query to query.

    in_line: whether they ascend by exactly 1 (queries that are keys too, none of them padded).
    """
    size, queries, keys = block_size(left, right), at.queries.shape[1], at.keys.shape[1]
    at_block = F.pad(at.queries, (0, -queries % size)).unflatten(1, (-1, size))
    slots = at_block[:, :, :1] - left + torch.arange(size + left + right, device=at.keys.device)
    there = (slots >= 0) & (slots < at.key_counts[:, :, None])
    alike = in_line and keep is None  # all blocks are as far from their slots as the first
    ahead = (
        (slots[:, :1, None] - at_block[:, :1, :, None]) if alike else slots[:, :, None] - at_block[..., None]
    )
    allow = there[:, :, None] & ((ahead >= -left) & (ahead <= right))
    index = slots.clamp(0, keys - 1)
    if keep is not None:  # the real keys in their order, wherever padding stands between them
        order = (~keep).sort(dim=1, stable=True).indices
        index = order.gather(1, index.flatten(1)).view_as(index)
    first = keys - queries - left if alike else None
    return Bands(index, allow, first)


def attended(attend: Attend, q: Tensor, k: Tensor, v: Tensor, band: Bands) -> Whole:
    """out [B,H,T,E], where attend(q, k, v, allow) gives that of blocks of queries and their keys."""
    if band.first is None or not can_bypass_dispatcher((q, k, v)) or q.device.type != "cpu":
        return _at_once(attend, q, k, v, band)
    batch, heads, queries = q.shape[:3]
    out: Any = None
    blocks, size = band.allow.shape[1:3]
    for begin in range(0, blocks, RUN):
        here, now = slice(begin, begin + RUN), slice(begin * size, (begin + RUN) * size)
        some = Bands(band.keys[:, here], band.allow[:, here], band.first + begin * size)
        part = _at_once(attend, q[:, :, now], k, v, some)
        if out is None:  # autocast may have changed the type
            out = pooled_empty((batch, queries, heads, v.shape[3]), part.dtype).transpose(1, 2)
        out[:, :, now] = part
    return out


def _at_once(attend: Attend, q: Tensor, k: Tensor, v: Tensor, band: Bands) -> Whole:
    (batch, _, queries, _), size = q.shape, band.allow.shape[2]
    allow = band.allow.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    out = attend(_queries_of(q, size), _keys_of(k, band), _keys_of(v, band), allow)
    return _merged(out, batch, queries)


def _queries_of(x: Whole, size: int) -> Blocks:
    """[B,H,T,D] -> the blocks as a batch [B·n,H,C,D], the last one filled up with zeros."""
    rows, short = x.transpose(1, 2), -x.shape[2] % size
    rows = F.pad(rows, (0, 0, 0, 0, 0, short)) if short else rows
    return rows.reshape(-1, size, *rows.shape[2:]).transpose(1, 2)


def _keys_of(x: Whole, band: Bands) -> Blocks:
    """[B,H,S,D] -> the keys or values of every block [B·n,H,W,D]."""
    blocks, width = band.keys.shape[1:]
    rows = x.transpose(1, 2)
    if band.first is None:
        return _gathered(rows, band.keys).transpose(1, 2)
    size = band.allow.shape[2]
    all_slots = (blocks - 1) * size + width
    begin, end = (min(max(place, 0), x.shape[2]) for place in (band.first, band.first + all_slots))
    before = min(max(-band.first, 0), all_slots)
    after = all_slots - before - (end - begin)
    rows = rows[:, begin:end]
    rows = F.pad(rows, (0, 0, 0, 0, before, after)) if before or after else rows
    return rows.unfold(1, width, size).permute(0, 1, 2, 4, 3).flatten(0, 1)


def _merged(out: Blocks, batch: int, queries: int) -> Whole:
    """The blocks [B·n,H,C,E] as one sequence [B,H,T,E]."""
    rows = out.transpose(1, 2).reshape(batch, -1, out.shape[1], out.shape[3])
    return rows[:, :queries].transpose(1, 2)


def _gathered(rows: Tensor, index: Tensor) -> Tensor:
    """[B,S,H,D] at [B or 1,n,W] -> [B·n,W,H,D].  As an embedding, whose gradient is summed in parallel."""
    batch, keys, heads, width = rows.shape
    offsets = torch.arange(batch, device=rows.device)[:, None, None] * keys
    picked = F.embedding(index + offsets, rows.reshape(batch * keys, heads * width))
    return picked.view(-1, index.shape[2], heads, width)
