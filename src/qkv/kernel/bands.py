"""Windows in bands: blocks of queries, each with the few keys that any of its windows reach.

Queries at places p … p + C - 1 that see `left` places back and `right` ahead meet, all together, the
C + left + right keys from p - left on.  So the blocks are a batch of small attentions, and N·(C + left +
right) pairs stand for N·N: time and memory grow as N.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.places import Places
from qkv.shapes import Keep

Whole = Float[Tensor, "B H N D"]
Blocks = Float[Tensor, "Bn H C D"]

# Half of the reach wastes little on the corners of a band; fewer queries make products too small to be fast.
FEWEST, MOST = 32, 128


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
    return queries > size and 2 * (size + left + right) < keys


def bands(at: Places, keep: Keep | None, left: int, right: int, in_line: bool) -> Bands:
    """The bands of windows p - left … p + right, for places that ascend by at most 1 from query to query.

    in_line: whether they ascend by exactly 1 (queries that are keys too, none of them padded).
    """
    size, queries, keys = block_size(left, right), at.queries.shape[1], at.keys.shape[1]
    at_block = F.pad(at.queries, (0, -queries % size)).unflatten(1, (-1, size))
    slots = at_block[:, :, :1] - left + torch.arange(size + left + right, device=at.keys.device)
    there = (slots >= 0) & (slots < at.count[:, :, None])
    ahead = slots[:, :, None] - at_block[..., None]
    allow = there[:, :, None] & (ahead >= -left) & (ahead <= right)
    index = slots.clamp(0, keys - 1)
    if keep is not None:  # the real keys in their order, wherever padding stands between them
        order = (~keep).sort(dim=1, stable=True).indices
        index = order.gather(1, index.flatten(1)).view_as(index)
    first = keys - queries - left if in_line and keep is None else None
    return Bands(index, allow, first)


def queries_of(x: Whole, size: int) -> Blocks:
    """[B,H,T,D] -> the blocks as a batch [B·n,H,C,D], the last one filled up with zeros."""
    rows, short = x.transpose(1, 2), -x.shape[2] % size
    rows = F.pad(rows, (0, 0, 0, 0, 0, short)) if short else rows
    return rows.reshape(-1, size, *rows.shape[2:]).transpose(1, 2)


def keys_of(x: Whole, band: Bands) -> Blocks:
    """[B,H,S,D] -> the keys or values of every block [B·n,H,W,D]."""
    blocks, width = band.keys.shape[1:]
    rows = x.transpose(1, 2)
    if band.first is None:
        return _gathered(rows, band.keys).transpose(1, 2)
    size = band.allow.shape[2]
    end = band.first + (blocks - 1) * size + width
    padded = F.pad(rows, (0, 0, 0, 0, -band.first, end - x.shape[2]))
    return padded.unfold(1, width, size).permute(0, 1, 2, 4, 3).flatten(0, 1)


def merged(out: Blocks, batch: int, queries: int) -> Whole:
    """The blocks [B·n,H,C,E] as one sequence [B,H,T,E]."""
    rows = out.transpose(1, 2).reshape(batch, -1, out.shape[1], out.shape[3])
    return rows[:, :queries].transpose(1, 2)


def _gathered(rows: Tensor, index: Tensor) -> Tensor:
    """[B,S,H,D] at [B or 1,n,W] -> [B·n,W,H,D].  As an embedding, whose gradient is summed in parallel."""
    batch, keys, heads, width = rows.shape
    offsets = torch.arange(batch, device=rows.device)[:, None, None] * keys
    picked = F.embedding(index + offsets, rows.reshape(batch * keys, heads * width))
    return picked.view(-1, index.shape[2], heads, width)
