"""Draw an example of a trace, and return the warnings about its fonts."""

import warnings
from pathlib import Path
from typing import Literal

from qkv.trace import Trace
from qkv.view import MissingGlyphs, heatmap


def draw_example(
    trace: Trace,
    path: Path,
    example: int = 0,
    layers: str | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    merge: bool = False,
    dark: bool = False,
) -> list[str]:
    """Draw to `path`; returns lines about characters that no installed font has."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MissingGlyphs)
        heatmap(trace, path=path, example=example, layers=layers, heads=heads, merge=merge, dark=dark)
    return [str(warning.message) for warning in caught if issubclass(warning.category, MissingGlyphs)]
