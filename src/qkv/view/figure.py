"""Lays out and draws a grid of matrices.  All lengths are inches, all text sizes points, y grows upwards."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qkv.view.colours import DARK, LIGHT, Scale, scale_of
from qkv.view.fonts import fonts_for
from qkv.view.page import DPI, LINE, MIDDLE, Page, check

MARGIN, GAP, BETWEEN, BAR, SIDE = 0.12, 0.06, 0.2, 0.09, 0.2
TITLE, HEAD, NUMBER = 10.0, 8.0, 7.0
LARGEST = 48.0  # all matrices together, across or down


class Panel(NamedTuple):
    """One matrix: weights [rows, columns], the labels of both, and a few words above it."""

    weights: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""


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


def draw_grid(
    grid: Sequence[Sequence[Panel]],
    path: str | Path,
    *,
    sides: Sequence[str] = (),
    title: str = "",
    dark: bool = False,
) -> Path:
    """Draw panels, row by row, to a .png, .svg or .pdf; `sides` are a few words at the left of each row.

    The panels of a row share their labels at the left; labels above are written where they change.
    Raises BadData for another suffix or a place that cannot be written, QKVError without matplotlib.
    """
    path = Path(path)
    check(path)
    panels = [panel for row in grid for panel in row]
    texts = {text for panel in panels for text in (*panel.rows, *panel.columns, panel.title)}
    page = Page(DARK if dark else LIGHT, fonts_for("".join(sorted({*texts, *sides, title}))))
    _compose(page, grid, sides, title)
    page.save(path)
    return path


def _compose(page: Page, grid: Sequence[Sequence[Panel]], sides: Sequence[str], title: str) -> None:
    layout = _layout(page, grid)
    scale = scale_of([panel.weights for row in grid for panel in row], page.theme)
    labelled = [r == 0 or _columns(row) != _columns(grid[r - 1])[: len(row)] for r, row in enumerate(grid)]
    lefts, right = _across(grid, layout, SIDE * bool(sides))
    beside = BETWEEN + BAR + GAP + max(page.measure(_number(end), NUMBER)[0] for end in scale[:2])
    width = right + max(beside, layout.beyond) + MARGIN
    lines = _wrapped(page, title, width - 2 * MARGIN)
    bottoms, height = _down(grid, layout, labelled, len(lines) * TITLE * LINE + GAP * bool(lines))
    page.figure.set_size_inches(width, height)
    for number, line in enumerate(lines):
        page.write(line, MARGIN, height - MARGIN - (number + 0.75) * TITLE * LINE, TITLE)
    for row, bottom, with_columns in zip(grid, bottoms, labelled, strict=True):
        _label_rows(page, row[0].rows, lefts[0] - GAP, bottom, layout)
        for panel, left in zip(row, lefts, strict=False):
            _panel(page, panel, left, bottom, layout, scale, with_columns)
    for side, bottom, row in zip(sides, bottoms, grid, strict=False):
        middle = bottom + len(row[0].rows) * layout.height / 2
        page.write(side, MARGIN + HEAD / 72, middle, HEAD, "center", 90)
    _bar(page, right + BETWEEN, bottoms[-1], min(1.2, len(grid[-1][0].rows) * layout.height), scale)


def _across(grid: Sequence[Sequence[Panel]], layout: Layout, side: float) -> tuple[list[float], float]:
    """The left edge of every column of panels, and the right edge of the last."""
    edges = [_snapped(MARGIN + side + layout.left + GAP)]
    for c in range(max(map(len, grid))):
        widest = max(len(row[c].columns) for row in grid if c < len(row))
        edges.append(edges[-1] + widest * layout.width + BETWEEN)
    return edges[:-1], edges[-1] - BETWEEN


def _down(
    grid: Sequence[Sequence[Panel]], layout: Layout, labelled: Sequence[bool], title: float
) -> tuple[list[float], float]:
    """The bottom edge of every row of panels, and the height of the page."""
    depth, depths = MARGIN + title, []
    for row, with_columns in zip(grid, labelled, strict=True):
        depth += (HEAD * LINE + GAP) * any(panel.title for panel in row) + (layout.above + GAP) * with_columns
        depth = _snapped(depth + len(row[0].rows) * layout.height)
        depths.append(depth)
        depth += BETWEEN
    height = _snapped(depths[-1] + MARGIN)
    return [height - depth for depth in depths], height


def _layout(page: Page, grid: Sequence[Sequence[Panel]]) -> Layout:
    """Cells as large as the page wants, labels as large as the cells allow and turned only if they must."""
    panels = [panel for row in grid for panel in row]
    alone = len(panels) == 1
    longest = max(max(panel.weights.shape) for panel in panels)
    largest, wanted, least, most = (0.42, 5.2, 0.105, 11.0) if alone else (0.3, 1.7, 0.088, 7.5)
    across = sum(max(len(row[c].columns) for row in grid if c < len(row)) for c in range(len(grid[0])))
    fits = LARGEST / max(across, sum(len(row[0].rows) for row in grid))
    cell = _snapped(min(largest, max(wanted / longest, least), most / longest, fits))
    size = min(10.0 if alone else 8.0, max(4.6, cell * 72 * 0.68))
    step = math.ceil(size * 1.1 / 72 / cell)
    rows = _measured(page, [panel.rows for panel in panels], size)
    columns = _measured(page, [panel.columns for panel in panels], size)
    widest = max(width for width, _ in columns.values())
    width, angle = _turned(widest, cell, size, step, len(panels[0].columns) if alone else 99)
    turn = math.radians(angle)
    reach = {text: w * math.cos(turn) + h * math.sin(turn) / 2 for text, (w, h) in columns.items()}
    beyond = max(
        reach[t] - (len(p.columns) - c - 0.5) * width for p in panels for c, t in enumerate(p.columns)
    )
    above = max(w * math.sin(turn) + h * math.cos(turn) / (2 if angle else 1) for w, h in columns.values())
    left = max(width for width, _ in rows.values())
    return Layout(width, cell, size, angle, step, left, above, beyond if angle else 0.0)


def _turned(widest: float, cell: float, size: float, step: int, count: int) -> tuple[float, int]:
    """The width of the cells and the angle of the labels above them: level, slanted or upright."""
    needed = widest + 0.07
    if needed <= cell * step:
        return cell, 0
    if needed <= 1.5 * cell and needed * count <= 5.2:
        return _snapped(needed), 0
    return cell, 45 if cell * step >= 1.25 * size * LINE else 90


def _measured(page: Page, labels: Iterable[Sequence[str]], size: float) -> dict[str, tuple[float, float]]:
    return {text: page.measure(text, size) for text in {text for texts in labels for text in texts}}


def _panel(
    page: Page, panel: Panel, left: float, bottom: float, layout: Layout, scale: Scale, with_columns: bool
) -> None:
    rows, columns = panel.weights.shape
    height = rows * layout.height
    axes = page.axes(left, bottom, columns * layout.width, height)
    axes.imshow(
        panel.weights,
        cmap=scale.colours,
        vmin=scale.bottom,
        vmax=scale.top,
        aspect="auto",
        interpolation="nearest",
    )
    if layout.height >= 0.15:
        axes.hlines(np.arange(0.5, rows - 1), -0.5, columns - 0.5, color=page.theme.cell, linewidth=0.5)
        axes.vlines(np.arange(0.5, columns - 1), -0.5, rows - 0.5, color=page.theme.cell, linewidth=0.5)
    top = bottom + height + GAP
    if with_columns:
        level, align = (MIDDLE, "left") if layout.angle else ("bottom", "center")
        for c in range(0, columns, layout.step):
            x = left + (c + 0.5) * layout.width
            page.write(panel.columns[c], x, top, layout.size, align, layout.angle, level)
        top += layout.above + GAP
    page.write(panel.title, left, top + 0.25 * HEAD * LINE, HEAD)


def _label_rows(page: Page, rows: Sequence[str], right: float, bottom: float, layout: Layout) -> None:
    for r in range(0, len(rows), layout.step):
        y = bottom + (len(rows) - r - 0.5) * layout.height
        page.write(rows[r], right, y, layout.size, "right", 0, MIDDLE)


def _bar(page: Page, left: float, bottom: float, height: float, scale: Scale) -> None:
    axes = page.axes(left, bottom, BAR, height)
    axes.imshow(np.linspace(1, 0, 256)[:, None], cmap=scale.colours, aspect="auto")
    ends = {0.0: scale.bottom, height: scale.top} | ({height / 2: 0.0} if scale.bottom else {})
    for y, value in ends.items():
        page.write(_number(value), left + BAR + GAP, bottom + y, NUMBER, "left", 0, MIDDLE)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _columns(row: Sequence[Panel]) -> list[tuple[str, ...]]:
    return [tuple(panel.columns) for panel in row]


def _wrapped(page: Page, title: str, width: float) -> list[str]:
    if not title:
        return []
    return textwrap.wrap(title, max(8, int(len(title) * width / page.measure(title, TITLE)[0])))


def _snapped(length: float) -> float:
    """To whole pixels, so that all cells are equal."""
    return max(1, round(length * DPI)) / DPI
