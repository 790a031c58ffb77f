"""The kernels of the forward pass.

    store_chunk_sums                     every chunk: the sums of its keys                 parallel
    replace_chunk_sums_by_prefix_sums    every number of the sums: over chunks             parallel over them
    store_averages_and_query_sums        every chunk: inter-chunk + intra-chunk averages   parallel

The native header chunks.h draws the chunks.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import PairWeights, Position, StridedTensor, Vectors
from qkv.kernel.triton.tiles import (
    LOG_ZERO,
    compute_features_and_logits,
    compute_logits,
    compute_pair_weights,
    load_plain_value_sums,
    load_tile,
    load_token_scalars,
    locate_chunk,
    locate_state,
    multiply_features_with_features_and_state,
)


@triton.jit
@no_type_check
def find_max_logits(
    vectors: Vectors, matrix: tl.tensor, max_logits: tl.tensor, tokens: tl.tensor, s: tl.constexpr
) -> None:
    """The largest logit of every vector."""
    at = locate_chunk(tokens, s)
    is_real = at.rows < tokens
    maximum = tl.full((s.chunk,), LOG_ZERO, tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        logits = compute_logits(vectors, matrix, at, is_real, features, s)
        maximum = tl.maximum(maximum, tl.max(tl.where((features < s.features)[None, :], logits, LOG_ZERO), 1))
    tl.store(max_logits + at.head * tokens + at.rows, maximum, mask=is_real)


@triton.jit
@no_type_check
def store_chunk_sums(
    vectors: Vectors,
    y: StridedTensor,
    matrix: tl.tensor,
    factors: tl.tuple,
    states: tl.tensor,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """The packed sums over φ(x) and y of every chunk.

    factors: of φ ⊗ y, of φ, of y alone, the summands of the weight sum, and those of the squared weights.
    """
    at = locate_chunk(tokens, s)
    value_factors, one_factors = load_token_scalars(factors[0], at), load_token_scalars(factors[1], at)
    is_real = (at.rows < tokens) & (value_factors != 0)
    features = tl.program_id(1) * s.feature_block + tl.arange(0, s.feature_block)
    columns = tl.program_id(2) * s.value_block + tl.arange(0, s.value_block)
    state = states + at.chunk * s.state
    is_feature, is_column = features < s.features, columns < s.value
    phi, second, _ = compute_features_and_logits(vectors, matrix, at, is_real, features, s)
    values = load_tile(y, at, is_real, columns, s.value, s)
    denominator_sums = state + s.mapped * s.value + features
    feature_sums = state + features[:, None] * s.value + columns[None, :]
    mask = is_feature[:, None] & is_column[None, :]
    weighted = tl.trans(phi * value_factors[:, None])
    # [R, C] @ [C, E]
    tl.store(feature_sums, tl.dot(weighted, values, input_precision=s.precision), mask=mask)
    if tl.program_id(2) == 0:
        tl.store(denominator_sums, tl.sum(phi * one_factors[:, None], 0), mask=is_feature)
    if s.map == "gaussian":
        weighted = tl.trans(second * value_factors[:, None])
        # [R, C] @ [C, E]
        products = tl.dot(weighted, values, input_precision=s.precision)
        tl.store(feature_sums + s.features * s.value, products, mask=mask)
        if tl.program_id(2) == 0:
            tl.store(denominator_sums + s.features, tl.sum(second * one_factors[:, None], 0), mask=is_feature)
    if tl.program_id(1) == 0:
        plain_sums = state + s.mapped * (s.value + 1)
        weighted_values = values * load_token_scalars(factors[2], at)[:, None]
        tl.store(plain_sums + columns, tl.sum(weighted_values, 0), mask=is_column)
        if tl.program_id(2) == 0:
            tl.store(plain_sums + s.value, tl.sum(load_token_scalars(factors[3], at)))
            tl.store(plain_sums + s.value + 1, tl.sum(load_token_scalars(factors[4], at)))


@triton.jit
@no_type_check
def replace_chunk_sums_by_prefix_sums(
    states: tl.tensor,
    carry: tl.tensor,
    carry_factors: tl.tensor,
    chunks: tl.tensor,
    reverse: tl.constexpr,
    block: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """Replace the sums of every chunk by those of the chunks before it (`reverse`: after it).

    carry: what comes first; becomes the sums of all.  carry_factors: the factor at every chunk of the sums
    before it; the sum of the squared weights is multiplied by its square.
    """
    head = tl.program_id(0).to(tl.int64)
    index = tl.program_id(1) * block + tl.arange(0, block)
    mask = index < s.state
    prefix = tl.load(carry + head * s.state + index, mask=mask, other=0.0)
    for step in range(0, chunks):
        chunk = head * chunks + (chunks - 1 - step if reverse else step)
        pointers = states + chunk * s.state + index
        chunk_sums = tl.load(pointers, mask=mask, other=0.0)
        tl.store(pointers, prefix, mask=mask)
        factor = tl.load(carry_factors + chunk)
        prefix = prefix * tl.where(index == s.state - 1, factor * factor, factor) + chunk_sums
    tl.store(carry + head * s.state + index, prefix, mask=mask)


@triton.jit
@no_type_check
def compute_weight_sums_and_pair_weights(
    state: tl.tensor, weights: PairWeights, at: Position, s: tl.constexpr
) -> tl.tuple:
    """Σ m and Σ m² of every query, the weights of pairs, and the carry factors (0 and 1 if not causal)."""
    weight_sums = tl.zeros((s.chunk,), tl.float32) + tl.load(state + s.state - 2)
    squares = tl.zeros((s.chunk,), tl.float32) + tl.load(state + s.state - 1)
    if s.causal:
        pairs, carry_factors = (
            compute_pair_weights(weights, at, s),
            load_token_scalars(weights.carry_factors, at),
        )
        weight_sums = weight_sums * carry_factors + tl.sum(pairs, 1)
        squares = squares * carry_factors * carry_factors + tl.sum(pairs * pairs, 1)
        return weight_sums, squares, pairs, carry_factors
    else:
        return weight_sums, squares, 0.0, 1.0


@triton.jit
@no_type_check
def compute_denominator_deficit(
    denominators: tl.tensor, weight_sums: tl.tensor, squares: tl.tensor, floor: tl.tensor
) -> tl.tensor:
    """How far a denominator lies below floor·sqrt(Σ m²); 0 where there are no keys."""
    deficit = tl.maximum(floor * tl.sqrt(tl.where(squares > 0, squares, 1.0)) - denominators, 0.0)
    return tl.where(weight_sums > 0, deficit, 0.0)


@triton.jit
@no_type_check
def store_averages_and_query_sums(  # noqa: PLR0913, PLR0917 -- a kernel takes pointers and tiles, not values
    q: Vectors,
    k: Vectors,
    v: StridedTensor,
    matrix: tl.tensor,
    weights: PairWeights,
    states: tl.tensor,
    out: tl.tensor,
    query_sums: tl.tuple,
    floor: tl.tensor,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """out, and denominator, Σ m and Σ m² of every query."""
    at = locate_chunk(tokens, s)
    state = locate_state(states, at, s)
    columns = tl.program_id(1) * s.value_block + tl.arange(0, s.value_block)
    is_query = at.rows < tokens
    is_key = is_query
    if s.causal:
        is_key = load_token_scalars(weights.log_weights, at, LOG_ZERO) > LOG_ZERO
    scores, sums, denominators = multiply_features_with_features_and_state(
        q, k, matrix, state, at, (is_query, is_key), columns, s
    )
    weight_sums, squares, pairs, carry_factors = compute_weight_sums_and_pair_weights(state, weights, at, s)
    weight_sums = tl.where(is_query, weight_sums, 0.0)
    if s.causal:
        scores *= pairs
        values = load_tile(v, at, is_key, columns, s.value, s)
        # [C, C] @ [C, E]
        sums = sums * carry_factors[:, None] + tl.dot(scores, values, input_precision=s.precision)
        denominators = denominators * carry_factors + tl.sum(scores, 1)
    deficit = compute_denominator_deficit(denominators, weight_sums, squares, floor)
    if tl.max(deficit, 0) > 0:
        value_sums = (
            tl.zeros((s.chunk, s.value_block), tl.float32) + load_plain_value_sums(state, columns, s)[None, :]
        )
        if s.causal:
            # [C, C] @ [C, E]
            value_sums = value_sums * carry_factors[:, None] + tl.dot(
                pairs, values, input_precision=s.precision
            )
        sums += value_sums * (deficit / tl.where(weight_sums > 0, weight_sums, 1.0))[:, None]
    averages = sums / tl.where(weight_sums > 0, denominators + deficit, 1.0)[:, None]
    index = at.head * tokens + at.rows
    pointers = out + index[:, None] * s.value + columns[None, :]
    tl.store(pointers, averages, mask=is_query[:, None] & (columns < s.value)[None, :])
    if tl.program_id(1) == 0:
        tl.store(query_sums[0] + index, denominators, mask=is_query)
        tl.store(query_sums[1] + index, weight_sums, mask=is_query)
        tl.store(query_sums[2] + index, squares, mask=is_query)
