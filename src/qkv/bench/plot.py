"""A picture of a comparison: time over length on log scales, one line for each contender.

The label of a line stands at its end, and a ring marks where it crosses the first contender's line. All
lengths are inches, all text sizes points, y grows upwards, as in `qkv.view.canvas`.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.bench.calls import MODES
from qkv.bench.curves import Crossing, Curve, find_crossing
from qkv.bench.results import Comparison
from qkv.bench.scales import Axis, fit_axis, make_time_ticks, select_ticks, spread_apart
from qkv.errors import BadData
from qkv.view.canvas import LINE, MIDDLE, Page, check_output
from qkv.view.colours import DARK, LIGHT, Theme
from qkv.view.fonts import find_fonts

WIDTH, HEIGHT, MARGIN, GAP, BELOW, BETWEEN, LEAD = 3.6, 2.9, 0.14, 0.06, 0.42, 0.35, 0.16
TITLE, HEAD, SMALL = 9.0, 8.0, 7.0
# The colours differ in lightness too, on white and on black. The first contender has the colour of the text.
COLOURS = {
    LIGHT.paper: ("#2878b8", "#b85a12", "#2a7d4f", "#8e4585", "#8a6d00", "#b03060"),
    DARK.paper: ("#74afd9", "#eaa866", "#7cc79a", "#d29bd0", "#d8c35a", "#f08aa8"),
}
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)))


class Line(NamedTuple):
    """One contender's curve and its appearance.

    Args:
        label: the contender's label.
        curve: pairs of length and seconds.
        colour: colour of the line and its label.
        style: line style as matplotlib takes it.
        crossing: where the curve crosses the first contender's.
    """

    label: str
    curve: Curve
    colour: str
    style: Any
    crossing: Crossing | None

    @property
    def remark(self) -> str:
        """The crossing in words, to stand beside the label."""
        if self.crossing is None:
            return ""
        return f"  {'faster' if self.crossing.faster_above else 'slower'} above {self.crossing.rounded:,}"


class Frame(NamedTuple):
    """The position of a panel on the page, and its axes.

    Args:
        left: the left edge.
        bottom: the lower edge.
        x_axis: log2 of tokens.
        y_axis: log10 of seconds.
    """

    left: float
    bottom: float
    x_axis: Axis
    y_axis: Axis

    def locate(self, length: int | float, seconds: float) -> tuple[float, float]:
        """The point (x, y) of the page that stands for a length and a time."""
        x, y = self.x_axis.fraction(math.log2(length)), self.y_axis.fraction(math.log10(seconds))
        return self.left + x * WIDTH, self.bottom + y * HEIGHT


def draw(comparison: Comparison, path: Path, dark: bool = False) -> Path:
    """Draw a comparison to a .png, .svg or .pdf, with one panel for each mode.

    Args:
        comparison: the results.
        path: the picture to write; its suffix selects the format.
        dark: use colours for dark backgrounds.

    Returns:
        The path.

    Raises:
        BadData: if there are no results or the picture cannot be written.
        QKVError: without matplotlib.
    """
    check_output(path)
    theme = DARK if dark else LIGHT
    panels = [(mode, lines) for mode in comparison.modes if (lines := _make_lines(comparison, mode, theme))]
    if not panels:
        raise BadData(
            f"no picture {path}: nothing was measured, so there is nothing to draw: measure a shorter "
            "length or another attention"
        )
    captions = [str(comparison.setting), str(comparison.machine)]
    texts = "".join([*captions, *(line.label for _, lines in panels for line in lines), *MODES.values()])
    page = Page(theme, find_fonts("".join(sorted(set(texts)))))
    _compose(page, panels, captions)
    page.save(path)
    return path


def _make_lines(comparison: Comparison, mode: str, theme: Theme) -> list[Line]:
    colours = COLOURS[theme.paper]
    reference = comparison.curve(mode, comparison.contenders[0].label)
    lines = []
    for number, contender in enumerate(comparison.contenders):
        style_number, colour_number = divmod(number - 1, len(colours))
        colour, style = theme.ink, STYLES[0]
        if number:
            colour, style = colours[colour_number], STYLES[style_number % len(STYLES)]
        if curve := comparison.curve(mode, contender.label):
            lines.append(Line(contender.label, curve, colour, style, find_crossing(reference, curve)))
    return lines


def _compose(page: Page, panels: Sequence[tuple[str, list[Line]]], captions: Sequence[str]) -> None:
    ticks = [make_time_ticks([s for line in lines for _, s in line.curve]) for _, lines in panels]
    left_edges, x = [], MARGIN
    for (_, lines), (_, marks) in zip(panels, ticks, strict=True):
        x += max(page.measure(name, SMALL)[0] for _, name in marks) + GAP
        left_edges.append(x)
        x += WIDTH + LEAD + max(sum(_measure_texts(page, line)) for line in lines) + BETWEEN
    width = x - BETWEEN + MARGIN
    head_lines = [line for text in captions for line in _wrap(page, text, width - 2 * MARGIN)]
    top = BELOW + HEIGHT + GAP + HEAD * LINE + GAP
    height = top + len(head_lines) * SMALL * LINE + MARGIN
    page.figure.set_size_inches(width, height)
    for number, line in enumerate(head_lines):
        page.write(line, MARGIN, height - MARGIN - (number + 0.8) * SMALL * LINE, SMALL)
    for (mode, lines), left, (y_axis, marks) in zip(panels, left_edges, ticks, strict=True):
        x_axis = fit_axis([math.log2(n) for line in lines for n, _ in line.curve])
        _draw_panel(page, Frame(left, BELOW, x_axis, y_axis), mode, lines, marks)


def _draw_panel(
    page: Page, frame: Frame, mode: str, lines: list[Line], marks: Sequence[tuple[float, str]]
) -> None:
    axes = page.axes(frame.left, frame.bottom, WIDTH, HEIGHT)
    axes.set(xlim=frame.x_axis, ylim=frame.y_axis, facecolor=page.theme.paper)
    page.write(f"{mode}: {MODES[mode]}", frame.left, frame.bottom + HEIGHT + GAP, HEAD)
    for seconds, name in marks:
        axes.axhline(math.log10(seconds), color=page.theme.cell, linewidth=0.6, zorder=0)
        y = frame.bottom + frame.y_axis.fraction(math.log10(seconds)) * HEIGHT
        page.write(name, frame.left - GAP, y, SMALL, "right", 0, MIDDLE)
    _draw_lengths(page, axes, frame, sorted({n for line in lines for n, _ in line.curve}))
    for line in reversed(lines):
        points = [(math.log2(n), math.log10(seconds)) for n, seconds in line.curve]
        axes.plot(*zip(*points, strict=True), color=line.colour, linestyle=line.style, marker="o", ms=2.6)
        if line.crossing:
            length = line.crossing.length
            point = math.log2(length), math.log10(_interpolate(line.curve, length))
            axes.plot(*point, "o", ms=7, mfc="none", mec=line.colour, zorder=4)
    _draw_labels(page, frame, lines)


def _draw_lengths(page: Page, axes: Any, frame: Frame, lengths: Sequence[int]) -> None:
    """Grid lines at all lengths, and labels at those that have room."""
    positions = {n: frame.left + frame.x_axis.fraction(math.log2(n)) * WIDTH for n in lengths}
    widths = {n: page.measure(f"{n:,}", SMALL)[0] + GAP for n in lengths}
    for n in lengths:
        axes.axvline(math.log2(n), color=page.theme.cell, linewidth=0.6, zorder=0)
    for n in select_ticks(lengths, positions, widths):
        page.write(f"{n:,}", positions[n], frame.bottom - GAP - 0.75 * SMALL * LINE, SMALL, "center")
    page.write("tokens", frame.left + WIDTH / 2, frame.bottom - BELOW + 0.1, SMALL, "center")


def _draw_labels(page: Page, frame: Frame, lines: Sequence[Line]) -> None:
    """Label lines at the right of the panel, near their ends; lines that end early inside the panel."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    longest = max(line.curve[-1][0] for line in lines)
    ends = [(line, *frame.locate(*line.curve[-1])) for line in lines]
    full_length = [end for end in ends if end[0].curve[-1][0] == longest]
    right = frame.left + WIDTH + LEAD
    heights = spread_apart([y for _, _, y in full_length], HEAD * LINE)
    for (line, x, y), height in zip(full_length, heights, strict=True):
        lead = Line2D([x, right - GAP / 2], [y, height], color=line.colour, linewidth=0.5)
        lead.set_transform(page.figure.dpi_scale_trans)
        page.figure.add_artist(lead)
        page.write(line.label, right, height, HEAD, "left", 0, MIDDLE).set_color(line.colour)
        page.write(line.remark, right + _measure_texts(page, line)[0], height, SMALL, "left", 0, MIDDLE)
    outline = withStroke(linewidth=2, foreground=page.theme.paper)
    for line, x, y in ends:
        if line.curve[-1][0] < longest:
            label = page.write(line.label, x + GAP, y, SMALL, "left", 0, MIDDLE)
            label.set(color=line.colour, path_effects=[outline])


def _measure_texts(page: Page, line: Line) -> tuple[float, float]:
    """The widths of a line's label and of its remark."""
    remark_width = page.measure(line.remark, SMALL)[0] if line.remark else 0.0
    return page.measure(line.label, HEAD)[0], remark_width


def _interpolate(curve: Curve, length: float) -> float:
    """Seconds at a length between two of the curve, on log scales."""
    after = next(i for i, (n, _) in enumerate(curve) if n >= length)
    (n0, s0), (n1, s1) = curve[max(after - 1, 0)], curve[after]
    fraction = math.log(length / n0) / math.log(n1 / n0) if n1 > n0 else 0.0
    return s0 * (s1 / s0) ** fraction


def _wrap(page: Page, text: str, width: float) -> list[str]:
    return textwrap.wrap(text, max(20, int(len(text) * width / page.measure(text, SMALL)[0])))
