"""The Triton backend as torch operators: the passes, the shapes of their results, and their gradients.

The backward pass computes the sums of every chunk and the features again and stores nothing of size N×F.
"""

from typing import Any

import torch
from torch import Tensor

from qkv.kernel import double_backward
from qkv.kernel.double_backward import (
    FORWARD_SCHEMA,
    MAP_NAMES,
    BackendInputs,
    BackendOptions,
    ForwardResults,
)
from qkv.kernel.triton.call import Sizes, choose_tensor_and_block_sizes, make_strided
from qkv.kernel.triton.relative_weights import LOG_ZERO, LogWeights
from qkv.kernel.triton.state import pack_state, scale_packed_state, unpack_state

INPUTS = len(BackendInputs._fields)


@torch.library.custom_op("qkv::linear_attention_by_triton", mutates_args=(), schema=FORWARD_SCHEMA)
def compute_linear_attention_and_query_sums(*inputs_and_options: Any) -> ForwardResults:
    """Linear attention as a torch operator.

    Args:
        *inputs_and_options: the fields of `BackendInputs` and then those of `BackendOptions`.

    Returns:
        out [B,H,T,E]; the query sums [3,B·H,T] for the backward pass; and feature sums, plain sums and log
        scale after the last key, as in `sums.Sums`.
    """
    from qkv.kernel.triton import launches
    from qkv.kernel.triton.inputs import compute_kernel_inputs

    inputs = BackendInputs(*inputs_and_options[:INPUTS])
    options = BackendOptions(*inputs_and_options[INPUTS:])
    q, k, v = inputs[:3]
    s = _choose_tensor_and_block_sizes(inputs, options)
    weights = _fill_missing_log_weights(inputs)
    kernel_inputs = compute_kernel_inputs(
        s, (q, k, v), inputs.keep, inputs.matrix, options.squared_length_factor, weights
    )
    states, final = launches.compute_chunk_states_and_final_state(
        kernel_inputs, _pack_initial_sums_or_zeros(inputs, s)
    )
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    query_sums = launches.fill_output_and_compute_query_sums(kernel_inputs, states, out, options.floor)
    log_scale = kernel_inputs.weights.log_scale.view(*q.shape[:2], 1, 1).clone()
    return ForwardResults(out, query_sums, *unpack_state(final, s.heads, s), log_scale)


@compute_linear_attention_and_query_sums.register_fake
def _allocate_fake_outputs(*inputs_and_options: Any) -> ForwardResults:
    inputs = BackendInputs(*inputs_and_options[:INPUTS])
    options = BackendOptions(*inputs_and_options[INPUTS:])
    q, s = inputs.q, _choose_tensor_and_block_sizes(inputs, options)
    batch_heads, value = q.shape[:2], inputs.v.shape[3]
    shapes = (
        (3, batch_heads[0] * batch_heads[1], q.shape[2]),
        (*batch_heads, s.mapped, value + 1),
        (*batch_heads, 1, value + 2),
        (*batch_heads, 1, 1),
    )
    query_sums, *sums = (q.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return ForwardResults(q.new_empty(*q.shape[:3], value), query_sums, *sums)


def _choose_tensor_and_block_sizes(inputs: BackendInputs, options: BackendOptions) -> Sizes:
    map_name = MAP_NAMES[options.map]
    return choose_tensor_and_block_sizes(
        map_name, options.scales_to_unit_length, options.causal, inputs.q, inputs.v, inputs.matrix
    )


def _fill_missing_log_weights(inputs: BackendInputs) -> LogWeights:
    """Log weights of all keys, even if every real key has weight 1, and the log scale of the earlier sums."""
    k, log_weights, log_decay, log_scale = inputs.k, inputs.log_weights, inputs.log_decay, inputs.log_scale
    if log_weights is None:
        log_weights = k.new_zeros(k.shape[:3], dtype=torch.float32)
        if inputs.keep is not None:
            log_weights = log_weights.masked_fill(~inputs.keep[:, None], LOG_ZERO)
    if log_scale is None:
        scale_of_sums = LOG_ZERO if inputs.plain_sums is None else 0.0
        log_scale = k.new_full(k.shape[:2], scale_of_sums, dtype=torch.float32)
    log_decay = None if log_decay is None else log_decay.float().flatten(0, 1).contiguous()
    return LogWeights(log_weights.float().flatten(0, 1).contiguous(), log_decay, log_scale.float().flatten())


def _pack_initial_sums_or_zeros(inputs: BackendInputs, s: Sizes) -> Tensor:
    q = inputs.q
    if inputs.feature_sums is None or inputs.plain_sums is None:
        return q.new_zeros(q.shape[0] * q.shape[1], s.state, dtype=torch.float32)
    return pack_state(inputs.feature_sums, inputs.plain_sums)


@torch.library.custom_op("qkv::linear_attention_by_triton_backward", mutates_args=())
def compute_linear_attention_gradients(  # noqa: PLR0913, PLR0917 -- an operator takes tensors and numbers, not values
    grad_out: Tensor,
    grad_feature_sums: Tensor | None,
    grad_plain_sums: Tensor | None,
    needs_matrix: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor | None,
    keep: Tensor | None,
    log_weights: Tensor | None,
    log_decay: Tensor | None,
    initial_feature_sums: Tensor | None,
    initial_plain_sums: Tensor | None,
    initial_log_scale: Tensor | None,
    map: int,
    unit: bool,
    causal: bool,
    square: float,
    floor: float,
    out: Tensor,
    query_sums: Tensor,
    final_feature_sums: Tensor,
    final_plain_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, matrix (`needs_matrix`), log weights, log decay, feature sums and plain sums.

    The arguments are the gradients of the results of the forward operator, its arguments, and its results.  A
    gradient is empty where the tensor is None.
    """
    from qkv.kernel.triton import launches
    from qkv.kernel.triton.inputs import compute_kernel_inputs

    inputs = BackendInputs(
        *(q, k, v, matrix, keep, log_weights, log_decay),
        *(initial_feature_sums, initial_plain_sums, initial_log_scale),
    )
    s = _choose_tensor_and_block_sizes(inputs, BackendOptions(map, unit, causal, square, floor))
    prepared = compute_kernel_inputs(s, (q, k, v), keep, matrix, square, _fill_missing_log_weights(inputs))
    grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    final = pack_state(final_feature_sums, final_plain_sums)
    initial = _pack_initial_sums_or_zeros(inputs, s)
    states = launches.compute_chunk_states_and_final_state(prepared, initial)[0] if causal else final[:, None]
    grad = make_strided(grad_out)
    query_sum_gradients = launches.compute_query_sum_gradients(
        prepared, grad, make_strided(out), states, query_sums, floor
    )
    matrix_of_queries = launches.fill_grad_q_and_compute_grad_matrix(
        prepared, grad, query_sum_gradients, states, grads[0], needs_matrix
    )
    del states

    grad_state = pack_state(
        _create_zeros_if_none(grad_feature_sums, final_feature_sums),
        _create_zeros_if_none(grad_plain_sums, final_plain_sums),
    )
    # All that reaches the log weights through the final state; squared weights grow twice as fast.
    grad_total = (grad_state * final).sum(1) + grad_state[:, -1] * final[:, -1]
    grad_states = launches.compute_state_gradients_and_update_grad_carry(
        prepared, grad, query_sum_gradients, grad_state
    )
    grad_logs = launches.fill_grad_v_and_compute_grad_log_weights(
        prepared, grad, query_sum_gradients, grad_states, grads[2]
    )
    key_factors = -2 * square * grad_logs
    matrix_of_keys = launches.fill_grad_k_and_compute_grad_matrix(
        prepared, grad, query_sum_gradients, key_factors, grad_states, grads[1], needs_matrix
    )
    grad_decay = (grad_total[:, None] - grad_logs.double().flip(1).cumsum(1).flip(1)).float()
    grad_initial = unpack_state(scale_packed_state(grad_state, prepared.weights.initial_factor), s.heads, s)
    key_grads = (grad_logs.view(k.shape[:3]), grad_decay.view(k.shape[:3]))
    return _cast_grads_to_input_dtypes(
        (*grads, matrix_of_queries + matrix_of_keys, *key_grads, *grad_initial),
        _select_inputs_with_gradients(inputs, needs_matrix),
    )


def _create_zeros_if_none(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad


def _select_inputs_with_gradients(inputs: BackendInputs, needs_matrix: bool) -> tuple[Tensor | None, ...]:
    """The inputs whose gradients the backward pass returns, in order."""
    q, k, v, matrix, _, log_weights, log_decay, sums, plain, _ = inputs
    return q, k, v, matrix if needs_matrix else None, log_weights, log_decay, sums, plain


def _cast_grads_to_input_dtypes(grads: tuple[Tensor, ...], inputs: tuple[Tensor | None, ...]) -> Any:
    """The gradients in the dtypes of the inputs; for None a new empty tensor, as outputs must not alias."""
    return tuple(
        grad.new_empty(0, dtype=torch.float32) if x is None else grad.to(x.dtype)
        for grad, x in zip(grads, inputs, strict=True)
    )


@compute_linear_attention_gradients.register_fake
def _allocate_fake_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    needs_matrix, inputs = arguments[3], BackendInputs(*arguments[4 : 4 + INPUTS])
    return tuple(
        inputs.q.new_empty(0, dtype=torch.float32)
        if x is None
        else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in _select_inputs_with_gradients(inputs, needs_matrix)
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:INPUTS], *output[:4])
    ctx.options = inputs[INPUTS:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Any, *grad_sums: Tensor | None) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    inputs, outputs = BackendInputs(*saved[:INPUTS]), saved[INPUTS:]
    if double_backward.is_backward_recorded_or_transformed():
        options = BackendOptions(*ctx.options)
        gradients = double_backward.compute_differentiable_gradients(
            inputs, options, (grad_out, *grad_sums[:2])
        )
        return (*gradients, *(None,) * len(options))
    grad_out = torch.zeros_like(outputs[0]) if grad_out is None else grad_out
    needs_matrix = ctx.needs_input_grad[3]
    grads = compute_linear_attention_gradients(
        grad_out, *grad_sums[:2], needs_matrix, *inputs, *ctx.options, *outputs
    )
    q, k, v, matrix, *other_grads = grads
    optional_inputs = (inputs.log_weights, inputs.log_decay, inputs.feature_sums, inputs.plain_sums)
    optional = [None if x is None else grad for x, grad in zip(optional_inputs, other_grads, strict=True)]
    return (q, k, v, matrix if needs_matrix else None, None, *optional, None, *(None,) * len(ctx.options))


compute_linear_attention_and_query_sums.register_autograd(_backward, setup_context=_save_for_backward)
