"""Causal linear attention of one chunk: every query averages over the keys up to its own.

A sequence is processed in chunks of `chunks.CHUNK` positions, one after the other (`chunks.scan_chunks`).
The carry (the sums over all earlier keys) is passed from chunk to chunk.  A chunk is divided into tiles of
C = `chunks.TILE` positions:

                        one chunk of n = 4 tiles
                  +----------+----------+----------+----------+
    keys          |  tile 0  |  tile 1  |  tile 2  |  tile 3  |
                  +----------+----------+----------+----------+
                       |          |          |          |
    1. sum_keys        s0         s1         s2         s3            the sums of every tile, all at once
                       |          |          |          |
    2. carry --+------(+)--+-----(+)--+-----(+)--+-----(+)--> carry   prefix sums: combine_sums from tile to
               |           |          |          |                    tile; the keys of a tile let the
               c0          c1         c2         c3                   carry decay
               |           |          |          |
    3. out     tile 0      tile 1     tile 2     tile 3               inter-tile part + intra-tile part

In step 3 a query of tile i sees the keys before its tile through the carry c_i, and the keys of its tile up
to its own through the lower triangle of the pairs:

    query_sums = φ(q) @ c_i.feature_sums                        [C,F] @ [F,E+1] -> [C,E+1]     inter-tile
               + tril(φ(q) @ φ(k)ᵀ) @ [v, 1]                    [C,C] @ [C,E+1] -> [C,E+1]     intra-tile

For T queries this takes O(T·(C + F)·E) time and O(T·C) memory; all pairs would take O(T²).
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qkv import masks
from qkv.kernel import chunks
from qkv.kernel.key_weights import (
    LOG_ZERO,
    KeyWeights,
    compute_causal_log_weights_at_queries,
    compute_detached_row_max,
    fold_key_weight_tiles_into_heads,
    subtract_max_and_exp,
)
from qkv.kernel.sums import (
    Features,
    MappedKeys,
    OutputAndSums,
    Sums,
    ValuesWithOne,
    combine_sums,
    compute_denominator_deficit,
    decay_carry_and_add_keys,
    sum_keys,
    sum_log_decay,
)
from qkv.tracing import is_recording


class TileWeights(NamedTuple):
    """The key weights at each of T queries of a tile, divided by the largest that the query sees.

    Args:
        pairs: [#B,#H,T,S], the weight of every key of the tile at every query; 0 for later keys.
        total: [B,H,T,1], the sum of the weights of real keys of the tile.
        squares: [B,H,T,1], the sum of the squares of these weights.
        carry_factor: [B,H,T,1], the factor of the carried sums; None where every real key has the weight 1.
    """

    pairs: Tensor
    total: Tensor
    squares: Tensor
    carry_factor: Any


class PrefixSums(NamedTuple):
    """The sums around the tiles of a chunk.

    Args:
        before_tiles: The sums before every tile, with the tiles folded into the heads.
        after_last_tile: The sums after the last tile.
    """

    before_tiles: Sums
    after_last_tile: Sums


def average_chunk_causally(
    query_features: Features, keys: MappedKeys, carry: Sums, floor: float
) -> OutputAndSums:
    """Causal linear attention of one chunk; see the drawing above.

    Args:
        query_features: φ(q) [B,H,T,F].  T is a multiple of `chunks.TILE`, or smaller than it; in a program
            that is being recorded it is any number.
        keys: The T keys of the same positions.
        carry: The sums over all earlier keys.
        floor: See `sums`.

    Returns:
        The averages [B,H,T,E], and the sums after the last key, from which the next chunk goes on.
    """
    heads, length = query_features.shape[1:3]
    if is_recording(length):
        return _average_chunk_of_any_length_causally(query_features, keys, carry, floor)
    if length <= chunks.TILE:
        out = _average_tiles_causally(query_features, keys, carry, floor)
        return OutputAndSums(out, decay_carry_and_add_keys(keys, carry))
    key_weights = (
        None if keys.key_weights is None else fold_key_weight_tiles_into_heads(keys.key_weights, chunks.TILE)
    )
    tiles = MappedKeys(
        _fold_tiles_into_heads(keys.features), _fold_tiles_into_heads(keys.values), key_weights
    )
    carries, after = _compute_prefix_sums_of_tiles(tiles, carry)
    out = _average_tiles_causally(_fold_tiles_into_heads(query_features), tiles, carries, floor)
    return OutputAndSums(out.unflatten(1, (heads, -1)).flatten(2, 3), after)


def _fold_tiles_into_heads(x: Float[Tensor, "B H N _"]) -> Float[Tensor, "B HG C _"]:
    """Fold the tiles of a chunk into the heads, so that each operator processes all tiles at once."""
    return x.unflatten(2, (-1, chunks.TILE)).flatten(1, 2)


def _compute_prefix_sums_of_tiles(tiles: MappedKeys, carry: Sums) -> PrefixSums:
    """The prefix sums of a chunk, tile by tile."""
    heads = carry.feature_sums.shape[1]
    prefix_sums, fields = [carry], (*sum_keys(tiles), sum_log_decay(tiles.key_weights))
    for *tile_sums, log_decay in zip(*(_unbind_tiles_from_heads(x, heads) for x in fields), strict=False):
        prefix_sums.append(combine_sums(prefix_sums[-1], Sums(*tile_sums), log_decay))
    before_tiles = (_stack_tiles_into_heads(*field) for field in zip(*prefix_sums[:-1], strict=True))
    return PrefixSums(Sums(*before_tiles), prefix_sums[-1])


def _unbind_tiles_from_heads(x: Tensor | None, heads: int) -> Iterable[Any]:
    """The parts of x [B,H·n,...] that belong to each of n tiles; None for every tile where x is None."""
    return repeat(None) if x is None else x.unflatten(1, (heads, -1)).unbind(2)


def _stack_tiles_into_heads(*tiles: Any) -> Any:
    """Fold n tensors [B,H,...] into the heads [B,H·n,...]; None where they are None."""
    return None if tiles[0] is None else torch.stack(tiles, 2).flatten(1, 2)


def _average_chunk_of_any_length_causally(
    query_features: Features, keys: MappedKeys, carry: Sums, floor: float
) -> OutputAndSums:
    """The same with a number of operators that does not depend on T, for programs being recorded."""
    heads, length = query_features.shape[1:3]
    fill = -length % chunks.TILE
    queries, features, values = (
        F.pad(x, (0, 0, 0, fill)) for x in (query_features, keys.features, keys.values)
    )
    key_weights = keys.key_weights
    if key_weights is not None:
        key_weights = fold_key_weight_tiles_into_heads(
            _append_padded_key_weights(key_weights, fill), chunks.TILE
        )
    tiles = MappedKeys(_fold_tiles_into_heads(features), _fold_tiles_into_heads(values), key_weights)
    feature_sums, plain_sums, log_scale = _compute_prefix_sums_in_one_product(tiles, carry)
    scales = (None, None) if log_scale is None else (log_scale[:, :, :-1].flatten(1, 2), log_scale[:, :, -1])
    carries = Sums(feature_sums[:, :, :-1].flatten(1, 2), plain_sums[:, :, :-1].flatten(1, 2), scales[0])
    after = Sums(feature_sums[:, :, -1], plain_sums[:, :, -1], scales[1])
    out = _average_tiles_causally(_fold_tiles_into_heads(queries), tiles, carries, floor)
    return OutputAndSums(out.unflatten(1, (heads, -1)).flatten(2, 3)[:, :, :length], after)


def _append_padded_key_weights(key_weights: KeyWeights, count: int) -> KeyWeights:
    """Append `count` padded keys."""
    log_decay = None if key_weights.log_decay is None else F.pad(key_weights.log_decay, (0, count))
    return KeyWeights(F.pad(key_weights.log_weights, (0, count), value=LOG_ZERO), log_decay)


def _compute_prefix_sums_in_one_product(tiles: MappedKeys, carry: Sums) -> Sums:
    """The sums [B,H,n+1,...] before each of n tiles and after the last.

    The carry and the sums of the tiles are treated as n + 1 keys: a lower-triangular matrix of their weights
    combines them.
    """
    heads = carry.feature_sums.shape[1]

    def prepend(first: Tensor, of_tiles: Tensor) -> Tensor:
        return torch.cat([first[:, :, None], of_tiles.unflatten(1, (heads, -1))], 2)

    tile_sums, log_decay = sum_keys(tiles), sum_log_decay(tiles.key_weights)
    feature_sums = prepend(carry.feature_sums, tile_sums.feature_sums)
    plain_sums = prepend(carry.plain_sums, tile_sums.plain_sums)
    if tile_sums.log_scale is None:
        return Sums(feature_sums.cumsum(2), plain_sums.cumsum(2), None)
    log_scales = prepend(carry.log_scale, tile_sums.log_scale).flatten(2)
    if log_decay is not None:
        log_decay = F.pad(log_decay.unflatten(1, (heads, -1)).flatten(2), (1, 0))
    logs = compute_causal_log_weights_at_queries(KeyWeights(log_scales, log_decay), log_scales.shape[2])
    log_scale = compute_detached_row_max(logs)
    m = subtract_max_and_exp(logs, log_scale)
    plain_sums = plain_sums.flatten(3)
    # [B,H,n+1,n+1] @ [B,H,n+1,E+1] -> [B,H,n+1,E+1], and the same for the sums of squares
    plain_sums = torch.cat([m @ plain_sums[..., :-1], m.square() @ plain_sums[..., -1:]], -1)[:, :, :, None]
    # [B,H,n+1,n+1] @ [B,H,n+1,F·(E+1)] -> [B,H,n+1,F·(E+1)]
    feature_sums = (m @ feature_sums.flatten(3)).unflatten(3, feature_sums.shape[3:])
    return Sums(feature_sums, plain_sums, log_scale[..., None])


def _average_tiles_causally(
    query_features: Features, keys: MappedKeys, carry: Sums, floor: float
) -> Float[Tensor, "B H T E"]:
    """The averages of every tile's queries over the carry and the keys of the tile up to their own."""
    features, values, key_weights = keys
    if key_weights is None:
        pairs, total, squares, carry_factor = _create_causal_tile_weights_of_one(values)
    else:
        pairs, total, squares, carry_factor = _compute_tile_weights_relative_to_max(key_weights, carry)
    scores = (query_features @ features.mT) * pairs  # [B,H,T,F] @ [B,H,F,S] -> [B,H,T,S]
    # [B,H,T,F] @ [B,H,F,E+1] -> [B,H,T,E+1]
    carried = _scale_carry(query_features @ carry.feature_sums, carry_factor)
    plain_sums = _scale_carry(carry.plain_sums, carry_factor)
    total = total + plain_sums[..., -2:-1]
    squares = squares + _scale_carry(plain_sums[..., -1:], carry_factor)
    deficit = compute_denominator_deficit(scores.sum(-1, keepdim=True) + carried[..., -1:], squares, floor)
    has_keys = total > 0
    fill = deficit / torch.where(has_keys, total, 1)
    # [B,H,T,S] @ [B,H,S,E+1] -> [B,H,T,E+1]
    sums = torch.addcmul(scores, fill, pairs) @ values + torch.addcmul(carried, fill, plain_sums[..., :-1])
    return sums[..., :-1] / torch.where(has_keys, sums[..., -1:], 1)


def _create_causal_tile_weights_of_one(values: ValuesWithOne) -> TileWeights:
    """The weights where every real key has the weight 1: a lower triangle of ones."""
    length, count = values.shape[2], values[..., -1:].cumsum(2)
    triangle = masks.causal(length, length, values.device)[None, None].to(values.dtype)
    return TileWeights(triangle, count, count, None)


def _compute_tile_weights_relative_to_max(key_weights: KeyWeights, carry: Sums) -> TileWeights:
    """The weights of keys with factors or a gate."""
    logs = compute_causal_log_weights_at_queries(key_weights, key_weights.log_weights.shape[2])
    log_carry = _compute_carry_log_scale_at_queries(carry, key_weights)
    maximum = torch.maximum(compute_detached_row_max(logs), log_carry.detach())
    pairs = subtract_max_and_exp(logs, maximum)
    total, squares = pairs.sum(-1, keepdim=True), pairs.square().sum(-1, keepdim=True)
    return TileWeights(pairs, total, squares, subtract_max_and_exp(log_carry, maximum))


def _compute_carry_log_scale_at_queries(carry: Sums, key_weights: KeyWeights) -> Tensor:
    """The log scale [B,H,S or 1,1] of the carry at every query, after the decay up to there."""
    if key_weights.log_decay is None:
        return carry.log_scale
    return carry.log_scale + key_weights.log_decay.cumsum(2)[..., None]


def _scale_carry(sums: Tensor, factor: Tensor | None) -> Tensor:
    """factor * sums; the sums themselves where the factor is None."""
    return sums if factor is None else factor * sums
