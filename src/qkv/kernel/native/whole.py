"""A decoding step of a whole layer in one call: Python between its parts would take as long as their work."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAPS, Kind
from qkv.kernel.memory_pool import pooled_empty
from qkv.kernel.native.few import MOST, plain, rows_of, wanted
from qkv.kernel.native.library import Call, Few, Whole, flat, run
from qkv.kernel.native.ops import features_of, state_like
from qkv.kernel.sums import Sums


def takes(layers: Sequence[nn.Module], x: Tensor) -> TypeGuard[Sequence[nn.Linear]]:
    """Whether a step of x [B,t,M] through these layers can be one call: few rows, plain layers that fit."""
    if torch.compiler.is_compiling() or not 0 < rows_of(x) <= MOST:
        return False
    return wanted(x) and all(plain(layer) and _contiguous(layer) for layer in layers) and _fit(layers, x)


def _contiguous(layer: Any) -> bool:
    return layer.weight.is_contiguous() and (layer.bias is None or layer.bias.is_contiguous())


def _fit(layers: Sequence[Any], x: Tensor) -> bool:
    """Keys and values side by side, of x as the queries are, and an output of the values."""
    (queries, width), (both, memory), (_, values) = (layer.weight.shape for layer in layers)
    return width == memory == x.shape[-1] and both == queries + values


def step(
    layers: Sequence[nn.Linear], x: Tensor, heads: int, kind: Kind, before: Sums, floor: float
) -> tuple[Tensor, Sums]:
    """The output [B,t,M] of x [B,t,M], and the sums after it.

    layers: to the queries, to the keys and values side by side, and from the averages.  Every position is
    real, and every key has mass 1 but for what the map itself says.
    """
    to_queries, _, to_out = layers
    batch, queries = x.shape[:2]
    width, value = to_queries.weight.shape[0] // heads, to_out.weight.shape[1] // heads
    map, weighed = MAP_NUMBERS[kind.map], kind.map in RESCALING_MAPS
    features, made_of_them = features_of(width, kind.matrix, map)
    x, given = x.contiguous(), [flat(part) for part in (kind.matrix, *before)]
    out = x.new_empty(batch, queries, to_out.weight.shape[0])
    after = state_like(pooled_empty, (batch, heads, made_of_them, value))
    call = Call(
        *(batch, heads, queries, queries, width, value, features),
        *(map, kind.unit, True, False, weighed, torch.get_num_threads(), floor, kind.square),
    )
    call.matrix, call.sums0, call.plain0, call.scale0 = (_address(part) for part in given)
    call.sums, call.plain, call.scale = (_address(part) for part in after)
    parts = (_few(layer, batch * queries, call.threads) for layer in layers)
    made = Whole(*parts, call)
    made.query.x = made.keys.x = x.data_ptr()
    made.out.out = out.data_ptr()
    run("qkv_whole", made)
    return out, Sums(*after[:2], after[2] if weighed else None)


def _few(layer: nn.Linear, rows: int, threads: int) -> Few:
    columns, width = layer.weight.shape
    return Few(rows, columns, width, threads, None, _address(layer.weight), _address(layer.bias), None)


def _address(part: Tensor | None) -> int | None:
    return None if part is None else part.data_ptr()
