"""The kernels of the backward pass.  U_t is the gradient of query t's sums, m_ts the weight of key s at t:

    d φ(q_t) = Σ_s m_ts (U_t·v_s) φ(k_s)            the sums of the keys before a chunk, and its own pairs
    d φ(k_s) = Σ_t m_ts (U_t·v_s) φ(q_t)            the sums of φ(q_t) ⊗ U_t after it, and the same pairs
    d v_s    = Σ_t m_ts (φ(q_t)·φ(k_s) U_t + P_t)
    d log m_s = v_s·d v_s + 2 Σ_t m_ts² Q_t         with [v, 1] in place of v throughout

P_t and Q_t are the gradients of the value sums that fill a deficit and of the sum of squared weights that the
size of the deficit depends on.  `backward_vectors` has the kernels for queries and keys.
"""

from typing import no_type_check

import triton
import triton.language as tl

from qkv.kernel.triton.call import PairWeights, StridedTensor, Vectors
from qkv.kernel.triton.tiles import (
    LOG_ZERO,
    compute_pair_weights,
    compute_pairwise_dot_products,
    load_plain_value_sums,
    load_tile,
    load_token_scalars,
    locate_chunk,
    locate_state,
    multiply_features_with_features_and_state,
)


@triton.jit
@no_type_check
def compute_grad_dot_products(  # noqa: PLR0913, PLR0917 -- a kernel takes pointers and tiles, not values
    grad: StridedTensor,
    out: StridedTensor,
    v: StridedTensor,
    weights: PairWeights,
    states: tl.tensor,
    deficit: tl.tensor,
    products: tl.tuple,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """grad·out of every query, and grad·Σ m v where a deficit was filled."""
    at = locate_chunk(tokens, s)
    state = locate_state(states, at, s)
    is_query = at.rows < tokens
    grad_dot_out = tl.zeros((s.chunk,), tl.float32)
    grad_dot_values = tl.zeros((s.chunk,), tl.float32)
    for first in range(0, s.value, s.value_block):
        columns = first + tl.arange(0, s.value_block)
        grad_tile = load_tile(grad, at, is_query, columns, s.value, s)
        grad_dot_out += tl.sum(grad_tile * load_tile(out, at, is_query, columns, s.value, s), 1)
        grad_dot_values += tl.sum(grad_tile * load_plain_value_sums(state, columns, s)[None, :], 1)
    if tl.max(load_token_scalars(deficit, at), 0) > 0 and s.causal:
        is_key = load_token_scalars(weights.log_weights, at, LOG_ZERO) > LOG_ZERO
        pairs = compute_pairwise_dot_products(grad, v, at, (is_query, is_key), s) * compute_pair_weights(
            weights, at, s
        )
        carry_factors = load_token_scalars(weights.carry_factors, at)
        grad_dot_values = grad_dot_values * carry_factors + tl.sum(pairs, 1)
    tl.store(products[0] + at.head * tokens + at.rows, grad_dot_out, mask=is_query)
    tl.store(products[1] + at.head * tokens + at.rows, grad_dot_values, mask=is_query)


@triton.jit
@no_type_check
def compute_value_and_log_weight_gradients(  # noqa: PLR0913, PLR0917
    k: Vectors,
    q: Vectors,
    v: StridedTensor,
    grad: StridedTensor,
    matrix: tl.tensor,
    weights: PairWeights,
    query_sum_gradients: tl.tuple,
    final_weights: tl.tensor,
    states: tl.tensor,
    grads: tl.tuple,
    tokens: tl.tensor,
    s: tl.constexpr,
) -> None:
    """The gradient of the values, and the part of that of the log weights that comes from these columns.

    states: the sums of φ(q) ⊗ U after every chunk.  grads: of v, and of the log weights [column
    blocks,B·H,N].
    """
    at = locate_chunk(tokens, s)
    state = locate_state(states, at, s)
    columns = tl.program_id(1) * s.value_block + tl.arange(0, s.value_block)
    is_query = at.rows < tokens
    is_key = load_token_scalars(weights.log_weights, at, LOG_ZERO) > LOG_ZERO
    scores, grad_v, grad_one = multiply_features_with_features_and_state(
        k, q, matrix, state, at, (is_key, is_query), columns, s
    )
    finals = load_token_scalars(final_weights, at)
    values = load_tile(v, at, is_key, columns, s.value, s)
    grad_v = (grad_v + load_plain_value_sums(state, columns, s)[None, :]) * finals[:, None]
    grad_one = (grad_one + tl.load(state + s.state - 2)) * finals
    grad_one += tl.load(state + s.state - 1) * 2 * finals * finals
    if s.causal:
        pairs = tl.trans(compute_pair_weights(weights, at, s))
        inverse = load_token_scalars(query_sum_gradients[0], at)
        of_denominators = load_token_scalars(query_sum_gradients[1], at)
        grad_one += tl.sum(
            pairs
            * (scores * of_denominators[None, :] + load_token_scalars(query_sum_gradients[2], at)[None, :]),
            1,
        )
        grad_one += tl.sum(pairs * pairs * load_token_scalars(query_sum_gradients[3], at)[None, :], 1) * 2
        scores = pairs * (scores + load_token_scalars(query_sum_gradients[4], at)[None, :]) * inverse[None, :]
        grad_tile = load_tile(grad, at, is_query, columns, s.value, s)
        # [C, C] @ [C, E]
        grad_v += tl.dot(scores, grad_tile, input_precision=s.precision)
    grad_log_weights = tl.sum(grad_v * values, 1)
    if tl.program_id(1) == 0:
        grad_log_weights += grad_one
    index = at.head * tokens + at.rows
    pointers = grads[0] + index[:, None] * s.value + columns[None, :]
    tl.store(pointers, grad_v, mask=is_query[:, None] & (columns < s.value)[None, :])
    heads = tl.num_programs(0).to(tl.int64) // tl.cdiv(tokens, s.chunk)
    tl.store(grads[1] + tl.program_id(1) * heads * tokens + index, grad_log_weights, mask=is_query)
