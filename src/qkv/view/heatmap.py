"""Pictures of attention weights: keys above, queries at the left, zero in the colour of the paper."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from qkv.errors import BadData, BadShape
from qkv.view.figure import draw_grid
from qkv.view.layout import Panel
from qkv.view.protocols import ExampleLike, GridLike, TraceLike, list_labels
from qkv.view.selection import check_head, select_example, select_layers
from qkv.view.strip import make_frames
from qkv.view.words import label_tokens, merge_words

PANELS_PER_ROW = 4  # where the grid is not layers x heads


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
        heads: "mean" for the mean over heads, the number of one head from 0, or "all" for one panel for
            every layer and head.
        merge: merge the pieces of a word: the sum over keys, the mean over queries. In scripts without spaces
            pieces stay separate, except for syllables, numbers and Katakana.
        title: a line above everything.
        dark: use colours for dark backgrounds.

    The picture names the layer, the head (or the number of heads in the mean), the rows and the columns.
    Without `merge`, "␣" and darker lines mark the beginnings of words if some words have several pieces.
    Colours run from 0 to the largest weight of the picture, in all panels alike; the colour bar shows them.
    From some hundred tokens on, only some have labels. A film strip shows at most 48 queries and says so.
    matplotlib >= 3.11 shapes and orders words in right-to-left scripts; older versions draw their letters
    unjoined and from left to right.

    Raises:
        UnknownName: for a layer, head or example that the trace does not have.
        BadData: for another suffix, or a path that cannot be written.
        QKVError: without matplotlib.

    Warns:
        MissingGlyphs: if no installed font has some of the characters.
    """
    selected = select_example(trace, example)
    names = select_layers(selected, layers, select_all=heads == "all")
    panels = [_make_panels(selected, name, heads, merge) for name in names]
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
            f"weights have shape {weights.shape} for {len(rows)} row and {len(columns)} column tokens: "
            f"pass one token for each row and column, and at least one of each"
        )
    panel = Panel(weights, label_tokens(rows, row_name), label_tokens(columns, column_name))
    return draw_grid([[panel]], path, title=title, dark=dark)


def _make_panels(example: ExampleLike, name: str, heads: int | str, merge: bool) -> list[Panel]:
    weights = example.weights[name]
    if not weights.size:
        raise BadData(
            f"{name} has no weights to draw: its shape is {weights.shape}; choose another layer or example"
        )
    check_head(name, weights, heads)
    axes, keys = example.weight_axes[name], example.axes(name)[1]
    rows, columns = map(list_labels, example.axes(name))
    if merge:
        weights, rows, columns = merge_words(weights, rows, columns)
    row_side = label_tokens(rows, f"{axes.rows} (queries)")
    column_side = label_tokens(columns, f"{axes.columns} (keys)")
    panels = []
    for matrix, head in _select_heads(weights, heads):
        if isinstance(keys, GridLike):
            panels += make_frames(matrix, row_side, keys, column_side.name, f"{name}, {head}")
        else:
            panels.append(Panel(matrix, row_side, column_side, f"{name}, {head}"))
    return panels


def _select_heads(weights: np.ndarray, heads: int | str) -> list[tuple[np.ndarray, str]]:
    """The matrices [rows, columns] to draw, each with the name of its head."""
    if heads == "mean" and len(weights) > 1:
        return [(weights.mean(0), f"mean of {len(weights)} heads")]
    numbers = [int(heads)] if isinstance(heads, int) else range(len(weights))
    return [(weights[number], f"head {number}") for number in numbers]


def _wrap(panels: list[Panel]) -> list[list[Panel]]:
    """Split panels into rows; the panels of a row have the same axes."""
    groups = [
        list(group) for _, group in itertools.groupby(panels, key=lambda panel: (panel.rows, panel.columns))
    ]
    return [
        group[start : start + PANELS_PER_ROW]
        for group in groups
        for start in range(0, len(group), PANELS_PER_ROW)
    ]


def _title_heads(panels: list[list[Panel]]) -> list[list[Panel]]:
    """The grid of layers x heads, with the number of the head above the first layer only."""
    first = [panel._replace(title=f"head {h}") for h, panel in enumerate(panels[0])]
    return [first, *([panel._replace(title="") for panel in row] for row in panels[1:])]
