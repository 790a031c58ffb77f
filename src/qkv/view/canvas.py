"""A page to draw on. All lengths are inches, all text sizes points, y grows upwards."""

import io
from pathlib import Path
from typing import Any

from qkv.errors import BadData, QKVError
from qkv.files import convert_write_errors, open_output
from qkv.requirements import Unmet, format_install_command
from qkv.view.colours import Theme
from qkv.view.fonts import Fonts

DPI = 200
SUFFIXES = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
LINE = 1.25 / 72  # height of a line of text of one point
BASELINE, MIDDLE = "baseline", "center_baseline"


def check_output(path: Path) -> None:
    """Check that a picture can be drawn, before any work starts.

    Args:
        path: where the picture will be written.

    Raises:
        BadData: for a suffix that names no known format.
        QKVError: if matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadData(
            f"pictures are written as {', '.join(SUFFIXES)}, not as {path.name!r}: change the suffix"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        command = format_install_command([Unmet("matplotlib", "")])
        raise QKVError(f"pictures need matplotlib, which is not installed: {command}") from None


class Page:
    """A matplotlib figure with text and axes at positions in inches.

    Args:
        theme: the colours.
        fonts: fonts for all texts of the page.
    """

    def __init__(self, theme: Theme, fonts: Fonts) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.theme, self.fonts = theme, fonts
        self.figure = Figure(dpi=DPI, facecolor=theme.paper)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()

    def measure(self, text: str, size: float) -> tuple[float, float]:
        """The width and height that a text of this size (in points) takes."""
        artist = self.write(text, 0.0, 0.0, size)
        box = artist.get_window_extent(self.renderer)
        artist.remove()
        return box.width / DPI, box.height / DPI

    def write(
        self,
        text: str,
        x: float,
        y: float,
        size: float,
        align: str = "left",
        angle: int = 0,
        level: str = BASELINE,
    ) -> Any:
        """Write a text.

        Args:
            text: one line.
            x: position of the anchor.
            y: position of the anchor.
            size: in points.
            align: "left", "center" or "right": which part of the text is at the anchor.
            angle: rotation about the anchor, in degrees.
            level: vertical alignment, as matplotlib names it.

        Returns:
            matplotlib's text object.
        """
        artist = self.figure.text(x, y, self.fonts.replace_missing(text), parse_math=False, usetex=False)
        artist.set(transform=self.figure.dpi_scale_trans, rotation=angle, rotation_mode="anchor")
        artist.set(family=self.fonts.families, size=size, color=self.theme.ink, ha=align, va=level)
        return artist

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Add empty axes with a thin frame. The size of the page must be set before."""
        page_width, page_height = self.figure.get_size_inches()
        axes = self.figure.add_axes(
            (x / page_width, y / page_height, width / page_width, height / page_height)
        )
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=self.theme.frame, linewidth=0.6)
        return axes

    def save(self, path: Path) -> None:
        """Write the page. The same drawing gives the same bytes.

        Raises:
            BadData: if the file cannot be written.
        """
        import matplotlib

        settings: Any = {"savefig.bbox": None, "svg.fonttype": "path", "svg.hashsalt": "qkv"}
        suffix = path.suffix.lower()
        metadata: Any = SUFFIXES[suffix]
        content = io.BytesIO()
        with matplotlib.rc_context(settings):
            self.figure.savefig(
                content,
                format=suffix.removeprefix("."),
                dpi=DPI,
                facecolor=self.theme.paper,
                metadata=metadata,
            )
        with convert_write_errors(path, "the picture "), open_output(path) as file:
            file.write(content.getbuffer())
