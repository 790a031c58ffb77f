"""A picture of several lines over a common axis, such as the learning curves of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import BadData
from qkv.view.canvas import Page, check_output
from qkv.view.colours import LIGHT
from qkv.view.fonts import find_fonts

COLOURS = ("#1c2126", "#2878b8", "#b85a12", "#2a7d4f", "#8e4585", "#8a6d00", "#b03060")
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)))
WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT, SIZE = 4.6, 3.0, 0.75, 0.5, 0.15, 0.25, 8.0


class ChartLine(NamedTuple):
    """One line of a chart.

    Args:
        label: its name in the legend.
        points: pairs (x, y).
    """

    label: str
    points: Sequence[tuple[float, float]]


def draw_lines(
    path: Path, lines: Sequence[ChartLine], x_label: str, y_label: str, *, has_log_scales: bool = False
) -> None:
    """Draw lines into one frame, with a legend.

    Args:
        path: the picture to write; its suffix selects the format.
        lines: the lines.
        x_label: the name of the horizontal axis.
        y_label: the name of the vertical axis.
        has_log_scales: whether both axes are logarithmic.

    Raises:
        BadData: there are no points, or the picture cannot be written.
        QKVError: without matplotlib.
    """
    check_output(path)
    if not any(line.points for line in lines):
        raise BadData(f"no picture {path}: there are no points to draw")
    texts = "".join([x_label, y_label, *(line.label for line in lines)])
    page = Page(LIGHT, find_fonts("".join(sorted(set(texts)))))
    page.figure.set_size_inches(LEFT + WIDTH + RIGHT, BELOW + HEIGHT + ABOVE)
    axes = page.axes(LEFT, BELOW, WIDTH, HEIGHT)
    _prepare_axes(axes, has_log_scales)
    handles = []
    for number, line in enumerate(lines):
        style, colour = divmod(number, len(COLOURS))
        xs, ys = zip(*line.points, strict=True) if line.points else ((), ())
        appearance: Any = {"color": COLOURS[colour], "linestyle": STYLES[style % len(STYLES)], "marker": "o"}
        handles += axes.plot(xs, ys, ms=2.4, linewidth=1.2, **appearance)
    legend = axes.legend(handles, ["line"] * len(lines), fontsize=SIZE, framealpha=0.85)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set(text=page.fonts.replace_missing(line.label), parse_math=False, family=page.fonts.families)
    page.write(x_label, LEFT + WIDTH / 2, 0.1, SIZE, "center")
    page.write(y_label, 0.18, BELOW + HEIGHT / 2, SIZE, "center", 90)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def _prepare_axes(axes: Any, has_log_scales: bool) -> None:
    """Give axes their scales, ticks and grid."""
    from matplotlib.ticker import AutoLocator, ScalarFormatter

    if has_log_scales:
        axes.set(xscale="log", yscale="log")
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(AutoLocator())
            axis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.tick_params(labelsize=SIZE, colors=LIGHT.ink)
    axes.grid(color=LIGHT.cell, linewidth=0.6)
