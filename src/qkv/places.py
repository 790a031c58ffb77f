"""Where queries and keys stand: what windows, predicted positions and location scores count from.

Positions count real keys, so that padding inserted anywhere, left, right or between, moves nothing.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.shapes import Keep


class Places(NamedTuple):
    """Positions from 0 on.

    queries: [B or 1, T].  keys: [B or 1, S]; that of a padded key is its predecessor's.
    count: [B or 1, 1] real keys.
    """

    queries: Int[Tensor, "#B T"]
    keys: Int[Tensor, "#B S"]
    count: Int[Tensor, "#B 1"]


def in_line(queries: int, keys: int, keep: Keep | None, device: torch.device | None = None) -> Places:
    """Places where queries are keys too: the last query stands at the last key, as under `causal`."""
    at, count = _of_keys(keys, keep, device)
    ahead = keys - queries
    before = torch.arange(min(ahead, 0), 0, device=device).expand(at.shape[0], -1)
    return Places(torch.cat([before, at[:, max(ahead, 0) :]], 1), at, count)


def from_first(
    queries: int, keys: int, keep: Keep | None, first: int = 0, device: torch.device | None = None
) -> Places:
    """Places of queries number `first`, first + 1, … to a memory; those beyond its end stand at its end."""
    at, count = _of_keys(keys, keep, device)
    steps = torch.arange(first, first + queries, device=device)[None]
    return Places(torch.minimum(steps, (count - 1).clamp_min(0)), at, count)


def _of_keys(keys: int, keep: Keep | None, device: torch.device | None) -> tuple[Tensor, Tensor]:
    if keep is None:
        at = torch.arange(keys, device=device)[None]
        return at, torch.full((1, 1), keys, device=device)
    return keep.cumsum(1) - 1, keep.sum(1, keepdim=True)
