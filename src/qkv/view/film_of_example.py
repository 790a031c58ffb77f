"""The film strip of a traced example whose keys are the cells of a picture."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from qkv.view.embedding import find_picture
from qkv.view.film import Film
from qkv.view.protocols import ExampleLike, GridLike
from qkv.view.selection import check_head, select_layers
from qkv.view.words import format_token

POINTS = 3  # queries on a grid: so many in each direction are shown


def make_film_of_example(
    example: ExampleLike, layers: str | Sequence[str] | None, head: int | None, folders: Sequence[Path]
) -> tuple[Film | None, str]:
    """The film strip of the selected weights, averaged over layers.

    Args:
        example: the example of a trace.
        layers: as in `qkv.view.heatmap`.
        head: the number of a head; None takes the mean over the heads.
        folders: where the path of the picture may start.

    Returns:
        The strip; None where the keys are no cells of a picture, or the picture cannot be read.  And why it
        cannot, or "".

    Raises:
        UnknownName: there is no such layer or head.
        BadData: the example has no weights.
    """
    names = select_layers(example, layers, select_all=False)
    rows, grid = example.axes(names[0])
    if not isinstance(grid, GridLike) or grid.picture is None:
        return None, ""
    if any(example.weight_axes[name] != example.weight_axes[names[0]] for name in names):
        return None, "the layers have different axes"
    pixels, problem = find_picture(grid, folders)
    if pixels is None:
        return None, f"{grid.picture} is not in the picture: {problem}"
    weights, numbers = _average(example, names, head), _choose_queries(rows)
    words = [f"cell {place}" for place in _name_cells(rows, numbers)] if isinstance(rows, GridLike) else rows
    frames = weights[numbers].reshape(-1, grid.height, grid.width)
    title = f"{_name_weights(names, head)} over {format_token(PurePath(grid.picture).name)}"
    return Film(pixels, list(words), frames, *_find_centres(grid), title), ""


def _average(example: ExampleLike, names: Sequence[str], head: int | None) -> np.ndarray:
    """The weights [rows, columns], of one head or averaged over heads, and averaged over layers."""
    for name in names:
        check_head(name, example.weights[name], "mean" if head is None else head)
    of_layers = [example.weights[name] for name in names]
    return np.mean([each.mean(0) if head is None else each[head] for each in of_layers], 0)


def _choose_queries(rows: Sequence[str] | GridLike) -> list[int]:
    """All tokens; of a grid `POINTS` × `POINTS` evenly spaced cells."""
    if not isinstance(rows, GridLike):
        return list(range(len(rows)))
    places = [
        sorted({int((number + 0.5) * size / POINTS) for number in range(POINTS)})
        for size in (rows.height, rows.width)
    ]
    return [row * rows.width + column for row in places[0] for column in places[1]]


def _name_cells(grid: GridLike, numbers: Sequence[int]) -> list[str]:
    return [f"{number // grid.width}, {number % grid.width}" for number in numbers]


def _name_weights(names: Sequence[str], head: int | None) -> str:
    layers = names[0] if len(names) == 1 else f"mean of {', '.join(names)}"
    return layers if head is None else f"{layers}, head {head}"


def _find_centres(grid: GridLike) -> tuple[np.ndarray, np.ndarray]:
    """The centres of the rows and of the columns of cells, as fractions of the picture."""
    left, top, right, bottom = grid.area
    rows = top + (np.arange(grid.height) + 0.5) / grid.height * (bottom - top)
    columns = left + (np.arange(grid.width) + 0.5) / grid.width * (right - left)
    return rows, columns
