"""Draws an example of a trace, and collects warnings about characters that no font has."""

import warnings
from pathlib import Path
from typing import Literal

from qkv.trace import Trace
from qkv.view import MissingGlyphs, document, heatmap
from qkv.view.shaded_text import is_document


def draw_example(
    trace: Trace,
    path: Path,
    example: int = 0,
    layers: str | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    merge: bool = False,
    dark: bool = False,
) -> list[str]:
    """Draw the attention of one example: as shaded text where one query attends to a document.

    Args:
        trace: the trace.
        path: where to write the picture.
        example: the index of the example, from 0.
        layers: a kind of layer or one layer, such as "cross" or "cross.0"; None is the last cross-attention.
        heads: "mean", "all", or the index of one head.
        merge: join word pieces into words.
        dark: draw for a dark page.

    Returns:
        Lines about characters that no installed font has.
    """
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", MissingGlyphs)
        if is_document(trace.examples[example], layers):
            document(trace, path=path, example=example, layers=layers, heads=heads, dark=dark)
        else:
            heatmap(trace, path=path, example=example, layers=layers, heads=heads, merge=merge, dark=dark)
    return [str(warning.message) for warning in messages if issubclass(warning.category, MissingGlyphs)]
