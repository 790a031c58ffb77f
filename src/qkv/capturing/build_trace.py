"""Builds a trace from captured calls: chooses the axes of every layer and leaves padding out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from qkv.capturing.recorder import CapturedCall, Recorder
from qkv.errors import BadData
from qkv.trace import Example, Grid, Trace, WeightAxes, stack_steps

AxisNames = tuple[str, str]


def build_trace(
    recorders: Sequence[Recorder],
    named_axes: Mapping[str, Any],
    axis_names: Mapping[str, AxisNames],
    row: int,
    pool: int,
    kind: str,
) -> Trace:
    """Build the trace of one row of the batch.

    Args:
        recorders: Those with calls.
        named_axes: Name -> tokens or grid.
        axis_names: The first part of a layer's name -> the names of its axes.
        row: The row of the batch.
        pool: How many positions share one entry of the weights.
        kind: What the model does.

    Returns:
        The trace.

    Raises:
        BadData: An axis does not fit.
    """
    axes = {name: _pool_axis(axis, pool) for name, axis in named_axes.items()}
    weights: dict[str, np.ndarray] = {}
    weight_axes: dict[str, WeightAxes] = {}
    unnormalised, facts = [], {}
    for recorder in recorders:
        preset = _find_preset(recorder.name, axis_names)
        for name, calls in _group_calls(recorder):
            array = _read_weights(calls, row, pool)
            rows, columns = preset or _match_axes(name, array, axes, calls[0].is_self)
            is_square = array.shape[1] == array.shape[2]
            causal = bool(recorder.spec.causal) and (pool == 1 or is_square)
            weights[name], weight_axes[name] = array, WeightAxes(rows, columns, causal)
            facts[name] = _read_facts(calls, row)
            if not (recorder.spec.kernel.forms_weights and recorder.spec.scope.normalised):
                unnormalised.append(name)
    meta = {"pool": pool, "captured": {name: entry for name, entry in facts.items() if entry}}
    return Trace((Example(axes, weights, weight_axes, meta=meta),), kind, tuple(unnormalised))


def _group_calls(recorder: Recorder) -> list[tuple[str, list[CapturedCall]]]:
    """The name and the calls of every array: the steps of decoding are one, complete calls one each."""
    steps = [call for call in recorder.calls if call.is_step]
    groups = [[call] for call in recorder.calls if not call.is_step] + ([steps] if steps else [])
    names = [recorder.name, *(f"{recorder.name}.call{number}" for number in range(2, len(groups) + 1))]
    return list(zip(names, groups, strict=True))


def _read_weights(calls: Sequence[CapturedCall], row: int, pool: int) -> np.ndarray:
    """The weights [H,T,S] of a row of the batch, without padded keys; steps become rows."""
    batch = len(calls[0].attended.out)
    if row not in range(batch):
        raise BadData(f"there is no row {row}: the batch has {batch}, counted from 0")
    arrays = [_to_numpy(call.weights[row]) for call in calls]
    keep = calls[0].keep
    array = arrays[0]
    if len(arrays) > 1:
        array = stack_steps([array[:, step] for array in arrays for step in range(array.shape[1])])
    if keep is None or pool > 1:
        return array
    is_real = keep[row].cpu().numpy()
    is_square = array.shape[1] == len(is_real)
    array = array[:, :, is_real]
    return array[:, is_real] if calls[0].is_self and is_square else array


def _read_facts(calls: Sequence[CapturedCall], row: int) -> dict[str, Any]:
    """Predicted positions and gates, as lists by head."""
    facts = {}
    for name, index in (("positions", -1), ("gate", -1)):
        values = [getattr(call, name) for call in calls]
        if all(value is not None for value in values):
            arrays = [_to_numpy(value[row]) for value in values]
            facts[name] = np.concatenate(arrays, index).round(4).astype(float).tolist()
    return facts


def _find_preset(name: str, axis_names: Mapping[str, AxisNames]) -> AxisNames | None:
    return next((pair for part, pair in axis_names.items() if f"{name}.".startswith(f"{part}.")), None)


def _match_axes(name: str, array: np.ndarray, axes: Mapping[str, Any], is_self: bool) -> AxisNames:
    """The axes whose lengths are those of the weights; self-attention has one axis for both."""
    _, rows, columns = array.shape
    pairs = [
        (row, column)
        for row in axes
        for column in axes
        if (len(axes[row]), len(axes[column])) == (rows, columns)
    ]
    same = [pair for pair in pairs if (pair[0] == pair[1]) == is_self]
    pairs = same or pairs
    if len(pairs) == 1:
        return pairs[0]
    lengths = ", ".join(f"{key} {len(axis)}" for key, axis in axes.items())
    if not pairs:
        raise BadData(
            f"{name} has weights of {rows} queries and {columns} keys, but the axes have these lengths: "
            f"{lengths}; pass the tokens of both, special ones included"
        )
    choice = f'axes={{"{name}": {pairs[0]!r}}}'
    raise BadData(f"the axes of {name} ({rows}×{columns}) are not clear from their lengths: pass {choice}")


def _pool_axis(axis: Any, pool: int) -> Any:
    """An axis, or the labels of its blocks, as "first … last"."""
    if pool == 1:
        return axis if isinstance(axis, Grid) else tuple(axis)
    if isinstance(axis, Grid):
        axis = [f"{row},{column}" for row in range(axis.height) for column in range(axis.width)]
    blocks = [axis[start : start + pool] for start in range(0, len(axis), pool)]
    return tuple(f"{block[0]} … {block[-1]}" if len(block) > 1 else block[0] for block in blocks)


def _to_numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
