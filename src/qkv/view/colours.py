"""Colours of pictures: themes, and the scale from weights to colours."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Theme(NamedTuple):
    """The colours of a picture.

    paper: the background and weight 0.  ink: text.
    frame, word, cell: lines around a matrix, between words and between cells.
    rising, falling: from above 0 to the highest weight, and from below 0 to the lowest if some are negative.
    Lightness changes steadily along both, and blue and orange stay apart for every kind of colour blindness.
    """

    paper: str
    ink: str
    frame: str
    word: str
    cell: str
    rising: Sequence[str]
    falling: Sequence[str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2126",
    frame="#8a929b",
    word="#b4bbc3",
    cell="#e6e9ec",
    rising=("#d5e5f4", "#9fc8e3", "#5fa3d0", "#2878b8", "#0d4b8c", "#072a57"),
    falling=("#fbe1c8", "#f3b57c", "#e0853a", "#b85a12", "#7f3807"),
)
DARK = Theme(
    paper="#14171c",
    ink="#d9dee4",
    frame="#5b636d",
    word="#434b55",
    cell="#232931",
    rising=("#143250", "#1d5485", "#3a80b8", "#74afd9", "#b7d9f0", "#f2faff"),
    falling=("#4a2a10", "#8a4a14", "#c9772e", "#eaa866", "#ffe3c4"),
)


class Scale(NamedTuple):
    """From weights to colours.

    lowest, highest: the weights between which the picture's lie, and what the bar shows.
    ends: the weights of the first and the last colour.  colours: matplotlib's colour map between them.
    """

    lowest: float
    highest: float
    ends: tuple[float, float]
    colours: Any


def scale_of(weights: Sequence[np.ndarray], theme: Theme) -> Scale:
    """From 0 to the largest weight, from the lowest one if some are negative, both to two digits.

    A negative weight is as strong in colour as a positive one of the same size.
    """
    from matplotlib.colors import LinearSegmentedColormap

    high = max(float(weight.max()) for weight in weights)
    low = min(float(weight.min()) for weight in weights)
    signed = low < -1e-3 * high
    lowest, highest = (-_rounded_up(-low) if signed else 0.0), _rounded_up(high)
    limit = max(highest, -lowest) or 1.0
    stops = list(zip(np.linspace(0, 1, len(theme.rising) + 1), (theme.paper, *theme.rising), strict=True))
    if signed:
        falling = np.linspace(-1, 0, len(theme.falling) + 1)[:-1]
        stops = [*zip(falling, reversed(theme.falling), strict=True), *stops]
        stops = [((place + 1) / 2, colour) for place, colour in stops]
    colours = LinearSegmentedColormap.from_list("qkv", stops, N=512)
    return Scale(lowest, highest or float(not signed), (-limit if signed else 0.0, limit), colours)


def _rounded_up(value: float) -> float:
    """To two digits; 0 for what is not positive."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / digit, 3)) * digit:.6g}")
