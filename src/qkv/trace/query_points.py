"""The trace of a feature map: where chosen cells of it attend to."""

from collections.abc import Sequence
from typing import Any

from qkv.errors import BadData
from qkv.trace.axes import Grid, WeightAxes
from qkv.trace.example import Example
from qkv.trace.value import Trace

KIND = "self-attention on a grid"
POINTS, CELLS, WEIGHTS = "query points", "cells", "self.0"


def trace_query_points(
    layer: Any, x: Any, points: Sequence[tuple[int, int]], *, picture: str | None = None
) -> Trace:
    """Trace the attention of chosen cells of a feature map.

    Args:
        layer: a `qkv.SelfAttention2d`, in evaluation.
        x: its input, one feature map [1,C,Y,X].
        points: the cells (row, column) whose attention is traced, counted from 0.
        picture: path or file name of the picture from which the map was computed, for the viewer.

    Returns:
        A trace of one example with the weights "self.0": from the tokens "(row, column)" of the axis "query
        points" to the axis "cells", the grid of the keys.

    Raises:
        BadData: if there is no point, one lies outside of the map, or x holds more than one map.
    """
    height, width = (int(side) for side in x.shape[2:])
    if len(x) != 1:
        raise BadData(f"x holds {len(x)} feature maps, but a trace shows one: pass x[:1]")
    if not points:
        raise BadData("points is empty: pass one or more cells as (row, column)")
    for row, column in points:
        if not (0 <= row < height and 0 <= column < width):
            raise BadData(
                f"the point {(row, column)} is not a cell of a map of {height}×{width}: pass (row, column) "
                f"from (0, 0) to {(height - 1, width - 1)}"
            )
    rows, columns = layer.key_grid(height, width)
    weights = layer.attend(x).weights[0].detach().float().cpu().numpy()
    example = Example(
        named_axes={
            POINTS: tuple(f"({row}, {column})" for row, column in points),
            CELLS: Grid(rows, columns, picture),
        },
        weights={WEIGHTS: weights[:, [row * width + column for row, column in points]]},
        weight_axes={WEIGHTS: WeightAxes(POINTS, CELLS)},
        meta={"points": [list(point) for point in points], "height": height, "width": width},
    )
    return Trace((example,), KIND, () if layer.is_normalised else (WEIGHTS,))
