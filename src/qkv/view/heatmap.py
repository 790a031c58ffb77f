"""Attention weights as a picture for print: keys above, queries at the left, zero is white."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from qkv.errors import BadData, BadShape, UnknownName, did_you_mean
from qkv.view.figure import draw_grid
from qkv.view.layout import Panel
from qkv.view.strip import frames
from qkv.view.traced import ExampleLike, GridLike, TraceLike, labels_of
from qkv.view.words import merge_words, side

WRAP = 4  # panels side by side where they are not layers x heads


def heatmap(
    trace: TraceLike,
    *,
    path: str | Path,
    example: int = 0,
    layers: str | Sequence[str] | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    merge: bool = False,
    title: str = "",
    dark: bool = False,
) -> Path:
    """Draw the attention weights of one example to a .png, .svg or .pdf, and return the path.

    Weights between tokens become a matrix. Weights over an image grid become a film strip: one heat map of
    height x width cells for every query.

    Args:
        trace: the trace to draw from.
        path: the picture to write; its suffix selects the format.
        example: number of the example, from 0.
        layers: names ("cross.1"), or the first part of names ("cross": all its layers). None is the last
            layer between two different axes that is not causal, or the last of all; with heads="all", every
            one of them.
        heads: the mean over heads, the number of one head from 0, or all: a panel for every layer and head.
        merge: combine the pieces of a word: the sum over keys, the mean over queries. In scripts without
            spaces pieces stay separate, except for syllables, numbers and Katakana.
        title: a line above everything.
        dark: use colours for dark backgrounds.

    The picture names the layer, the head (or the mean of how many), and what rows and columns are.
    Without `merge`, "␣" and darker lines mark where words begin if some have several pieces.
    Colours run from 0 to the largest weight of the picture, in all panels alike; the bar beside it names it.
    Beyond some hundred tokens not every one is labelled; a film strip shows at most 48 queries and says so.
    Words in right-to-left scripts are shaped and ordered by matplotlib >= 3.11; an older one leaves their
    letters unjoined and from left to right.

    Raises:
        UnknownName: for a layer, head or example that the trace does not have.
        BadData: for another suffix, or a path that cannot be written.
        QKVError: without matplotlib.

    Warns:
        MissingGlyphs: if no installed font has some of the characters.
    """
    if example not in range(len(trace.examples)):
        raise UnknownName(f"no example {example}: the trace has {len(trace.examples)}, counted from 0")
    selected = trace.examples[example]
    names = _layers(selected, layers, every=heads == "all")
    panels = [_panels(selected, name, heads, merge) for name in names]
    has_strips = any(isinstance(selected.axes(name)[1], GridLike) for name in names)
    if heads == "all" and len(names) > 1 and not has_strips:
        return draw_grid(_title_heads(panels), path, sides=names, title=title, dark=dark)
    flat = [panel for row in panels for panel in row]
    return draw_grid(_wrap(flat), path, title=title, dark=dark)


def draw(
    weights: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    path: str | Path,
    title: str = "",
    row_name: str = "",
    column_name: str = "",
    dark: bool = False,
) -> Path:
    """Draw one matrix of weights between any tokens, as `heatmap` does, and return the path.

    Args:
        weights: [rows, columns].
        rows: tokens of the queries.
        columns: tokens of the keys.
        path: the picture to write; its suffix selects the format.
        title: a line above everything.
        row_name: what the rows are, as "target (queries)".
        column_name: what the columns are.
        dark: use colours for dark backgrounds.

    Raises:
        BadShape: where weights and tokens do not fit.
    """
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape != (len(rows), len(columns)) or not weights.size:
        raise BadShape(
            f"weights of shape {weights.shape} for {len(rows)} row and {len(columns)} column tokens"
        )
    panel = Panel(weights, side(rows, row_name), side(columns, column_name))
    return draw_grid([[panel]], path, title=title, dark=dark)


def _layers(example: ExampleLike, layers: str | Sequence[str] | None, *, every: bool) -> list[str]:
    known = sorted(example.weights, key=_natural_order)
    if not known:
        raise BadData("this example has no weights to draw")
    if layers is None:
        names = [name for name in known if _is_cross(example, name)] or known
        return names if every else names[-1:]
    selected = []
    for layer in [layers] if isinstance(layers, str) else layers:
        matches = [name for name in known if f"{name}.".startswith(f"{layer}.")]
        if not matches:
            raise UnknownName(f"no layer {layer!r} in this trace. {did_you_mean(layer, known)}")
        selected += matches
    return selected


def _natural_order(name: str) -> list[tuple[int, int, str]]:
    """A sorting key that puts "cross.2" before "cross.10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _is_cross(example: ExampleLike, name: str) -> bool:
    axes = example.weight_axes[name]
    return axes.rows != axes.columns and not axes.causal


def _panels(example: ExampleLike, name: str, heads: int | str, merge: bool) -> list[Panel]:
    weights = example.weights[name]
    if not weights.size:
        raise BadData(f"{name} has no weights to draw: its shape is {weights.shape}")
    if isinstance(heads, int) and heads not in range(len(weights)):
        raise UnknownName(f"no head {heads} in {name}: it has {len(weights)}, counted from 0")
    axes, keys = example.weight_axes[name], example.axes(name)[1]
    rows, columns = map(labels_of, example.axes(name))
    if merge:
        weights, rows, columns = merge_words(weights, rows, columns)
    row_side, column_side = side(rows, f"{axes.rows} (queries)"), side(columns, f"{axes.columns} (keys)")
    panels = []
    for matrix, head in _select_heads(weights, heads):
        if isinstance(keys, GridLike):
            panels += frames(matrix, row_side, keys, column_side.name, f"{name}, {head}")
        else:
            panels.append(Panel(matrix, row_side, column_side, f"{name}, {head}"))
    return panels


def _select_heads(weights: np.ndarray, heads: int | str) -> list[tuple[np.ndarray, str]]:
    """The matrices [rows, columns] to draw, each with the words that name it."""
    if heads == "mean" and len(weights) > 1:
        return [(weights.mean(0), f"mean of {len(weights)} heads")]
    numbers = [int(heads)] if isinstance(heads, int) else range(len(weights))
    return [(weights[number], f"head {number}") for number in numbers]


def _wrap(panels: list[Panel]) -> list[list[Panel]]:
    """Rows of a few panels with the same axes."""
    groups = [
        list(group) for _, group in itertools.groupby(panels, key=lambda panel: (panel.rows, panel.columns))
    ]
    return [group[start : start + WRAP] for group in groups for start in range(0, len(group), WRAP)]


def _title_heads(panels: list[list[Panel]]) -> list[list[Panel]]:
    """The grid of layers x heads: heads are named above the first layer only."""
    first = [panel._replace(title=f"head {h}") for h, panel in enumerate(panels[0])]
    return [first, *([panel._replace(title="") for panel in row] for row in panels[1:])]
