"""The operations of the evaluators, from those of their parts.  A multiplication and an addition are two.

They are those of the matrix products of the plain operators for one sequence.  A backend may order them in
another way.  Under a causal mask all pairs that are computed count, also those that are masked.
"""

from typing import Any, NamedTuple

from qkv.kernel.bands import are_bands_cheaper, compute_queries_per_band_block
from qkv.kernel.chunks import TILE, compute_chunk_sizes
from qkv.kernel.query_blocks import compute_queries_per_block
from qkv.kernel.tiles import are_tiles_cheaper, cut_into_tiles
from qkv.part import Part
from qkv.shapes import Dims


class LinearSizes(NamedTuple):
    """The sizes of attention through a feature map.

    Args:
        dims: The number of heads, and the widths per head.
        features: F, the number of features.
        causal: Whether query t sees keys up to t + S - T only.
        has_key_weights: Whether keys have weights: factors of their features, or a gate.
    """

    dims: Dims
    features: int
    causal: bool
    has_key_weights: bool


def count_exact_operations(kernel: Part, dims: Dims, parts: Any, queries: int, keys: int) -> int:
    """Count the operations of exact attention.

    Args:
        kernel: The part that averages.
        dims: The number of heads, and the widths per head.
        parts: The other choices: `score`, `scope`, `select` and `causal`.
        queries: T.
        keys: S.

    Returns:
        The operations of a forward pass.
    """
    pairs = count_computed_pairs(dims, parts, queries, keys)
    return sum(
        part.count_operations(dims, queries, keys, pairs)
        for part in (parts.score, parts.scope, parts.select, kernel)
    )


def count_computed_pairs(dims: Dims, parts: Any, queries: int, keys: int) -> int:
    """Count the pairs that exact attention computes for one sequence: all, or those of its blocks.

    Args:
        dims: The number of heads, and the widths per head.
        parts: The choices: `score`, `scope`, `select` and `causal`.
        queries: T.
        keys: S.

    Returns:
        The number of pairs for each head.
    """
    scope = parts.scope
    if scope.reach is not None and not parts.score.positional:
        left, right = scope.reach[0], 0 if parts.causal else scope.reach[1]
        if are_bands_cheaper(queries, keys, left, right):
            size = compute_queries_per_band_block(left, right)
            return -(-queries // size) * size * (size + left + right)
    if scope.grid is not None and not parts.score.positional:
        tiling = cut_into_tiles(scope.grid)
        if are_tiles_cheaper(tiling, queries, keys):
            rows, columns = tiling.tiles
            return rows * columns * tiling.rows * tiling.columns * tiling.keys_per_tile
    return _count_pairs_in_query_blocks(dims, parts, queries, keys) if parts.causal else queries * keys


def _count_pairs_in_query_blocks(dims: Dims, parts: Any, queries: int, keys: int) -> int:
    """The pairs under a causal mask: all, or those of blocks of queries, with the keys up to the last."""
    score, scope = parts.score, parts.scope
    is_positional = score.positional or scope.positional
    if not (score.is_dot_product and not scope.reweights and parts.select.is_softmax):
        size = compute_queries_per_block(1, dims.heads, keys, score.count_numbers_per_pair(dims))
    elif queries != keys or is_positional:
        size = compute_queries_per_block(1, 1, keys, 1)
    else:
        return queries * keys
    if size >= queries:
        return queries * keys
    ends = [min(begin + size, queries) for begin in range(0, queries, size)]
    return sum(
        (end - begin) * min(max(keys - queries + end, 0), keys)
        for begin, end in zip([0, *ends], ends, strict=False)
    )


def count_linear_operations(kernel: Part, sizes: LinearSizes, queries: int, keys: int) -> int:
    """Count the operations of attention through a feature map.

    Args:
        kernel: The part that maps queries and keys.
        sizes: The sizes of the attention.
        queries: T.
        keys: S.

    Returns:
        The operations of a forward pass.
    """
    heads, values, features = sizes.dims.heads, sizes.dims.value + 1, sizes.features
    mapping = kernel.count_operations(sizes.dims, queries, keys, queries * keys)
    if queries * keys * (features + values) <= (queries + keys) * features * values:
        return mapping + 2 * heads * queries * keys * (features + values - 1)
    per_sum = 2 * heads * features * values  # φ(k) ⊗ [v, 1] of a key, or φ(q) times the sums of a query
    per_key = per_sum + 2 * heads * values * sizes.has_key_weights
    if not sizes.causal:
        return mapping + keys * per_key + queries * per_sum
    before, positions = max(keys - queries, 0), min(queries, keys)
    # The queries without any key are not mapped.
    mapping = kernel.count_operations(sizes.dims, positions, keys, positions * keys)
    in_tiles = sum(
        size * min(size, TILE) * 2 * heads * (features + values) for size in compute_chunk_sizes(positions)
    )
    return mapping + (before + positions) * per_key + positions * per_sum + in_tiles
