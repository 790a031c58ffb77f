"""The native engine as torch operators: the passes, the shapes of their results, and their gradients.

The backward pass computes the features again chunk by chunk and stores nothing of size N×F.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.errors import BadShape
from qkv.kernel import double_backward
from qkv.kernel.double_backward import FORWARD_SCHEMA, BackendInputs, BackendOptions, ForwardResults
from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAP_NUMBERS
from qkv.kernel.memory_pool import allocate_pooled_empty
from qkv.kernel.native.library import fill_structure_and_call_library, make_contiguous, make_strided
from qkv.kernel.sums import Sums

# The fields of `structures.Call` that hold one number of every query, for the backward pass.
QUERY_SUMS = ("denominators", "weight_sums", "squared_weight_sums", "max_log_weights")

INPUTS = len(BackendInputs._fields)


class BackendResults(NamedTuple):
    """What a forward pass returns.

    Args:
        out: [B,H,T,E].
        feature_sums: [B,H,F,E+1] after the last key, as in `sums.Sums`.
        plain_sums: [B,H,1,E+2] after the last key, as in `sums.Sums`.
        log_scale: [B,H,1,1] of these sums.
    """

    out: Tensor
    feature_sums: Tensor
    plain_sums: Tensor
    log_scale: Tensor


@torch.library.custom_op("qkv::linear_attention", mutates_args=(), device_types="cpu", schema=FORWARD_SCHEMA)
def compute_linear_attention_and_query_sums(*inputs_and_options: Any) -> ForwardResults:
    """Linear attention as a torch operator.

    Args:
        *inputs_and_options: the fields of `BackendInputs` and then those of `BackendOptions`.

    Returns:
        out [B,H,T,E]; the query sums [4,B,H,T] for the backward pass; and feature sums, plain sums and log
        scale after the last key, as in `sums.Sums`.

    Raises:
        BadShape: the tensors do not fit together.
    """
    inputs = BackendInputs(*inputs_and_options[:INPUTS])
    options = BackendOptions(*inputs_and_options[INPUTS:])
    query_sums = torch.empty(4, *inputs.q.shape[:3], dtype=torch.float32, device="cpu")
    out, *sums = compute_output_and_sums_and_fill_query_sums(inputs, options, query_sums)
    return ForwardResults(out, query_sums, *sums)


def compute_output_and_sums_and_fill_query_sums(
    inputs: BackendInputs, options: BackendOptions, query_sums: Tensor | None = None
) -> BackendResults:
    """Compute linear attention without torch's dispatcher.

    Args:
        inputs: float32 or bfloat16 tensors on a CPU.
        options: the numbers of the call.
        query_sums: [4,B,H,T], filled if it is not None.

    Returns:
        The output, and the sums after the last key.

    Raises:
        BadShape: the tensors do not fit together.
    """
    q, k, v = inputs[:3]
    rows, features = count_projection_rows_and_features(k.shape[-1], inputs.matrix, options.map)
    _check_shapes_and_dtypes_fit(inputs, rows, features, options.causal)
    out = allocate_pooled_empty((*q.shape[:3], v.shape[-1]), q.dtype)
    sums = allocate_uninitialised_sums(allocate_pooled_empty, q.shape[0], q.shape[1], features, v.shape[-1])
    fields = _make_call_fields(inputs, options)
    fields |= {"out": make_strided(out), "final_feature_sums": sums.feature_sums}
    fields |= {"final_plain_sums": sums.plain_sums, "final_log_scale": sums.log_scale}
    if query_sums is not None:
        fields |= dict(zip(QUERY_SUMS, query_sums, strict=True))
    fill_structure_and_call_library("qkv_forward", **fields)
    return BackendResults(out, *sums)


@compute_linear_attention_and_query_sums.register_fake
def _allocate_fake_outputs(*inputs_and_options: Any) -> ForwardResults:
    inputs = BackendInputs(*inputs_and_options[:INPUTS])
    options = BackendOptions(*inputs_and_options[INPUTS:])
    q, value_width = inputs.q, inputs.v.shape[-1]
    query_sums = q.new_empty(4, *q.shape[:3], dtype=torch.float32)
    features = count_projection_rows_and_features(inputs.k.shape[-1], inputs.matrix, options.map)[1]
    sums = allocate_uninitialised_sums(q.new_empty, q.shape[0], q.shape[1], features, value_width)
    return ForwardResults(q.new_empty(*q.shape[:3], value_width), query_sums, *sums)


def count_projection_rows_and_features(width: Any, matrix: Tensor | None, map: int) -> tuple[Any, Any]:
    """The rows R of the projection, and the number F of features; symbolic while torch traces.

    Args:
        width: D, the width of queries and keys; without a projection R = D.
        matrix: [H,R,D], the projection; None for a map without.
        map: the number of the feature map.
    """
    rows = width if matrix is None else matrix.shape[1]
    return rows, 2 * rows if map == MAP_NUMBERS["gaussian"] else rows


def allocate_uninitialised_sums(
    new_empty: Callable[..., Tensor], batch: Any, heads: Any, features: Any, value_width: Any
) -> Sums:
    """Uninitialised feature sums, plain sums and log scale, shaped as in `sums.Sums`.

    Args:
        new_empty: called with a shape and `dtype=`.
        batch: B.
        heads: H.
        features: F.
        value_width: E.
    """
    shapes = ((features, value_width + 1), (1, value_width + 2), (1, 1))
    return Sums(*(new_empty((batch, heads, *shape), dtype=torch.float32) for shape in shapes))


def _make_call_fields(inputs: BackendInputs, options: BackendOptions) -> dict[str, Any]:
    """The fields of `structures.Call` that forward and backward pass share."""
    q, k, v, matrix = inputs[:4]
    batch, heads, queries, width = q.shape
    sizes = {"batch": batch, "heads": heads, "queries": queries, "keys": k.shape[2], "key_width": width}
    sizes |= {"value_width": v.shape[3], "features": width if matrix is None else matrix.shape[1]}
    vectors = {"q": make_strided(q), "k": make_strided(k), "v": make_strided(v)}
    pointers = {
        "projection": make_contiguous(matrix),
        "keep": make_contiguous(inputs.keep),
        "log_weights": make_contiguous(inputs.log_weights),
        "log_decay": make_contiguous(inputs.log_decay),
        "initial_feature_sums": make_contiguous(inputs.feature_sums),
        "initial_plain_sums": make_contiguous(inputs.plain_sums),
        "initial_log_scale": make_contiguous(inputs.log_scale),
    }
    flags = {
        "map": options.map,
        "unit_length": options.scales_to_unit_length,
        "causal": options.causal,
        "is_bfloat16": q.dtype == torch.bfloat16,
        "has_key_weights": inputs.log_weights is not None or options.map in RESCALING_MAP_NUMBERS,
    }
    floats = {"floor": options.floor, "squared_length_factor": options.squared_length_factor}
    return sizes | vectors | pointers | flags | floats


def _check_shapes_and_dtypes_fit(inputs: BackendInputs, rows: int, features: int, causal: bool) -> None:
    """Raise BadShape if tensors do not fit together: the library would read past the end of one.

    Args:
        inputs: the tensors.
        rows: R, as `count_projection_rows_and_features` returns it.
        features: F.
        causal: whether there are as many queries as keys.
    """
    q, k, v, matrix, keep, log_weights, log_decay, sums, plain, log_scale = inputs
    batch, heads, queries, width = q.shape
    keys, value_width = queries if causal else k.shape[2], v.shape[3]
    key_shape = (batch, heads, keys)
    fits = (
        (k.shape == (*key_shape, width) and v.shape == (*key_shape, value_width))
        and q.dtype == k.dtype == v.dtype
        and (matrix is None or matrix.shape == (heads, rows, width))
        and (keep is None or keep.shape == (batch, keys))
        and (log_weights is None or log_weights.shape == key_shape)
        and (log_decay is None or log_decay.shape == key_shape)
        and (sums is None or sums.shape == (batch, heads, features, value_width + 1))
        and (plain is None or plain.shape == (batch, heads, 1, value_width + 2))
        and (log_scale is None or log_scale.shape == (batch, heads, 1, 1))
    )
    if not fits:
        shapes = zip(BackendInputs._fields, inputs, strict=True)
        passed = ", ".join(f"{name} {list(x.shape)}" for name, x in shapes if x is not None)
        raise BadShape(
            f"the native engine got tensors that do not fit together: {passed}; give them the same "
            "dtype, batch, heads, positions and widths"
        )


@torch.library.custom_op("qkv::linear_attention_backward", mutates_args=(), device_types="cpu")
def compute_linear_attention_gradients(  # noqa: PLR0913, PLR0917 -- an operator takes tensors and numbers, not values
    grad_out: Tensor,
    grad_feature_sums: Tensor | None,
    grad_plain_sums: Tensor | None,
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
    final_log_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, matrix [B,H,R,D], log weights, log decay, feature sums and plain sums.

    The arguments are the gradients of the results of the forward operator, its arguments, and its results.  A
    gradient is empty where the tensor is None.
    """
    inputs = BackendInputs(
        *(q, k, v, matrix, keep, log_weights, log_decay),
        *(initial_feature_sums, initial_plain_sums, initial_log_scale),
    )
    fields = _make_call_fields(inputs, BackendOptions(map, unit, causal, square, floor))
    fields |= {"out": make_strided(out), **dict(zip(QUERY_SUMS, query_sums, strict=True))}
    fields |= {"final_feature_sums": final_feature_sums, "final_plain_sums": final_plain_sums}
    fields |= {"final_log_scale": final_log_scale, "grad_out": make_strided(grad_out)}
    fields |= {"grad_final_feature_sums": make_contiguous(grad_feature_sums)}
    fields |= {"grad_final_plain_sums": make_contiguous(grad_plain_sums)}
    grads = _allocate_gradients_or_empty_tensors(allocate_pooled_empty, inputs)
    names = ("grad_projection", "grad_log_weights", "grad_log_decay")
    names += ("grad_initial_feature_sums", "grad_initial_plain_sums")
    vectors = [make_strided(grad) for grad in grads[:3]]
    fields |= dict(zip(("grad_q", "grad_k", "grad_v"), vectors, strict=True))
    fields |= {name: grad if grad.numel() else None for name, grad in zip(names, grads[3:], strict=True)}
    fill_structure_and_call_library("qkv_backward", **fields)
    return grads


@compute_linear_attention_gradients.register_fake
def _allocate_fake_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    inputs = BackendInputs(*arguments[3 : 3 + INPUTS])
    return _allocate_gradients_or_empty_tensors(inputs.q.new_empty, inputs)


def _allocate_gradients_or_empty_tensors(new_empty: Callable[..., Tensor], inputs: BackendInputs) -> Any:
    """Uninitialised gradients of the inputs that can have one; empty tensors where an input is None."""
    q, k, v, matrix, _, log_weights, log_decay, sums, plain, _ = inputs

    def allocate_like(x: Tensor | None) -> Tensor:
        # A new empty tensor each time: outputs of an operator must not be aliases.
        empty = q.new_empty(0, dtype=torch.float32)
        return empty if x is None else new_empty(x.shape, dtype=x.dtype)

    matrix_of_rows = None if matrix is None else matrix.new_empty(len(q), *matrix.shape)
    return tuple(allocate_like(x) for x in (q, k, v, matrix_of_rows, log_weights, log_decay, sums, plain))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:INPUTS], *output)
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
    grads = compute_linear_attention_gradients(grad_out, *grad_sums[:2], *inputs, *ctx.options, *outputs)
    q, k, v, matrix_of_rows, *other_grads = grads
    matrix = None if inputs.matrix is None else matrix_of_rows.sum(0)
    optional_inputs = (inputs.log_weights, inputs.log_decay, inputs.feature_sums, inputs.plain_sums)
    optional = [None if x is None else grad for x, grad in zip(optional_inputs, other_grads, strict=True)]
    return (q, k, v, matrix, None, *optional, None, *(None,) * len(ctx.options))


compute_linear_attention_and_query_sums.register_autograd(_backward, setup_context=_save_for_backward)
