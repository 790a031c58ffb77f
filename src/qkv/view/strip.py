"""Weights over the cells of an image as a film strip: one small heat map for every query."""

from pathlib import PurePath

import numpy as np

from qkv.view.layout import Panel
from qkv.view.protocols import GridLike
from qkv.view.words import Side, format_token

MAX_FRAMES = 48  # of one strip: with more, matplotlib cannot write the picture
BLANK = " "  # a label without ink; its height keeps the text above clear of the colour bar


def make_frames(weights: np.ndarray, rows: Side, grid: GridLike, keys: str, title: str) -> list[Panel]:
    """One panel [height, width] for every query, or for evenly spaced queries if there are too many.

    Args:
        weights: [queries, height * width], of one head or a mean of heads.
        rows: labels of the queries, which become the titles of the panels.
        grid: the axis of the keys.
        keys: text above the strip that says what the cells are, as "image (keys)".
        title: text at the left of the strip.
    """
    count = len(weights)
    selected = np.unique(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int))
    remark = f", {len(selected)} of {count} queries" if len(selected) < count else ""
    picture = f", {format_token(PurePath(grid.picture).name)}" if grid.picture else ""
    row_side = Side((BLANK,) * grid.height, title + remark)
    column_side = Side((BLANK,) * grid.width, f"{rows.name} over {keys}{picture}")
    return [
        Panel(weights[row].reshape(grid.height, grid.width), row_side, column_side, rows.labels[row])
        for row in selected
    ]
