"""The positions of everything in a grid of matrices. All lengths are inches, all text sizes points."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from qkv.view.canvas import DPI, LINE, Page
from qkv.view.words import Side

MARGIN, GAP, BETWEEN = 0.12, 0.06, 0.2
HEAD, NAME = 8.0, 7.0
LARGEST = 48.0  # all matrices together, horizontally or vertically
PAGE = 5.2  # the size that one matrix may take before its cells shrink


class Panel(NamedTuple):
    """One matrix of a picture.

    Args:
        weights: [rows, columns].
        rows: labels of the rows.
        columns: labels of the columns.
        title: a few words above the matrix.
    """

    weights: np.ndarray
    rows: Side
    columns: Side
    title: str = ""


Grid = Sequence[Sequence[Panel]]


class Layout(NamedTuple):
    """The sizes that all panels share.

    Args:
        width: of a cell.
        height: of a cell.
        size: of the text of labels, in points.
        angle: of the labels above, in degrees.
        step: every step-th label is written.
        left: room for labels at the left.
        above: room for labels above.
        beyond: how far slanted labels reach beyond the right edge of their matrix.
    """

    width: float
    height: float
    size: float
    angle: int
    step: int
    left: float
    above: float
    beyond: float


class Band(NamedTuple):
    """The position of a row of panels, from the top of the page downwards.

    Args:
        bottom: the lower edge of its matrices.
        has_labels: whether its columns have labels.
    """

    bottom: float
    has_labels: bool


class CellLimits(NamedTuple):
    """What limits the size of cells: the largest and smallest cell, and the size of a matrix."""

    largest: float
    preferred_matrix: float
    smallest: float
    largest_matrix: float


def compute_layout(page: Page, grid: Grid) -> Layout:
    """The sizes for a grid: cells as large as the page allows, labels as large as the cells allow.

    Labels above are slanted or upright only where they do not fit horizontally.
    """
    panels = [panel for row in grid for panel in row]
    is_single = len(panels) == 1
    cell = _cell_size(
        grid, CellLimits(0.42, PAGE, 0.105, 11.0) if is_single else CellLimits(0.3, 1.7, 0.088, 7.5)
    )
    size = min(10.0 if is_single else 8.0, max(4.6, cell * 72 * 0.68))
    step = math.ceil(size * 1.1 / 72 / cell)
    rows = _measure_labels(page, [panel.rows.labels for panel in panels], size)
    columns = _measure_labels(page, [panel.columns.labels for panel in panels], size)
    widest = max(width for width, _ in columns.values())
    count = len(panels[0].columns.labels) if is_single else 99
    width, angle = _fit_labels(widest, cell, size, step, count)
    radians = math.radians(angle)
    reach = {text: w * math.cos(radians) + h * math.sin(radians) / 2 for text, (w, h) in columns.items()}
    beyond = max(
        reach[text] - (len(panel.columns.labels) - c - 0.5) * width
        for panel in panels
        for c, text in enumerate(panel.columns.labels)
    )
    above = max(
        w * math.sin(radians) + h * math.cos(radians) / (2 if angle else 1) for w, h in columns.values()
    )
    left = max(width for width, _ in rows.values())
    return Layout(width, cell, size, angle, step, left, above, beyond if angle else 0.0)


def compute_left_edges(
    page: Page, grid: Grid, layout: Layout, names: float
) -> tuple[list[float], float, float]:
    """The horizontal positions of the panels.

    Args:
        page: measures the texts.
        grid: rows of panels.
        layout: the sizes.
        names: room for what stands at the left of the labels.

    Returns:
        The left edge of every column of panels, the right edge of the last matrix, and the right edge of all
        text above.
    """
    left = round_to_pixels(MARGIN + names + layout.left + GAP)
    left_edges, matrix, text = [], left, left
    for c in range(max(map(len, grid))):
        panels = [row[c] for row in grid if c < len(row)]
        left_edges.append(left)
        matrix = left + max(len(panel.columns.labels) for panel in panels) * layout.width
        text = left + max(_text_width(page, panel, has_name=c == 0) for panel in panels)
        left = round_to_pixels(max(matrix, text) + BETWEEN)
    return left_edges, matrix, max(text, matrix + layout.beyond)


def place_bands(page: Page, grid: Grid, layout: Layout, sides: Sequence[str], top: float) -> list[Band]:
    """The position of every row of panels below `top`.

    A row has labels above its matrices only where they differ from those of the row above.
    """
    bands: list[Band] = []
    depth = top
    for r, row in enumerate(grid):
        has_labels = r == 0 or _list_columns(row) != _list_columns(grid[r - 1])[: len(row)]
        title = (HEAD * LINE + GAP) * any(panel.title for panel in row)
        columns = layout.above + GAP + (NAME * LINE + GAP) * bool(row[0].columns.name) if has_labels else 0.0
        height = len(row[0].rows.labels) * layout.height
        beside = [page.measure(text, NAME)[0] for text in (row[0].rows.name, *sides[r : r + 1]) if text]
        depth += title + max(columns, max(beside, default=0.0) - height)
        depth = round_to_pixels(depth + height)
        bands.append(Band(depth, has_labels))
        depth += BETWEEN
    return bands


def round_to_pixels(length: float) -> float:
    """Round a length to a whole number of pixels, at least one, so that all cells are equal."""
    return max(1, round(length * DPI)) / DPI


def _cell_size(grid: Grid, limits: CellLimits) -> float:
    longest = max(max(panel.weights.shape) for row in grid for panel in row)
    columns = sum(
        max(len(row[c].columns.labels) for row in grid if c < len(row)) for c in range(len(grid[0]))
    )
    rows = sum(len(row[0].rows.labels) for row in grid)
    preferred = max(limits.preferred_matrix / longest, limits.smallest)
    fits_page = LARGEST / max(columns, rows)
    return round_to_pixels(min(limits.largest, preferred, limits.largest_matrix / longest, fits_page))


def _text_width(page: Page, panel: Panel, has_name: bool) -> float:
    """The width of what stands above a panel's labels."""
    name = panel.columns.name if has_name else ""
    return max(page.measure(panel.title, HEAD)[0], page.measure(name, NAME)[0])


def _fit_labels(widest: float, cell: float, size: float, step: int, count: int) -> tuple[float, int]:
    """The width of the cells, and the angle of the labels above them: 0, 45 or 90 degrees."""
    width = widest + 0.07
    if width <= cell * step:
        return cell, 0
    if width <= 1.5 * cell and width * count <= PAGE:
        return round_to_pixels(width), 0
    return cell, 45 if cell * step >= 1.25 * size * LINE else 90


def _measure_labels(
    page: Page, labels: Iterable[Sequence[str]], size: float
) -> dict[str, tuple[float, float]]:
    return {text: page.measure(text, size) for text in {text for texts in labels for text in texts}}


def _list_columns(row: Sequence[Panel]) -> list[Side]:
    return [panel.columns for panel in row]
