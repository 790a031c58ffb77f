"""The axes of grids in traces: where the cells that an encoder computes lie on the picture."""

from typing import Any

from qkv.model.vision import CNNConfig
from qkv.trace import Grid


def make_grid(config: Any, size: int, cells: tuple[int, int], picture: str | None) -> Grid:
    """The axis of a grid that an encoder computes from square pictures.

    A convolution of stride s with padding on both sides puts the centre of its cell i on that of pixel s·i.
    So the cells of a CNN lie nearly half a cell above and to the left of an even division.

    Args:
        config: the config of the encoder.
        size: the side of a picture in pixels.
        cells: rows and columns of the grid.
        picture: the path of the picture; None if it has none.

    Example:
        >>> make_grid(CNNConfig(widths=(8, 8)), 32, (16, 16), None).area
        (-0.015625, -0.015625, 0.984375, 0.984375)
    """
    height, width = cells
    if not isinstance(config, CNNConfig):
        return Grid(height, width, picture)
    left, right = _find_edges(size, width)
    top, bottom = _find_edges(size, height)
    return Grid(height, width, picture, (left, top, right, bottom))


def _find_edges(size: int, count: int) -> tuple[float, float]:
    """The outer edges of so many cells, as fractions of the side; all strides together are a power of 2."""
    step = 1
    while -(-size // step) > count:
        step *= 2
    first = (0.5 - step / 2) / size
    return first, first + count * step / size
