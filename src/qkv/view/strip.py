"""Weights over the cells of an image as a film strip: one small heat map for every query."""

from pathlib import PurePath

import numpy as np

from qkv.view.layout import Panel
from qkv.view.traced import GridLike
from qkv.view.words import Side, label

MOST_FRAMES = 48  # of one strip: more make a picture that matplotlib cannot write
BLANK = " "  # has the height of a label, which keeps what stands above it clear of the colour bar


def frames(weights: np.ndarray, rows: Side, grid: GridLike, keys: str, title: str) -> list[Panel]:
    """One panel [height, width] for every query, or for evenly spaced ones if there are too many.

    Args:
        weights: [queries, height * width], of one head or a mean of heads.
        rows: labels of the queries, which become the titles of the panels.
        grid: the axis of the keys.
        keys: what the cells are, as "image (keys)"; stands above the strip.
        title: stands at the left of the strip.
    """
    count = len(weights)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
    part = f", {len(chosen)} of {count} queries" if len(chosen) < count else ""
    picture = f", {label(PurePath(grid.picture).name)}" if grid.picture else ""
    down = Side((BLANK,) * grid.height, title + part)
    across = Side((BLANK,) * grid.width, f"{rows.name} over {keys}{picture}")
    return [
        Panel(weights[row].reshape(grid.height, grid.width), down, across, rows.labels[row]) for row in chosen
    ]
