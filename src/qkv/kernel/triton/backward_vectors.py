"""The kernels of the backward pass for queries and keys, which are alike; `backward` has the formulas.

"Own" is the side whose gradient is computed, "other" the side that it is multiplied with.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import PairWeights, Position, StridedTensor
from qkv.kernel.triton.tiles import (
    LOG_ZERO,
    compute_features_and_logits,
    compute_pair_weights,
    compute_pairwise_dot_products,
    load_denominator_sums,
    load_feature_sums,
    load_projection,
    load_tile,
    load_token_scalars,
    locate_chunk,
    locate_state,
)


@triton.jit
@no_type_check
def backpropagate_features_to_logits(
    grad_phi: tl.tensor, grad_second: tl.tensor, phi: tl.tensor, second: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """The gradient of the logits, from those of the features."""
    if s.map == "gaussian":
        return grad_phi * second - grad_second * phi
    elif s.map == "arccos":
        return tl.where(phi > 0, grad_phi * s.amplitude, 0.0)
    elif s.map == "elu":
        return grad_phi * tl.minimum(phi, 1.0)
    else:
        return grad_phi * phi


@triton.jit
@no_type_check
def compute_inter_chunk_feature_gradient(
    state: tl.tensor,
    y: StridedTensor,
    at: Position,
    is_real: tl.tensor,
    factors: tl.tuple,
    features: tl.tensor,
    is_feature: tl.tensor,
    s: tl.constexpr,
) -> tl.tensor:
    """(f_0 y)·(feature sums) + f_1·(denominator sums) [tokens, features]: the inter-chunk gradient of φ."""
    products = tl.zeros((s.chunk, s.feature_block), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        values = load_tile(y, at, is_real, columns, s.value, s)
        sums = load_feature_sums(state, features, is_feature, columns, s)
        # [C, E] @ [E, R]
        products += tl.dot(values, tl.trans(sums), input_precision=s.precision)
    denominator_sums = load_denominator_sums(state, features, is_feature, s)
    return products * factors[0][:, None] + denominator_sums[None, :] * factors[1][:, None]


@triton.jit
@no_type_check
def compute_weighted_score_gradients(
    value_sides: tl.tuple,
    weights: PairWeights,
    query_sum_gradients: tl.tuple,
    at: Position,
    are_real: tl.tuple,
    own_are_keys: tl.constexpr,
    s: tl.constexpr,
) -> tl.tensor:
    """m_ts U_t·[v_s, 1] of the chunk's pairs, with queries in rows; with keys in rows if `own_are_keys`."""
    products = compute_pairwise_dot_products(value_sides[0], value_sides[1], at, are_real, s)
    inverse, of_denominators = (
        load_token_scalars(query_sum_gradients[0], at),
        load_token_scalars(query_sum_gradients[1], at),
    )
    pairs = compute_pair_weights(weights, at, s)
    if own_are_keys:
        return tl.trans(pairs) * (products * inverse[None, :] + of_denominators[None, :])
    else:
        return pairs * (products * inverse[:, None] + of_denominators[:, None])


@triton.jit
@no_type_check
def find_real_tokens_of_both_sides(
    weights: PairWeights, at: Position, own_are_keys: tl.constexpr, s: tl.constexpr
) -> tl.tuple:
    """Which tokens are real: of the own side, and of the other."""
    own_mask = at.rows < at.tokens
    other_mask = own_mask
    if own_are_keys:
        own_mask = load_token_scalars(weights.log_weights, at, LOG_ZERO) > LOG_ZERO
    elif s.causal:
        other_mask = load_token_scalars(weights.log_weights, at, LOG_ZERO) > LOG_ZERO
    return own_mask, other_mask


@triton.jit
@no_type_check
def add_intra_chunk_gradient(
    grad_phi: tl.tensor, grad_scores: tl.tensor, other_phi: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """The gradient of φ, with what reaches it from the other side of the chunk."""
    if s.causal:
        # [C, C] @ [C, R]
        grad_phi += tl.dot(grad_scores, other_phi, input_precision=s.precision)
    return grad_phi


@triton.jit
@no_type_check
def compute_logits_and_gradient(  # noqa: PLR0913, PLR0917 -- a kernel takes pointers and tiles, not values
    vector_sides: tl.tuple,
    y: StridedTensor,
    matrix: tl.tensor,
    grad_scores: tl.tensor,
    factors: tl.tuple,
    state: tl.tensor,
    at: Position,
    are_real: tl.tuple,
    features: tl.tensor,
    s: tl.constexpr,
) -> tl.tuple:
    """The logits of a block of features, and their gradient."""
    is_feature = features < s.features
    phi, second, logits = compute_features_and_logits(vector_sides[0], matrix, at, are_real[0], features, s)
    other_phi, other_second = phi, second
    if s.causal:
        other_phi, other_second, _ = compute_features_and_logits(
            vector_sides[1], matrix, at, are_real[1], features, s
        )
    inter = compute_inter_chunk_feature_gradient(state, y, at, are_real[0], factors, features, is_feature, s)
    grad_phi = add_intra_chunk_gradient(inter, grad_scores, other_phi, s)
    grad_second = grad_phi
    if s.map == "gaussian":
        cosines = features + s.features
        inter = compute_inter_chunk_feature_gradient(
            state, y, at, are_real[0], factors, cosines, is_feature, s
        )
        grad_second = add_intra_chunk_gradient(inter, grad_scores, other_second, s)
    return logits, backpropagate_features_to_logits(grad_phi, grad_second, phi, second, s)


@triton.jit
@no_type_check
def backpropagate_scaling_to_unit_length(
    grad: tl.tensor, unit: tl.tensor, grad_dot_unit: tl.tensor, inverse_lengths: tl.tensor, s: tl.constexpr
) -> tl.tensor:
    """The gradient of x from that of x/|x|; vectors that are too short are divided by a constant instead.

    grad_dot_unit: the product of the gradient and x/|x|.
    """
    grad_dot_unit = tl.where(inverse_lengths < s.longest, grad_dot_unit, 0.0)
    return (grad - unit * grad_dot_unit[:, None]) * inverse_lengths[:, None]


@triton.jit
@no_type_check
def compute_elu_vector_gradients(  # noqa: PLR0913, PLR0917
    vector_sides: tl.tuple,
    value_sides: tl.tuple,
    weights: PairWeights,
    query_sum_gradients: tl.tuple,
    factors: tl.tuple,
    states: tl.tensor,
    grad: tl.tensor,
    tokens: tl.tensor,
    own_are_keys: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """As `compute_vector_and_projection_gradients`, for the map without a projection.

    A block of features is a block of columns.
    """
    at = locate_chunk(tokens, s)
    state = locate_state(states, at, s)
    are_real = find_real_tokens_of_both_sides(weights, at, own_are_keys, s)
    own_factors = (load_token_scalars(factors[0], at), load_token_scalars(factors[1], at))
    columns = tl.program_id(1) * s.width_block + tl.arange(0, s.width_block)
    grad_scores = 0.0
    if s.causal:
        grad_scores = compute_weighted_score_gradients(
            value_sides, weights, query_sum_gradients, at, are_real, own_are_keys, s
        )
    _, grad_x = compute_logits_and_gradient(
        vector_sides, value_sides[0], None, grad_scores, own_factors, state, at, are_real, columns, s
    )
    pointers = grad + (at.head * tokens + at.rows)[:, None] * s.width + columns[None, :]
    tl.store(pointers, grad_x, mask=(at.rows < tokens)[:, None] & (columns < s.width)[None, :])


@triton.jit
@no_type_check
def compute_vector_and_projection_gradients(  # noqa: PLR0913, PLR0917
    vector_sides: tl.tuple,
    value_sides: tl.tuple,
    matrix: tl.tensor,
    weights: PairWeights,
    query_sum_gradients: tl.tuple,
    factors: tl.tuple,
    states: tl.tensor,
    grads: tl.tuple,
    tokens: tl.tensor,
    own_are_keys: tl.constexpr,
    s: tl.constexpr,
) -> None:
    """The gradients of vectors and of W, for queries or (`own_are_keys`) for keys.

    Those of queries follow from keys and values, those of keys from queries and their gradients.

    vector_sides, value_sides: own, other.  factors: of y and of 1 in the products with the state, and of x
    (only where the map rescales keys, for the gradient through the log weight).  grads: of x, and of W for
    every chunk or None.
    """
    at = locate_chunk(tokens, s)
    state = locate_state(states, at, s)
    are_real = find_real_tokens_of_both_sides(weights, at, own_are_keys, s)
    own_factors = (load_token_scalars(factors[0], at), load_token_scalars(factors[1], at))
    columns = tl.program_id(1) * s.width_block + tl.arange(0, s.width_block)
    x = load_tile(vector_sides[0].x, at, are_real[0], columns, s.width, s)
    inverse = load_token_scalars(vector_sides[0].scalars, at) if s.unit else own_factors[0]
    unit = x * inverse[:, None] if s.unit else x
    grad_scores = 0.0
    if s.causal:
        grad_scores = compute_weighted_score_gradients(
            value_sides, weights, query_sum_gradients, at, are_real, own_are_keys, s
        )
    grad = tl.zeros((s.chunk, s.width_block), tl.float32)
    radial = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.features, s.feature_block):
        features = first + tl.arange(0, s.feature_block)
        logits, grad_logits = compute_logits_and_gradient(
            vector_sides, value_sides[0], matrix, grad_scores, own_factors, state, at, are_real, features, s
        )
        # [C, R] @ [R, D]
        w = load_projection(matrix, at, features, columns, s)
        grad += tl.dot(grad_logits, w, input_precision=s.precision)
        radial += tl.sum(grad_logits * logits, 1)
        if grads[1] is not None:
            pointers = grads[1] + (at.chunk * s.features + features)[:, None] * s.width + columns[None, :]
            mask = (features < s.features)[:, None] & (columns < s.width)[None, :]
            # [R, C] @ [C, D]
            grad_w = tl.dot(tl.trans(grad_logits), unit, input_precision=s.precision)
            tl.store(pointers, grad_w, mask=mask)
    if s.unit:
        grad = backpropagate_scaling_to_unit_length(grad, unit, radial, inverse, s)
    if s.rescales_keys and own_are_keys:
        grad += x * load_token_scalars(factors[2], at)[:, None]
    pointers = grads[0] + (at.head * tokens + at.rows)[:, None] * s.width + columns[None, :]
    tl.store(pointers, grad, mask=(at.rows < tokens)[:, None] & (columns < s.width)[None, :])
