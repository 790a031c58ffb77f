"""Time over length on log scales: a line for each contender, named where it ends, ringed where it meets the
first.

All lengths are inches, all text sizes points, y grows upwards, as in `qkv.view.page`.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.bench.calls import WHATS
from qkv.bench.curves import Crossing, Curve, crossing
from qkv.bench.results import Comparison
from qkv.bench.scales import Axis, axis_of, spread, thinned, time_ticks
from qkv.errors import BadData
from qkv.view.colours import DARK, LIGHT, Theme
from qkv.view.fonts import fonts_for
from qkv.view.page import LINE, MIDDLE, Page, check

WIDTH, HEIGHT, MARGIN, GAP, BELOW, BETWEEN, LEAD = 3.6, 2.9, 0.14, 0.06, 0.42, 0.35, 0.16
TITLE, HEAD, SMALL = 9.0, 8.0, 7.0
# Apart in lightness too, on white and on black.  The first contender, what others are measured by, is ink.
COLOURS = {
    LIGHT.paper: ("#2878b8", "#b85a12", "#2a7d4f", "#8e4585", "#8a6d00", "#b03060"),
    DARK.paper: ("#74afd9", "#eaa866", "#7cc79a", "#d29bd0", "#d8c35a", "#f08aa8"),
}
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)))


class Line(NamedTuple):
    """One contender's curve and how it is drawn.

    crosses: where it meets the first contender's.
    """

    label: str
    curve: Curve
    colour: str
    style: Any
    crosses: Crossing | None

    @property
    def told(self) -> str:
        """What the crossing means, in words."""
        if self.crosses is None:
            return ""
        return f"  {'faster' if self.crosses.faster_above else 'slower'} above {self.crosses.rounded:,}"


class Frame(NamedTuple):
    """Where a panel stands on the page, and its axes: log2 of tokens, log10 of seconds."""

    left: float
    bottom: float
    across: Axis
    up: Axis

    def place(self, length: int | float, seconds: float) -> tuple[float, float]:
        """The point of the page that shows it."""
        x, y = self.across.share(math.log2(length)), self.up.share(math.log10(seconds))
        return self.left + x * WIDTH, self.bottom + y * HEIGHT


def draw(comparison: Comparison, path: Path, dark: bool = False) -> Path:
    """Draw a panel for each thing that was timed to a .png, .svg or .pdf.

    Raises BadData where nothing was measured or the picture cannot be written.
    """
    check(path)
    theme = DARK if dark else LIGHT
    panels = [(what, lines) for what in comparison.whats if (lines := _lines(comparison, what, theme))]
    if not panels:
        raise BadData(f"no picture {path}: nothing was measured")
    told = _told(comparison)
    texts = "".join([*told, *(line.label for _, lines in panels for line in lines), *WHATS.values()])
    page = Page(theme, fonts_for("".join(sorted(set(texts)))))
    _compose(page, panels, told)
    page.save(path)
    return path


def _told(comparison: Comparison) -> list[str]:
    return [str(comparison.setting), str(comparison.machine)]


def _lines(comparison: Comparison, what: str, theme: Theme) -> list[Line]:
    colours = COLOURS[theme.paper]
    reference = comparison.curve(what, comparison.contenders[0].label)
    found = []
    for number, contender in enumerate(comparison.contenders):
        turn, which = divmod(number - 1, len(colours))
        colour, style = (colours[which], STYLES[turn % len(STYLES)]) if number else (theme.ink, STYLES[0])
        if curve := comparison.curve(what, contender.label):
            found.append(Line(contender.label, curve, colour, style, crossing(reference, curve)))
    return found


def _compose(page: Page, panels: Sequence[tuple[str, list[Line]]], told: Sequence[str]) -> None:
    ticks = [time_ticks([s for line in lines for _, s in line.curve]) for _, lines in panels]
    lefts, x = [], MARGIN
    for (_, lines), (_, marks) in zip(panels, ticks, strict=True):
        x += max(page.measure(name, SMALL)[0] for _, name in marks) + GAP
        lefts.append(x)
        x += WIDTH + LEAD + max(sum(_widths(page, line)) for line in lines) + BETWEEN
    width = x - BETWEEN + MARGIN
    heads = [line for text in told for line in _wrapped(page, text, width - 2 * MARGIN)]
    top = BELOW + HEIGHT + GAP + HEAD * LINE + GAP
    height = top + len(heads) * SMALL * LINE + MARGIN
    page.figure.set_size_inches(width, height)
    for number, line in enumerate(heads):
        page.write(line, MARGIN, height - MARGIN - (number + 0.8) * SMALL * LINE, SMALL)
    for (what, lines), left, (up, marks) in zip(panels, lefts, ticks, strict=True):
        across = axis_of([math.log2(n) for line in lines for n, _ in line.curve])
        _panel(page, Frame(left, BELOW, across, up), what, lines, marks)


def _panel(
    page: Page, frame: Frame, what: str, lines: list[Line], marks: Sequence[tuple[float, str]]
) -> None:
    axes = page.axes(frame.left, frame.bottom, WIDTH, HEIGHT)
    axes.set(xlim=frame.across, ylim=frame.up, facecolor=page.theme.paper)
    page.write(f"{what}: {WHATS[what]}", frame.left, frame.bottom + HEIGHT + GAP, HEAD)
    for seconds, name in marks:
        axes.axhline(math.log10(seconds), color=page.theme.cell, linewidth=0.6, zorder=0)
        y = frame.bottom + frame.up.share(math.log10(seconds)) * HEIGHT
        page.write(name, frame.left - GAP, y, SMALL, "right", 0, MIDDLE)
    _lengths(page, axes, frame, sorted({n for line in lines for n, _ in line.curve}))
    for line in reversed(lines):
        points = [(math.log2(n), math.log10(seconds)) for n, seconds in line.curve]
        axes.plot(*zip(*points, strict=True), color=line.colour, linestyle=line.style, marker="o", ms=2.6)
        if line.crosses:
            at = math.log2(line.crosses.length), math.log10(_at(line.curve, line.crosses.length))
            axes.plot(*at, "o", ms=7, mfc="none", mec=line.colour, zorder=4)
    _names(page, frame, lines)


def _lengths(page: Page, axes: Any, frame: Frame, lengths: Sequence[int]) -> None:
    places = {n: frame.left + frame.across.share(math.log2(n)) * WIDTH for n in lengths}
    widths = {n: page.measure(f"{n:,}", SMALL)[0] + GAP for n in lengths}
    for n in lengths:
        axes.axvline(math.log2(n), color=page.theme.cell, linewidth=0.6, zorder=0)
    for n in thinned(lengths, places, widths):
        page.write(f"{n:,}", places[n], frame.bottom - GAP - 0.75 * SMALL * LINE, SMALL, "center")
    page.write("tokens", frame.left + WIDTH / 2, frame.bottom - BELOW + 0.1, SMALL, "center")


def _names(page: Page, frame: Frame, lines: Sequence[Line]) -> None:
    """Every line's name: at the right as near to its end as others leave room, inside if it ends early."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    longest = max(line.curve[-1][0] for line in lines)
    ends = [(line, *frame.place(*line.curve[-1])) for line in lines]
    late = [end for end in ends if end[0].curve[-1][0] == longest]
    right = frame.left + WIDTH + LEAD
    for (line, x, y), at in zip(late, spread([y for _, _, y in late], HEAD * LINE), strict=True):
        lead = Line2D([x, right - GAP / 2], [y, at], color=line.colour, linewidth=0.5)
        lead.set_transform(page.figure.dpi_scale_trans)
        page.figure.add_artist(lead)
        page.write(line.label, right, at, HEAD, "left", 0, MIDDLE).set_color(line.colour)
        page.write(line.told, right + _widths(page, line)[0], at, SMALL, "left", 0, MIDDLE)
    around = withStroke(linewidth=2, foreground=page.theme.paper)
    for line, x, y in ends:
        if line.curve[-1][0] < longest:
            written = page.write(line.label, x + GAP, y, SMALL, "left", 0, MIDDLE)
            written.set(color=line.colour, path_effects=[around])


def _widths(page: Page, line: Line) -> tuple[float, float]:
    """Of its name and of what is said beside it."""
    return page.measure(line.label, HEAD)[0], page.measure(line.told, SMALL)[0] if line.told else 0.0


def _at(curve: Curve, length: float) -> float:
    """Seconds at a length between those of the curve, on log scales."""
    after = next(i for i, (n, _) in enumerate(curve) if n >= length)
    (n0, s0), (n1, s1) = curve[max(after - 1, 0)], curve[after]
    share = math.log(length / n0) / math.log(n1 / n0) if n1 > n0 else 0.0
    return s0 * (s1 / s0) ** share


def _wrapped(page: Page, text: str, width: float) -> list[str]:
    return textwrap.wrap(text, max(20, int(len(text) * width / page.measure(text, SMALL)[0])))
