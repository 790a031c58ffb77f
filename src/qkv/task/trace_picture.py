"""Draws an example of a trace, and collects warnings about characters that no font has."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from qkv.trace import Trace
from qkv.view import MissingGlyphs, document, heatmap
from qkv.view.film import draw_films
from qkv.view.film_of_example import make_film_of_example
from qkv.view.shaded_text import is_document


def draw_example(
    trace: Trace,
    path: Path,
    example: int = 0,
    layers: str | None = None,
    heads: int | Literal["mean", "all"] = "mean",
    merge: bool = False,
    dark: bool = False,
    folders: Sequence[Path] = (Path(),),
) -> list[str]:
    """Draw the attention of one example.

    It is shaded text where one query attends to a document, a film strip where the keys are the cells of a
    picture that is found, and a heat map otherwise.

    Args:
        trace: the trace.
        path: where to write the picture.
        example: the index of the example, from 0.
        layers: a kind of layer or one layer, such as "cross" or "cross.0"; None is the last cross-attention.
        heads: "mean", "all", or the index of one head.
        merge: join word pieces into words.
        dark: draw for a dark page.
        folders: where the picture that the keys are cells of may lie.

    Returns:
        Lines about characters that no installed font has, and about a picture that is missing.
    """
    film, problem = None, ""
    if heads != "all":
        head = None if heads == "mean" else heads
        film, problem = make_film_of_example(trace.examples[example], layers, head, folders)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", MissingGlyphs)
        if film is not None:
            draw_films([film], path, dark=dark)
        elif is_document(trace.examples[example], layers):
            document(trace, path=path, example=example, layers=layers, heads=heads, dark=dark)
        else:
            heatmap(trace, path=path, example=example, layers=layers, heads=heads, merge=merge, dark=dark)
    glyphs = [str(warning.message) for warning in messages if issubclass(warning.category, MissingGlyphs)]
    return [*glyphs, *([problem] if problem else [])]
