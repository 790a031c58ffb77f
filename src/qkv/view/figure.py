"""Draws a grid of matrices. All lengths are inches, all text sizes points, y grows upwards."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qkv.view.canvas import LINE, MIDDLE, Page, check_output
from qkv.view.colours import DARK, LIGHT, Scale, make_scale
from qkv.view.fonts import find_fonts
from qkv.view.layout import (
    BETWEEN,
    GAP,
    HEAD,
    MARGIN,
    NAME,
    Grid,
    Layout,
    Panel,
    compute_layout,
    compute_left_edges,
    place_bands,
    round_to_pixels,
)
from qkv.view.words import Side

BAR, TITLE = 0.09, 10.0
LINES_FROM = 0.15  # cells of at least this size have lines between them, and darker ones between words
WEIGHT = "weight"


def draw_grid(
    grid: Grid,
    path: str | Path,
    *,
    sides: Sequence[str] = (),
    title: str = "",
    dark: bool = False,
) -> Path:
    """Draw rows of panels to a .png, .svg or .pdf, and return the path.

    The panels of a row share the labels at the left. Labels above the panels are repeated only where they
    change from row to row.

    Args:
        grid: rows of panels.
        path: the picture to write; its suffix selects the format.
        sides: a short text at the left of each row.
        title: a line above everything.
        dark: use colours for dark backgrounds.

    Raises:
        BadData: for another suffix, or a path that cannot be written.
        QKVError: without matplotlib.
    """
    path = Path(path)
    check_output(path)
    texts = {text for row in grid for panel in row for text in _collect_texts(panel)}
    page = Page(DARK if dark else LIGHT, find_fonts("".join(sorted({*texts, *sides, title, WEIGHT}))))
    _compose(page, grid, sides, title)
    page.save(path)
    return path


def _collect_texts(panel: Panel) -> list[str]:
    sides = (panel.rows, panel.columns)
    return [panel.title, *(text for side in sides for text in (side.name, *side.labels))]


def _compose(page: Page, grid: Grid, sides: Sequence[str], title: str) -> None:
    layout = compute_layout(page, grid)
    scale = make_scale([panel.weights for row in grid for panel in row], page.theme)
    names = (NAME * LINE + GAP) * (bool(sides) + any(panel.rows.name for row in grid for panel in row))
    left_edges, right, text_right = compute_left_edges(page, grid, layout, names)
    width = max(right + BETWEEN + measure_bar(page, scale), text_right) + MARGIN
    title_lines = _wrap_title(page, title, width - 2 * MARGIN)
    top = MARGIN + len(title_lines) * TITLE * LINE + GAP * bool(title_lines)
    bands = place_bands(page, grid, layout, sides, top)
    height = round_to_pixels(bands[-1].bottom + MARGIN)
    page.figure.set_size_inches(width, height)
    for number, line in enumerate(title_lines):
        page.write(line, MARGIN, height - MARGIN - (number + 0.75) * TITLE * LINE, TITLE)
    for r, (row, band) in enumerate(zip(grid, bands, strict=True)):
        place = (left_edges, height - band.bottom)
        _draw_row(page, row, place, (layout, scale), band.has_labels, sides[r : r + 1])
    lowest = len(grid[-1][0].rows.labels) * layout.height
    draw_bar(page, right + BETWEEN, height - bands[-1].bottom, min(1.2, lowest), scale)


def _draw_row(
    page: Page,
    row: Sequence[Panel],
    place: tuple[Sequence[float], float],
    style: tuple[Layout, Scale],
    has_labels: bool,
    sides: Sequence[str],
) -> None:
    """Draw one row of panels and its labels; `place` holds the left edges and the bottom edge."""
    (left_edges, bottom), (layout, scale) = place, style
    height = len(row[0].rows.labels) * layout.height
    _label_rows(page, row[0].rows, left_edges[0] - GAP, bottom, layout)
    for number, text in enumerate((*sides, row[0].rows.name)):
        _write_upwards(page, text, MARGIN + number * (NAME * LINE + GAP), bottom, height)
    for c, (panel, left) in enumerate(zip(row, left_edges, strict=False)):
        _draw_matrix(page, panel, left, bottom, layout, scale)
        _label_columns(page, panel, left, bottom + height + GAP, layout, has_labels, has_name=c == 0)


def _draw_matrix(page: Page, panel: Panel, left: float, bottom: float, layout: Layout, scale: Scale) -> None:
    rows, columns = panel.weights.shape
    axes = page.axes(left, bottom, columns * layout.width, rows * layout.height)
    low, high = scale.limits
    axes.imshow(
        panel.weights, cmap=scale.colour_map, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    has_cell_lines = layout.height >= LINES_FROM
    if has_cell_lines:
        _draw_lines(axes, range(1, rows), range(1, columns), panel, page.theme.cell)
    if layout.step == 1:
        colour = page.theme.word if has_cell_lines else page.theme.cell
        _draw_lines(axes, panel.rows.starts[1:], panel.columns.starts[1:], panel, colour)


def _draw_lines(axes: Any, rows: Sequence[int], columns: Sequence[int], panel: Panel, colour: str) -> None:
    """Draw lines above these rows and at the left of these columns."""
    height, width = panel.weights.shape
    axes.hlines(np.array(rows) - 0.5, -0.5, width - 0.5, color=colour, linewidth=0.5)
    axes.vlines(np.array(columns) - 0.5, -0.5, height - 0.5, color=colour, linewidth=0.5)


def _label_columns(
    page: Page, panel: Panel, left: float, top: float, layout: Layout, has_labels: bool, has_name: bool
) -> None:
    """Write what stands above a panel: the labels and the name of its columns, and its title."""
    if has_labels:
        level, align = (MIDDLE, "left") if layout.angle else ("bottom", "center")
        for c in range(0, len(panel.columns.labels), layout.step):
            x = left + (c + 0.5) * layout.width
            page.write(panel.columns.labels[c], x, top, layout.size, align, layout.angle, level)
        top += layout.above + GAP
    if has_labels and panel.columns.name:
        page.write(panel.columns.name if has_name else "", left, top + 0.25 * NAME * LINE, NAME)
        top += NAME * LINE + GAP
    page.write(panel.title, left, top + 0.25 * HEAD * LINE, HEAD)


def _label_rows(page: Page, rows: Side, right: float, bottom: float, layout: Layout) -> None:
    count = len(rows.labels)
    for r in range(0, count, layout.step):
        y = bottom + (count - r - 0.5) * layout.height
        page.write(rows.labels[r], right, y, layout.size, "right", 0, MIDDLE)


def _write_upwards(page: Page, text: str, left: float, bottom: float, height: float) -> None:
    """Write a text that runs upwards: centred beside the matrix, or from its lower edge if it is longer."""
    fits = page.measure(text, NAME)[0] <= height
    y, align = (bottom + height / 2, "center") if fits else (bottom, "left")
    page.write(text, left + NAME / 72, y, NAME, align, 90)


def draw_bar(page: Page, left: float, bottom: float, height: float, scale: Scale) -> None:
    """Draw a colour bar with its numbers, and its name above. The size of the page must be set before.

    Args:
        page: the page.
        left: the left edge.
        bottom: the lower edge.
        height: of the bar alone.
        scale: its colours.
    """
    axes = page.axes(left, bottom, BAR, height)
    low, high = scale.limits
    shades = np.linspace(scale.highest, scale.lowest, 256)[:, None]
    axes.imshow(shades, cmap=scale.colour_map, vmin=low, vmax=high, aspect="auto")
    span = scale.highest - scale.lowest
    ticks = {value: (value - scale.lowest) / span * height for value in (0.0, scale.lowest, scale.highest)}
    if not NAME * LINE <= ticks[0.0] <= height - NAME * LINE:
        ticks = {scale.lowest: 0.0, scale.highest: height}
    for value, y in ticks.items():
        page.write(_format_weight(value), left + BAR + GAP, bottom + y, NAME, "left", 0, MIDDLE)
    page.write(WEIGHT, left, bottom + height + GAP + 0.4 * NAME * LINE, NAME)


def measure_bar(page: Page, scale: Scale) -> float:
    """The width of the colour bar with its numbers.

    Args:
        page: the page.
        scale: its colours.
    """
    numbers = max(page.measure(_format_weight(end), NAME)[0] for end in (scale.lowest, scale.highest))
    return max(BAR + GAP + numbers, page.measure(WEIGHT, NAME)[0])


def _format_weight(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _wrap_title(page: Page, title: str, width: float) -> list[str]:
    if not title:
        return []
    return textwrap.wrap(title, max(8, int(len(title) * width / page.measure(title, TITLE)[0])))
