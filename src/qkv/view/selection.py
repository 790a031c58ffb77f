"""Which weights of an example a picture shows."""

import re
from collections.abc import Sequence

import numpy as np

from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.view.protocols import ExampleLike, TraceLike, is_occlusion


def select_example(trace: TraceLike, example: int) -> ExampleLike:
    """An example of a trace.

    Args:
        trace: the trace.
        example: its number, from 0.

    Raises:
        UnknownName: there is none.
    """
    if example not in range(len(trace.examples)):
        raise UnknownName(
            f"there is no example {example}: the trace has {len(trace.examples)}, counted from 0; choose "
            "one of these"
        )
    return trace.examples[example]


def select_layers(example: ExampleLike, layers: str | Sequence[str] | None, *, select_all: bool) -> list[str]:
    """The names of the weights to draw, in natural order.

    Args:
        example: the example of a trace.
        layers: names, or first parts of names; None is the last layer between two different axes that is not
            causal, or the last of all.
        select_all: where `layers` is None, take every such layer.

    Raises:
        UnknownName: for a layer that the example does not have.
        BadData: it has no weights.
    """
    all_names = sorted(example.weights, key=natural_order)
    if not all_names:
        raise BadData(
            "this example has no weights to draw: its trace was written without them; write the trace "
            "again with weights"
        )
    if layers is None:
        attention = [name for name in all_names if not is_occlusion(name)] or all_names
        names = [name for name in attention if _is_cross(example, name)] or attention
        return names if select_all else names[-1:]
    selected = []
    for layer in [layers] if isinstance(layers, str) else layers:
        matches = [name for name in all_names if f"{name}.".startswith(f"{layer}.")]
        if not matches:
            raise UnknownName(f"there is no layer {layer!r} in this trace. {did_you_mean(layer, all_names)}")
        selected += matches
    return selected


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sorting key that puts "cross.2" before "cross.10".

    Args:
        name: of weights.
    """
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _is_cross(example: ExampleLike, name: str) -> bool:
    """Whether weights lie between two different axes and are not causal."""
    axes = example.weight_axes[name]
    return axes.rows != axes.columns and not axes.causal


def check_head(name: str, weights: np.ndarray, heads: int | str) -> None:
    """Check that weights have the head that is asked for.

    Args:
        name: of the weights.
        weights: [H, rows, columns].
        heads: the number of a head, or how heads are shown.

    Raises:
        UnknownName: they do not.
    """
    if isinstance(heads, int) and heads not in range(len(weights)):
        raise UnknownName(
            f"there is no head {heads} in {name}: it has {len(weights)}, counted from 0; choose one of these"
        )
