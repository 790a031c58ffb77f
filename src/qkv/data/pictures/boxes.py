"""Boxes of objects in pictures, and the cells of a grid that lie in them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32

from qkv.errors import BadData

Box = Float[np.ndarray, "4"]  # left, top, right and bottom, as fractions of the picture's width and height
Boxes = Float[np.ndarray, "N 4"]


def find_cells_in_box(box: Box, height: int, width: int) -> Bool[np.ndarray, "L"]:
    """Which cells of a grid lie in a box: those with their centre in it, and that of the box's centre.

    Args:
        box: left, top, right and bottom, as fractions of the picture.
        height: rows of the grid.
        width: columns of the grid.

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
    rows = _find_cells_between(top, bottom, height)
    columns = _find_cells_between(left, right, width)
    return (rows[:, None] & columns).ravel()


def spread_over_boxes(
    named: Sequence[int | None], boxes: Boxes, height: int, width: int
) -> Float32[np.ndarray, "T L"]:
    """For every word, the uniform distribution over the cells in the box of the object that it names.

    Args:
        named: for every word the number of the object that it names, or None.
        boxes: the box of every object.
        height: rows of the grid.
        width: columns of the grid.

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
    cells = [find_cells_in_box(box, height, width).astype(np.float32) for box in boxes]
    nothing = np.zeros(height * width, np.float32)
    rows = [nothing if number is None else cells[number] / cells[number].sum() for number in named]
    return np.stack(rows) if rows else np.zeros((0, height * width), np.float32)


def _find_cells_between(first: float, last: float, count: int) -> Bool[np.ndarray, "N"]:
    """Of `count` cells in a row, those whose centre is between two places, and the one in their middle."""
    centres = (np.arange(count) + 0.5) / count
    inside = (centres >= first) & (centres <= last)
    inside[min(int((first + last) / 2 * count), count - 1)] = True
    return inside
