"""Draws a grid of matrices.  All lengths are inches, all text sizes points, y grows upwards."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qkv.view.colours import DARK, LIGHT, Scale, scale_of
from qkv.view.fonts import fonts_for
from qkv.view.layout import (
    BETWEEN,
    GAP,
    HEAD,
    MARGIN,
    NAME,
    Grid,
    Layout,
    Panel,
    bands_of,
    layout_of,
    lefts_of,
    snapped,
)
from qkv.view.page import LINE, MIDDLE, Page, check
from qkv.view.words import Side

BAR, TITLE = 0.09, 10.0
LINES_FROM = 0.15  # cells at least so large have lines between them, and darker ones between words
WEIGHT = "weight"


def draw_grid(
    grid: Grid,
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
    texts = {text for row in grid for panel in row for text in _texts(panel)}
    page = Page(DARK if dark else LIGHT, fonts_for("".join(sorted({*texts, *sides, title, WEIGHT}))))
    _compose(page, grid, sides, title)
    page.save(path)
    return path


def _texts(panel: Panel) -> list[str]:
    both = (panel.rows, panel.columns)
    return [panel.title, *(text for one in both for text in (one.name, *one.labels))]


def _compose(page: Page, grid: Grid, sides: Sequence[str], title: str) -> None:
    layout = layout_of(page, grid)
    scale = scale_of([panel.weights for row in grid for panel in row], page.theme)
    names = (NAME * LINE + GAP) * (bool(sides) + any(panel.rows.name for row in grid for panel in row))
    lefts, right, text_right = lefts_of(page, grid, layout, names)
    width = max(right + BETWEEN + _bar_width(page, scale), text_right) + MARGIN
    lines = _wrapped(page, title, width - 2 * MARGIN)
    bands = bands_of(page, grid, layout, sides, MARGIN + len(lines) * TITLE * LINE + GAP * bool(lines))
    height = snapped(bands[-1].bottom + MARGIN)
    page.figure.set_size_inches(width, height)
    for number, line in enumerate(lines):
        page.write(line, MARGIN, height - MARGIN - (number + 0.75) * TITLE * LINE, TITLE)
    for r, (row, band) in enumerate(zip(grid, bands, strict=True)):
        _row(page, row, (lefts, height - band.bottom), (layout, scale), band.labelled, sides[r : r + 1])
    lowest = len(grid[-1][0].rows.labels) * layout.height
    _bar(page, right + BETWEEN, height - bands[-1].bottom, min(1.2, lowest), scale)


def _row(
    page: Page,
    row: Sequence[Panel],
    at: tuple[Sequence[float], float],
    how: tuple[Layout, Scale],
    labelled: bool,
    sides: Sequence[str],
) -> None:
    """One row of panels, its labels and what stands beside them; `at`: left edges, and the bottom edge."""
    (lefts, bottom), (layout, scale) = at, how
    height = len(row[0].rows.labels) * layout.height
    _label_rows(page, row[0].rows, lefts[0] - GAP, bottom, layout)
    for place, text in enumerate((*sides, row[0].rows.name)):
        _beside(page, text, MARGIN + place * (NAME * LINE + GAP), bottom, height)
    for c, (panel, left) in enumerate(zip(row, lefts, strict=False)):
        _matrix(page, panel, left, bottom, layout, scale)
        _above(page, panel, left, bottom + height + GAP, layout, labelled, named=c == 0)


def _matrix(page: Page, panel: Panel, left: float, bottom: float, layout: Layout, scale: Scale) -> None:
    rows, columns = panel.weights.shape
    axes = page.axes(left, bottom, columns * layout.width, rows * layout.height)
    low, high = scale.ends
    axes.imshow(
        panel.weights, cmap=scale.colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    large = layout.height >= LINES_FROM
    if large:
        _lines(axes, range(1, rows), range(1, columns), panel, page.theme.cell)
    if layout.step == 1:
        colour = page.theme.word if large else page.theme.cell
        _lines(axes, panel.rows.starts[1:], panel.columns.starts[1:], panel, colour)


def _lines(axes: Any, rows: Sequence[int], columns: Sequence[int], panel: Panel, colour: str) -> None:
    """Lines above these rows and at the left of these columns."""
    down, across = panel.weights.shape
    axes.hlines(np.array(rows) - 0.5, -0.5, across - 0.5, color=colour, linewidth=0.5)
    axes.vlines(np.array(columns) - 0.5, -0.5, down - 0.5, color=colour, linewidth=0.5)


def _above(
    page: Page, panel: Panel, left: float, top: float, layout: Layout, labelled: bool, named: bool
) -> None:
    """The labels of the columns and what they are, if they are written in this place, and the title."""
    if labelled:
        level, align = (MIDDLE, "left") if layout.angle else ("bottom", "center")
        for c in range(0, len(panel.columns.labels), layout.step):
            x = left + (c + 0.5) * layout.width
            page.write(panel.columns.labels[c], x, top, layout.size, align, layout.angle, level)
        top += layout.above + GAP
    if labelled and panel.columns.name:
        page.write(panel.columns.name if named else "", left, top + 0.25 * NAME * LINE, NAME)
        top += NAME * LINE + GAP
    page.write(panel.title, left, top + 0.25 * HEAD * LINE, HEAD)


def _label_rows(page: Page, rows: Side, right: float, bottom: float, layout: Layout) -> None:
    count = len(rows.labels)
    for r in range(0, count, layout.step):
        y = bottom + (count - r - 0.5) * layout.height
        page.write(rows.labels[r], right, y, layout.size, "right", 0, MIDDLE)


def _beside(page: Page, text: str, left: float, bottom: float, height: float) -> None:
    """A text that runs upwards: in the middle of the matrix, or from its lower edge if it is longer."""
    fits = page.measure(text, NAME)[0] <= height
    y, align = (bottom + height / 2, "center") if fits else (bottom, "left")
    page.write(text, left + NAME / 72, y, NAME, align, 90)


def _bar(page: Page, left: float, bottom: float, height: float, scale: Scale) -> None:
    axes = page.axes(left, bottom, BAR, height)
    low, high = scale.ends
    shades = np.linspace(scale.highest, scale.lowest, 256)[:, None]
    axes.imshow(shades, cmap=scale.colours, vmin=low, vmax=high, aspect="auto")
    span = scale.highest - scale.lowest
    places = {value: (value - scale.lowest) / span * height for value in (0.0, scale.lowest, scale.highest)}
    if not NAME * LINE <= places[0.0] <= height - NAME * LINE:
        places = {scale.lowest: 0.0, scale.highest: height}
    for value, y in places.items():
        page.write(_number(value), left + BAR + GAP, bottom + y, NAME, "left", 0, MIDDLE)
    page.write(WEIGHT, left, bottom + height + GAP + 0.4 * NAME * LINE, NAME)


def _bar_width(page: Page, scale: Scale) -> float:
    numbers = max(page.measure(_number(end), NAME)[0] for end in (scale.lowest, scale.highest))
    return max(BAR + GAP + numbers, page.measure(WEIGHT, NAME)[0])


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _wrapped(page: Page, title: str, width: float) -> list[str]:
    if not title:
        return []
    return textwrap.wrap(title, max(8, int(len(title) * width / page.measure(title, TITLE)[0])))
