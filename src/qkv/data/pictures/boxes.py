"""Boxes of objects in pictures, and the cells of a grid that lie in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from qkv.errors import BadData

Box = Float[np.ndarray, "4"]  # left, top, right and bottom, as fractions of the picture's width and height
Boxes = Float[np.ndarray, "N 4"]


class CellCentres(NamedTuple):
    """Where the centres of the cells of a grid are.

    Args:
        rows: of every row of cells, as a fraction of the picture's height.
        columns: of every column, as a fraction of the width.
    """

    rows: Float[np.ndarray, "N"]
    columns: Float[np.ndarray, "N"]


def make_even_centres(height: int, width: int) -> CellCentres:
    """The centres of cells that divide a picture evenly.

    Args:
        height: rows of the grid.
        width: columns of the grid.
    """
    return CellCentres((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width)


def find_cells_in_box(box: Box, centres: CellCentres) -> Bool[np.ndarray, "L"]:
    """Which cells of a grid lie in a box: those with their centre in it, and the one nearest to its middle.

    Args:
        box: left, top, right and bottom, as fractions of the picture.
        centres: where the cells are.

    Returns:
        True at cells in the box, row by row from the top left, L = height × width.

    Raises:
        BadData: the box is empty or outside the picture.
    """
    left, top, right, bottom = (float(side) for side in box)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadData(
            f"a box is left < right and top < bottom, as fractions from 0 to 1, got {left:g}, {top:g}, "
            f"{right:g}, {bottom:g}: divide pixels by the size of the picture"
        )
    rows = _find_cells_between(top, bottom, centres.rows)
    columns = _find_cells_between(left, right, centres.columns)
    return (rows[:, None] & columns).ravel()


def spread_over_boxes(
    named: Sequence[int | None], boxes: Boxes, centres: CellCentres
) -> Float32[np.ndarray, "T L"]:
    """For every word, the uniform distribution over the cells in the box of the object that it names.

    Args:
        named: for every word the number of the object that it names, or None.
        boxes: the box of every object.
        centres: where the cells of the grid are.

    Returns:
        Distributions, row by row from the top left; zeros for words that name no object.

    Raises:
        BadData: a box is empty or outside the picture, or there is none of a named object.
    """
    for number in named:
        if number is not None and not 0 <= number < len(boxes):
            raise BadData(
                f"a word names the object {number}, but there are {len(boxes)} boxes: number them from 0"
            )
    cells = [find_cells_in_box(box, centres).astype(np.float32) for box in boxes]
    nothing = np.zeros(len(centres.rows) * len(centres.columns), np.float32)
    rows = [nothing if number is None else cells[number] / cells[number].sum() for number in named]
    return np.stack(rows) if rows else np.zeros((0, len(nothing)), np.float32)


def _find_cells_between(first: float, last: float, centres: Float[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Of cells in a row, those whose centre is between two places, and the one nearest to their middle."""
    inside = (centres >= first) & (centres <= last)
    distances = np.abs(centres - (first + last) / 2)
    inside[len(centres) - 1 - int(distances[::-1].argmin())] = True  # of two, the one behind
    return inside
