"""Where the parts of a grid of matrices stand.  All lengths are inches, all text sizes points."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from qkv.view.page import DPI, LINE, Page
from qkv.view.words import Side

MARGIN, GAP, BETWEEN = 0.12, 0.06, 0.2
HEAD, NAME = 8.0, 7.0
LARGEST = 48.0  # all matrices together, across or down
PAGE = 5.2  # the size that one matrix may take before its cells shrink


class Panel(NamedTuple):
    """One matrix: weights [rows, columns], what stands along both sides, and a few words above it."""

    weights: np.ndarray
    rows: Side
    columns: Side
    title: str = ""


Grid = Sequence[Sequence[Panel]]


class Layout(NamedTuple):
    """What all panels share.

    width, height: of a cell.  size: of labels.  angle: of the labels above.  step: which labels are written.
    left, above, beyond: the room for labels at the left, above, and above but further right than the matrix.
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
    """Where a row of panels stands, measured from the top of the page.

    bottom: of its matrices.  labelled: whether its columns have labels.
    """

    bottom: float
    labelled: bool


def layout_of(page: Page, grid: Grid) -> Layout:
    """Cells as large as the page wants, labels as large as the cells allow and turned only if they must."""
    panels = [panel for row in grid for panel in row]
    alone = len(panels) == 1
    longest = max(max(panel.weights.shape) for panel in panels)
    largest, wanted, least, most = (0.42, PAGE, 0.105, 11.0) if alone else (0.3, 1.7, 0.088, 7.5)
    across = sum(max(len(row[c].columns.labels) for row in grid if c < len(row)) for c in range(len(grid[0])))
    fits = LARGEST / max(across, sum(len(row[0].rows.labels) for row in grid))
    cell = snapped(min(largest, max(wanted / longest, least), most / longest, fits))
    size = min(10.0 if alone else 8.0, max(4.6, cell * 72 * 0.68))
    step = math.ceil(size * 1.1 / 72 / cell)
    rows = _measured(page, [panel.rows.labels for panel in panels], size)
    columns = _measured(page, [panel.columns.labels for panel in panels], size)
    widest = max(width for width, _ in columns.values())
    width, angle = _turned(widest, cell, size, step, len(panels[0].columns.labels) if alone else 99)
    turn = math.radians(angle)
    reach = {text: w * math.cos(turn) + h * math.sin(turn) / 2 for text, (w, h) in columns.items()}
    beyond = max(
        reach[t] - (len(p.columns.labels) - c - 0.5) * width
        for p in panels
        for c, t in enumerate(p.columns.labels)
    )
    above = max(w * math.sin(turn) + h * math.cos(turn) / (2 if angle else 1) for w, h in columns.values())
    left = max(width for width, _ in rows.values())
    return Layout(width, cell, size, angle, step, left, above, beyond if angle else 0.0)


def lefts_of(page: Page, grid: Grid, layout: Layout, names: float) -> tuple[list[float], float, float]:
    """The left edge of every column of panels, the right edge of the last matrix and that of all text above.

    names: the room for what stands at the left of the labels.
    """
    left = snapped(MARGIN + names + layout.left + GAP)
    lefts, matrix, text = [], left, left
    for c in range(max(map(len, grid))):
        panels = [row[c] for row in grid if c < len(row)]
        lefts.append(left)
        matrix = left + max(len(panel.columns.labels) for panel in panels) * layout.width
        text = left + max(_text_width(page, panel, named=c == 0) for panel in panels)
        left = snapped(max(matrix, text) + BETWEEN)
    return lefts, matrix, max(text, matrix + layout.beyond)


def bands_of(page: Page, grid: Grid, layout: Layout, sides: Sequence[str], top: float) -> list[Band]:
    """The place of every row of panels below `top`; labels above a matrix are written where they change."""
    bands: list[Band] = []
    depth = top
    for r, row in enumerate(grid):
        labelled = r == 0 or _columns(row) != _columns(grid[r - 1])[: len(row)]
        title = (HEAD * LINE + GAP) * any(panel.title for panel in row)
        columns = layout.above + GAP + (NAME * LINE + GAP) * bool(row[0].columns.name) if labelled else 0.0
        height = len(row[0].rows.labels) * layout.height
        beside = [page.measure(text, NAME)[0] for text in (row[0].rows.name, *sides[r : r + 1]) if text]
        depth += title + max(columns, max(beside, default=0.0) - height)
        depth = snapped(depth + height)
        bands.append(Band(depth, labelled))
        depth += BETWEEN
    return bands


def snapped(length: float) -> float:
    """To whole pixels, so that all cells are equal."""
    return max(1, round(length * DPI)) / DPI


def _text_width(page: Page, panel: Panel, named: bool) -> float:
    """Of what stands above a panel's labels."""
    name = panel.columns.name if named else ""
    return max(page.measure(panel.title, HEAD)[0], page.measure(name, NAME)[0])


def _turned(widest: float, cell: float, size: float, step: int, count: int) -> tuple[float, int]:
    """The width of the cells and the angle of the labels above them: level, slanted or upright."""
    needed = widest + 0.07
    if needed <= cell * step:
        return cell, 0
    if needed <= 1.5 * cell and needed * count <= PAGE:
        return snapped(needed), 0
    return cell, 45 if cell * step >= 1.25 * size * LINE else 90


def _measured(page: Page, labels: Iterable[Sequence[str]], size: float) -> dict[str, tuple[float, float]]:
    return {text: page.measure(text, size) for text in {text for texts in labels for text in texts}}


def _columns(row: Sequence[Panel]) -> list[Side]:
    return [panel.columns for panel in row]
