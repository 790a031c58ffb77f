"""Positions of queries and keys, which windows, predicted positions and location scores are measured in.

A position counts the real keys before it, so padding on the left, on the right or in between changes no
position.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.shapes import Keep


class TokenPositions(NamedTuple):
    """Positions of the queries and the keys of one attention call, counted from 0.

    Args:
        queries: [B or 1, T], the position of every query.
        keys: [B or 1, S], the position of every key; a padded key has that of the real key before it.
        key_counts: [B or 1, 1], the number of real keys.
    """

    queries: Int[Tensor, "#B T"]
    keys: Int[Tensor, "#B S"]
    key_counts: Int[Tensor, "#B 1"]


def build_self_positions(
    queries: int, keys: int, keep: Keep | None, device: torch.device | None = None
) -> TokenPositions:
    """Build the positions for self-attention: the last query is the last key, as under `causal`.

    Args:
        queries: T, the number of queries.
        keys: S, the number of keys.
        keep: [B,S], True at real keys; None where all are real.
        device: Where to create the positions.

    Returns:
        Positions with batch size B, or 1 where `keep` is None.  Queries ahead of the first key have negative
        positions.
    """
    key_positions, key_counts = _number_keys(keys, keep, device)
    offset = keys - queries
    ahead = torch.arange(min(offset, 0), 0, device=device).expand(key_positions.shape[0], -1)
    query_positions = torch.cat([ahead, key_positions[:, max(offset, 0) :]], 1)
    return TokenPositions(query_positions, key_positions, key_counts)


def build_memory_positions(
    queries: int, keys: int, keep: Keep | None, first: int = 0, device: torch.device | None = None
) -> TokenPositions:
    """Build the positions for attention to a memory: query number i is at position i of the memory.

    Args:
        queries: T, the number of queries.
        keys: S, the number of keys.
        keep: [B,S], True at real keys; None where all are real.
        first: The number of the first query: the steps decoded so far.
        device: Where to create the positions.

    Returns:
        Positions with batch size B, or 1 where `keep` is None.  Queries beyond the memory are at its last
        real key.
    """
    key_positions, key_counts = _number_keys(keys, keep, device)
    steps = torch.arange(first, first + queries, device=device)[None]
    return TokenPositions(torch.minimum(steps, (key_counts - 1).clamp_min(0)), key_positions, key_counts)


def _number_keys(keys: int, keep: Keep | None, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """The positions of the keys and the number of real ones."""
    if keep is None:
        return torch.arange(keys, device=device)[None], torch.full((1, 1), keys, device=device)
    return keep.cumsum(1) - 1, keep.sum(1, keepdim=True)
