"""A decoding step of a whole attention layer in one call, without returning to Python between its parts."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, MapDescription
from qkv.kernel.memory_pool import allocate_pooled_empty
from qkv.kernel.native.library import call_library_function, make_contiguous
from qkv.kernel.native.ops import allocate_uninitialised_sums, count_projection_rows_and_features
from qkv.kernel.native.small_linear import (
    MAX_ROWS,
    can_use_engine,
    count_rows_over_leading_dimensions,
    is_float32_cpu_linear,
)
from qkv.kernel.native.structures import Call, LayerStep, SmallLinear
from qkv.kernel.sums import OutputAndSums, Sums


def can_run_layer_step(layers: Sequence[nn.Module], x: Tensor) -> TypeGuard[Sequence[nn.Linear]]:
    """Whether a step through these layers can be one call: few rows, and plain layers that fit together.

    Args:
        layers: the projections to queries, to keys and values, and to the output.
        x: [B,t,M], the new positions.
    """
    if torch.compiler.is_compiling() or not 0 < count_rows_over_leading_dimensions(x) <= MAX_ROWS:
        return False
    if not (
        can_use_engine(x)
        and all(is_float32_cpu_linear(layer) and _has_contiguous_weight_and_bias(layer) for layer in layers)
    ):
        return False
    return _do_widths_match(layers, x)


def _has_contiguous_weight_and_bias(layer: Any) -> bool:
    return layer.weight.is_contiguous() and (layer.bias is None or layer.bias.is_contiguous())


def _do_widths_match(layers: Sequence[Any], x: Tensor) -> bool:
    """Whether keys and values are projected side by side from the same x, and the output from the values."""
    (queries, width), (keys_and_values, memory), (_, values) = (layer.weight.shape for layer in layers)
    return width == memory == x.shape[-1] and keys_and_values == queries + values


def run_layer_step(
    layers: Sequence[nn.Linear], x: Tensor, heads: int, feature_map: MapDescription, carry: Sums, floor: float
) -> OutputAndSums:
    """Run a decoding step.  Every position is real, and every key has weight 1 apart from what the map adds.

    Args:
        layers: as for `can_run_layer_step`, which must be True.
        x: [B,t,M], the new positions.
        heads: H.
        feature_map: the description of the feature map.
        carry: the sums over the earlier keys.
        floor: the smallest denominator; see `sums`.

    Returns:
        The output [B,t,M], and the sums after it.
    """
    to_query, _, to_out = layers
    batch, queries = x.shape[:2]
    key_width, value_width = to_query.weight.shape[0] // heads, to_out.weight.shape[1] // heads
    rescales_keys = feature_map.map in RESCALING_MAPS
    rows, features = count_projection_rows_and_features(
        key_width, feature_map.matrix, MAP_NUMBERS[feature_map.map]
    )
    x = x.contiguous()
    inputs = [make_contiguous(part) for part in (feature_map.matrix, *carry)]
    out = x.new_empty(batch, queries, to_out.weight.shape[0])
    sums = allocate_uninitialised_sums(allocate_pooled_empty, batch, heads, features, value_width)
    threads = torch.get_num_threads()
    call = Call(
        *(batch, heads, queries, queries, key_width, value_width, rows),
        *(
            MAP_NUMBERS[feature_map.map],
            feature_map.scales_to_unit_length,
            True,
            False,
            rescales_keys,
            threads,
            floor,
            feature_map.squared_length_factor,
        ),
    )
    call.projection, call.initial_feature_sums, call.initial_plain_sums, call.initial_log_scale = (
        _get_address_or_none(part) for part in inputs
    )
    call.final_feature_sums, call.final_plain_sums, call.final_log_scale = (
        _get_address_or_none(part) for part in sums
    )
    structure = LayerStep(
        *(_make_small_linear_without_input_and_output(layer, batch * queries, threads) for layer in layers),
        call,
    )
    structure.to_query.x = structure.to_key_value.x = x.data_ptr()
    structure.to_out.out = out.data_ptr()
    call_library_function("qkv_layer_step", structure)
    return OutputAndSums(out, Sums(*sums[:2], sums[2] if rescales_keys else None))


def _make_small_linear_without_input_and_output(layer: nn.Linear, rows: int, threads: int) -> SmallLinear:
    weight, bias = _get_address_or_none(layer.weight), _get_address_or_none(layer.bias)
    return SmallLinear(rows, *layer.weight.shape, threads, None, weight, bias, None)


def _get_address_or_none(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
