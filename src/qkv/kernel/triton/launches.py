"""Launches the kernels on tensors, in the order of the forward and the backward pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.triton import backward, backward_vectors, forward
from qkv.kernel.triton.call import STATE_BLOCK, StridedTensor, Vectors, count_blocks, launch, make_grid
from qkv.kernel.triton.inputs import KernelInputs
from qkv.kernel.triton.state import scale_state


def scan_sums(
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
        factors: as for `forward.sum_chunks`.
        carry_factors: [B·H,C], the factor at every chunk of the sums before it.
        carry: [B·H,state], what comes first; becomes the sums of all chunks.
        reverse: whether to start from the last chunk, which gives the sums after every chunk.
    """
    s, tokens = inputs.s, factors[0].shape[1]
    states = carry.new_empty(*carry_factors.shape, s.state)
    value_blocks = count_blocks(s.value, s.value_block)
    grid = make_grid(s, factors[0], count_blocks(s.features, s.feature_block), value_blocks)
    launch(forward.sum_chunks, grid, vectors, y, inputs.matrix, factors, states, tokens, s)
    grid = (len(carry), count_blocks(s.state, STATE_BLOCK))
    chunks = carry_factors.shape[1]
    launch(forward.scan_chunks, grid, states, carry, carry_factors, chunks, reverse, STATE_BLOCK, s)
    return states


def sum_keys(inputs: KernelInputs, initial: Tensor) -> tuple[Tensor, Tensor]:
    """The sums that every chunk reads [B·H,C or 1,state], and those after the last key [B·H,state].

    Args:
        inputs: the inputs of the kernels.
        initial: [B·H,state], the sums over the earlier keys.
    """
    final = scale_state(initial, inputs.weights.initial_factor)
    weights = inputs.weights.final_weights
    factors = (weights, weights, weights, weights, weights.square())
    states = scan_sums(inputs, inputs.k, inputs.v, factors, inputs.weights.chunk_carry_factors, final)
    return (states if inputs.s.causal else final[:, None]), final


def attend_to_sums(inputs: KernelInputs, states: Tensor, out: Tensor, floor: float) -> Tensor:
    """Fill out, and return denominator, Σ m and Σ m² of every query [3,B·H,T].

    Args:
        inputs: the inputs of the kernels.
        states: what `sum_keys` returned.
        out: [B,H,T,E].
        floor: the smallest denominator; see `sums`.
    """
    s, tokens = inputs.s, out.shape[2]
    query_sums = out.new_empty(3, out.shape[0] * out.shape[1], tokens, dtype=torch.float32)
    grid = make_grid(s, query_sums[0], count_blocks(s.value, s.value_block))
    tensors = (inputs.q, inputs.k, inputs.v, inputs.matrix, inputs.pair_weights, states, out)
    launch(forward.attend_to_chunks, grid, *tensors, tuple(query_sums), floor, tokens, s)
    return query_sums


class QueryGradients(NamedTuple):
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


def compute_query_gradients(
    inputs: KernelInputs,
    grad: StridedTensor,
    out: StridedTensor,
    states: Tensor,
    query_sums: Tensor,
    floor: float,
) -> QueryGradients:
    """One pass over gradient and average of every query.

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        out: the output.
        states: what `sum_keys` returned.
        query_sums: what `attend_to_sums` returned.
        floor: the smallest denominator; see `sums`.
    """
    denominators, weight_sums, squares = query_sums
    has_keys, has_weights = weight_sums > 0, squares > 0
    root = torch.where(has_weights, squares, 1).sqrt()
    deficit = torch.where(has_keys, (floor * root - denominators).clamp_min(0), 0)
    products = torch.empty_like(query_sums[:2])
    tensors = (grad, out, inputs.v, inputs.pair_weights, states, deficit, tuple(products))
    grid = make_grid(inputs.s, denominators)
    launch(backward.compute_grad_dot_products, grid, *tensors, denominators.shape[1], inputs.s)
    inverse = torch.where(has_keys, 1 / torch.where(has_keys, denominators + deficit, 1), 0)
    inverse_sums = 1 / torch.where(has_keys, weight_sums, 1)
    grad_dot_out, grad_dot_mean = products[0] * inverse, products[1] * inverse * inverse_sums
    has_deficit = deficit > 0
    of_squares = floor * (grad_dot_mean - grad_dot_out) / (2 * root)
    return QueryGradients(
        inverse,
        torch.where(has_deficit, -grad_dot_mean, -grad_dot_out),
        torch.where(has_deficit, -deficit * grad_dot_mean * inverse_sums, 0),
        torch.where(has_deficit & has_weights, of_squares, 0),
        deficit * inverse_sums,
    )


def compute_state_gradients(
    inputs: KernelInputs, grad: StridedTensor, queries: QueryGradients, carry: Tensor
) -> Tensor:
    """The gradient of the sums after every chunk [B·H,C or 1,state].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        queries: what `compute_query_gradients` returned.
        carry: [B·H,state], the gradient of the final sums; becomes that of the sums over the earlier keys.
    """
    is_causal = inputs.s.causal
    factors = inputs.weights.carry_factors if is_causal else torch.ones_like(queries.denominators)
    inverse = factors * queries.inverse
    summands = (
        inverse,
        factors * queries.denominators,
        inverse * queries.fill,
        factors * queries.weight_sums,
        factors**2 * queries.squares,
    )
    chunks = count_blocks(factors.shape[1], inputs.s.chunk)
    chunk_factors = (
        inputs.weights.chunk_carry_factors if is_causal else factors.new_ones(len(factors), chunks)
    )
    states = scan_sums(inputs, inputs.q, grad, summands, chunk_factors, carry, reverse=True)
    return states if is_causal else carry[:, None]


def compute_value_and_log_weight_gradients(
    inputs: KernelInputs, grad: StridedTensor, queries: QueryGradients, grad_states: Tensor, grad_v: Tensor
) -> Tensor:
    """Fill the gradient of v, and return that of the log weights [B·H,S].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        queries: what `compute_query_gradients` returned.
        grad_states: what `compute_state_gradients` returned.
        grad_v: [B,H,S,E].
    """
    s, final_weights = inputs.s, inputs.weights.final_weights
    heads, tokens = final_weights.shape
    blocks = count_blocks(s.value, s.value_block)
    grad_log_weights = final_weights.new_empty(blocks, heads, tokens)
    tensors = (inputs.k, inputs.q, inputs.v, grad, inputs.matrix, inputs.pair_weights)
    grads = (grad_v, grad_log_weights)
    arguments = (*tensors, tuple(queries), final_weights, grad_states, grads, tokens, s)
    launch(backward.compute_value_and_log_weight_gradients, make_grid(s, final_weights, blocks), *arguments)
    return grad_log_weights.sum(0)


def grad_queries(
    inputs: KernelInputs,
    grad: StridedTensor,
    queries: QueryGradients,
    states: Tensor,
    grad_q: Tensor,
    needs_matrix: bool,
) -> Tensor:
    """Fill the gradient of q, and return the part of the gradient of W that comes from queries [H,R,D].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        queries: what `compute_query_gradients` returned.
        states: what `sum_keys` returned.
        grad_q: [B,H,T,D].
        needs_matrix: whether the gradient of W is needed; otherwise R is 0.
    """
    factors = inputs.weights.carry_factors if inputs.s.causal else torch.ones_like(queries.denominators)
    state_factors = (factors * queries.inverse, factors * queries.denominators)
    sides = ((inputs.q, inputs.k), (grad, inputs.v))
    return _grad_vectors(inputs, sides, queries, state_factors, states, grad_q, needs_matrix, of_keys=False)


def grad_keys(
    inputs: KernelInputs,
    grad: StridedTensor,
    queries: QueryGradients,
    key_factors: Tensor,
    grad_states: Tensor,
    grad_k: Tensor,
    needs_matrix: bool,
) -> Tensor:
    """Fill the gradient of k, and return the part of the gradient of W that comes from keys [H,R,D].

    Args:
        inputs: the inputs of the kernels.
        grad: the gradient of the output.
        queries: what `compute_query_gradients` returned.
        key_factors: [B·H,S], the factor of a key in its own gradient, through its log weight (FAVOR+).
        grad_states: what `compute_state_gradients` returned.
        grad_k: [B,H,S,D].
        needs_matrix: whether the gradient of W is needed; otherwise R is 0.
    """
    final_weights = inputs.weights.final_weights
    factors = (final_weights, final_weights, key_factors)
    sides = ((inputs.k, inputs.q), (inputs.v, grad))
    return _grad_vectors(inputs, sides, queries, factors, grad_states, grad_k, needs_matrix, of_keys=True)


def _grad_vectors(
    inputs: KernelInputs,
    sides: tuple[tuple[Vectors, Vectors], tuple[StridedTensor, StridedTensor]],
    queries: QueryGradients,
    factors: tuple[Tensor, ...],
    states: Tensor,
    grad_x: Tensor,
    needs_matrix: bool,
    of_keys: bool,
) -> Tensor:
    s, tokens = inputs.s, grad_x.shape[2]
    grid = make_grid(s, factors[0], count_blocks(s.width, s.width_block))
    chunks, rows = count_blocks(tokens, s.chunk), s.features if needs_matrix else 0
    grad_matrices = factors[0].new_empty(len(grad_x), s.heads, chunks, rows, s.width)
    weights = inputs.pair_weights
    if inputs.matrix is None:
        tensors = (*sides, weights, tuple(queries), factors, states, grad_x)
        launch(backward_vectors.grad_elu, grid, *tensors, tokens, of_keys, s)
    else:
        grads = (grad_x, grad_matrices if needs_matrix else None)
        tensors = (*sides, inputs.matrix, weights, tuple(queries), factors, states, grads)
        launch(backward_vectors.grad_vectors, grid, *tensors, tokens, of_keys, s)
    return grad_matrices.sum((0, 2))
