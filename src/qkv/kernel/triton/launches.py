"""Launches the kernels on tensors, in the order of the forward and the backward pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.triton import backward, backward_vectors, forward
from qkv.kernel.triton.call import (
    STATE_BLOCK,
    StridedTensor,
    Vectors,
    compute_grid_of_chunks,
    count_blocks,
    launch_kernel,
)
from qkv.kernel.triton.inputs import KernelInputs
from qkv.kernel.triton.state import scale_packed_state


def compute_prefix_sums_and_update_carry(
    inputs: KernelInputs,
    vectors: Vectors,
    y: StridedTensor,
    factors: tuple[Tensor, ...],
    carry_factors: Tensor,
    carry: Tensor,
    reverse: bool = False,
) -> Tensor:
    """The sums over φ(x) and y before every chunk [B·H,C,state].

    Args:
        inputs: the sizes and the projection.
        vectors: x, queries or keys.
        y: values, or gradients of the output.
        factors: as for `forward.store_chunk_sums`.
        carry_factors: [B·H,C], the factor at every chunk of the sums before it.
        carry: [B·H,state], what comes first; becomes the sums of all chunks.
        reverse: whether to start from the last chunk, which gives the sums after every chunk.
    """
    s, tokens = inputs.s, factors[0].shape[1]
    states = carry.new_empty(*carry_factors.shape, s.state)
    value_blocks = count_blocks(s.value, s.value_block)
    grid = compute_grid_of_chunks(s, factors[0], count_blocks(s.features, s.feature_block), value_blocks)
    launch_kernel(forward.store_chunk_sums, grid, vectors, y, inputs.matrix, factors, states, tokens, s)
    grid = (len(carry), count_blocks(s.state, STATE_BLOCK))
    chunks = carry_factors.shape[1]
    launch_kernel(
        forward.replace_chunk_sums_by_prefix_sums,
        grid,
        states,
        carry,
        carry_factors,
        chunks,
        reverse,
        STATE_BLOCK,
        s,
    )
    return states


def compute_chunk_states_and_final_state(
    inputs: KernelInputs, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums that every chunk reads [B·H,C or 1,state], and those after the last key [B·H,state].

    Args:
        inputs: the inputs of the kernels.
        initial_state: [B·H,state], the sums over the earlier keys.
    """
    final = scale_packed_state(initial_state, inputs.weights.initial_factor)
    weights = inputs.weights.final_weights
    factors = (weights, weights, weights, weights, weights.square())
    states = compute_prefix_sums_and_update_carry(
        inputs, inputs.k, inputs.v, factors, inputs.weights.chunk_carry_factors, final
    )
    return (states if inputs.s.causal else final[:, None]), final


def fill_output_and_compute_query_sums(
    inputs: KernelInputs, states: Tensor, out: Tensor, floor: float
) -> Tensor:
    """Fill out, and return denominator, Σ m and Σ m² of every query [3,B·H,T].

    Args:
        inputs: the inputs of the kernels.
        states: what `compute_chunk_states_and_final_state` returned.
        out: [B,H,T,E].
        floor: the smallest denominator; see `sums`.
    """
    s, tokens = inputs.s, out.shape[2]
    query_sums = out.new_empty(3, out.shape[0] * out.shape[1], tokens, dtype=torch.float32)
    grid = compute_grid_of_chunks(s, query_sums[0], count_blocks(s.value, s.value_block))
    tensors = (inputs.q, inputs.k, inputs.v, inputs.matrix, inputs.pair_weights, states, out)
    launch_kernel(forward.store_averages_and_query_sums, grid, *tensors, tuple(query_sums), floor, tokens, s)
    return query_sums


class QuerySumGradients(NamedTuple):
    """What the gradients of keys and values need of every query, each [B·H,T].

    Args:
        inverse: the factor of the gradient of the output in U.
        denominators: the gradients of the denominators.
        weight_sums: the gradients of Σ m.
        squares: the gradients of Σ m².
        fill: the gradient of Σ m v is fill · U.
    """

    inverse: Tensor
    denominators: Tensor
    weight_sums: Tensor
    squares: Tensor
    fill: Tensor


def compute_query_sum_gradients(
    inputs: KernelInputs,
    grad: StridedTensor,
    out: StridedTensor,
    states: Tensor,
    query_sums: Tensor,
    floor: float,
) -> QuerySumGradients:
    """The gradients of the sums of every query, from one pass over its gradient and average.

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        out: the output.
        states: what `compute_chunk_states_and_final_state` returned.
        query_sums: what `fill_output_and_compute_query_sums` returned.
        floor: the smallest denominator; see `sums`.
    """
    denominators, weight_sums, squares = query_sums
    has_keys, has_weights = weight_sums > 0, squares > 0
    root = torch.where(has_weights, squares, 1).sqrt()
    deficit = torch.where(has_keys, (floor * root - denominators).clamp_min(0), 0)
    products = torch.empty_like(query_sums[:2])
    tensors = (grad, out, inputs.v, inputs.pair_weights, states, deficit, tuple(products))
    grid = compute_grid_of_chunks(inputs.s, denominators)
    launch_kernel(backward.compute_grad_dot_products, grid, *tensors, denominators.shape[1], inputs.s)
    inverse = torch.where(has_keys, 1 / torch.where(has_keys, denominators + deficit, 1), 0)
    inverse_sums = 1 / torch.where(has_keys, weight_sums, 1)
    grad_dot_out, grad_dot_mean = products[0] * inverse, products[1] * inverse * inverse_sums
    has_deficit = deficit > 0
    of_squares = floor * (grad_dot_mean - grad_dot_out) / (2 * root)
    return QuerySumGradients(
        inverse,
        torch.where(has_deficit, -grad_dot_mean, -grad_dot_out),
        torch.where(has_deficit, -deficit * grad_dot_mean * inverse_sums, 0),
        torch.where(has_deficit & has_weights, of_squares, 0),
        deficit * inverse_sums,
    )


def compute_state_gradients_and_update_grad_carry(
    inputs: KernelInputs, grad: StridedTensor, query_sum_gradients: QuerySumGradients, grad_carry: Tensor
) -> Tensor:
    """The gradient of the sums after every chunk [B·H,C or 1,state].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        query_sum_gradients: what `compute_query_sum_gradients` returned.
        grad_carry: [B·H,state], the gradient of the final sums; becomes that of the sums over the earlier
            keys.
    """
    is_causal = inputs.s.causal
    factors = inputs.weights.carry_factors if is_causal else torch.ones_like(query_sum_gradients.denominators)
    inverse = factors * query_sum_gradients.inverse
    summands = (
        inverse,
        factors * query_sum_gradients.denominators,
        inverse * query_sum_gradients.fill,
        factors * query_sum_gradients.weight_sums,
        factors**2 * query_sum_gradients.squares,
    )
    chunks = count_blocks(factors.shape[1], inputs.s.chunk)
    chunk_factors = (
        inputs.weights.chunk_carry_factors if is_causal else factors.new_ones(len(factors), chunks)
    )
    states = compute_prefix_sums_and_update_carry(
        inputs, inputs.q, grad, summands, chunk_factors, grad_carry, reverse=True
    )
    return states if is_causal else grad_carry[:, None]


def fill_grad_v_and_compute_grad_log_weights(
    inputs: KernelInputs,
    grad: StridedTensor,
    query_sum_gradients: QuerySumGradients,
    grad_states: Tensor,
    grad_v: Tensor,
) -> Tensor:
    """Fill the gradient of v, and return that of the log weights [B·H,S].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        query_sum_gradients: what `compute_query_sum_gradients` returned.
        grad_states: what `compute_state_gradients_and_update_grad_carry` returned.
        grad_v: [B,H,S,E].
    """
    s, final_weights = inputs.s, inputs.weights.final_weights
    heads, tokens = final_weights.shape
    blocks = count_blocks(s.value, s.value_block)
    grad_log_weights = final_weights.new_empty(blocks, heads, tokens)
    tensors = (inputs.k, inputs.q, inputs.v, grad, inputs.matrix, inputs.pair_weights)
    grads = (grad_v, grad_log_weights)
    arguments = (*tensors, tuple(query_sum_gradients), final_weights, grad_states, grads, tokens, s)
    launch_kernel(
        backward.compute_value_and_log_weight_gradients,
        compute_grid_of_chunks(s, final_weights, blocks),
        *arguments,
    )
    return grad_log_weights.sum(0)


def fill_grad_q_and_compute_grad_matrix(
    inputs: KernelInputs,
    grad: StridedTensor,
    query_sum_gradients: QuerySumGradients,
    states: Tensor,
    grad_q: Tensor,
    needs_matrix: bool,
) -> Tensor:
    """Fill the gradient of q, and return the part of the gradient of W that comes from queries [H,R,D].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        query_sum_gradients: what `compute_query_sum_gradients` returned.
        states: what `compute_chunk_states_and_final_state` returned.
        grad_q: [B,H,T,D].
        needs_matrix: whether the gradient of W is needed; otherwise R is 0.
    """
    factors = (
        inputs.weights.carry_factors if inputs.s.causal else torch.ones_like(query_sum_gradients.denominators)
    )
    state_factors = (factors * query_sum_gradients.inverse, factors * query_sum_gradients.denominators)
    sides = ((inputs.q, inputs.k), (grad, inputs.v))
    return _fill_grad_x_and_compute_grad_matrix(
        inputs, sides, query_sum_gradients, state_factors, states, grad_q, needs_matrix, own_are_keys=False
    )


def fill_grad_k_and_compute_grad_matrix(
    inputs: KernelInputs,
    grad: StridedTensor,
    query_sum_gradients: QuerySumGradients,
    key_factors: Tensor,
    grad_states: Tensor,
    grad_k: Tensor,
    needs_matrix: bool,
) -> Tensor:
    """Fill the gradient of k, and return the part of the gradient of W that comes from keys [H,R,D].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        query_sum_gradients: what `compute_query_sum_gradients` returned.
        key_factors: [B·H,S], the factor of a key in its own gradient, through its log weight (FAVOR+).
        grad_states: what `compute_state_gradients_and_update_grad_carry` returned.
        grad_k: [B,H,S,D].
        needs_matrix: whether the gradient of W is needed; otherwise R is 0.
    """
    final_weights = inputs.weights.final_weights
    factors = (final_weights, final_weights, key_factors)
    sides = ((inputs.k, inputs.q), (inputs.v, grad))
    return _fill_grad_x_and_compute_grad_matrix(
        inputs, sides, query_sum_gradients, factors, grad_states, grad_k, needs_matrix, own_are_keys=True
    )


def _fill_grad_x_and_compute_grad_matrix(
    inputs: KernelInputs,
    sides: tuple[tuple[Vectors, Vectors], tuple[StridedTensor, StridedTensor]],
    query_sum_gradients: QuerySumGradients,
    factors: tuple[Tensor, ...],
    states: Tensor,
    grad_x: Tensor,
    needs_matrix: bool,
    own_are_keys: bool,
) -> Tensor:
    s, tokens = inputs.s, grad_x.shape[2]
    grid = compute_grid_of_chunks(s, factors[0], count_blocks(s.width, s.width_block))
    chunks, rows = count_blocks(tokens, s.chunk), s.features if needs_matrix else 0
    grad_matrices = factors[0].new_empty(len(grad_x), s.heads, chunks, rows, s.width)
    weights = inputs.pair_weights
    if inputs.matrix is None:
        tensors = (*sides, weights, tuple(query_sum_gradients), factors, states, grad_x)
        launch_kernel(backward_vectors.compute_elu_vector_gradients, grid, *tensors, tokens, own_are_keys, s)
    else:
        grads = (grad_x, grad_matrices if needs_matrix else None)
        tensors = (*sides, inputs.matrix, weights, tuple(query_sum_gradients), factors, states, grads)
        launch_kernel(
            backward_vectors.compute_vector_and_projection_gradients, grid, *tensors, tokens, own_are_keys, s
        )
    return grad_matrices.sum((0, 2))
