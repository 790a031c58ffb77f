"""Colours of pictures: themes, and the scale from weights to colours."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Theme(NamedTuple):
    """The colours of a picture.

    paper: the background and weight 0.  ink: text.  frame, cell: lines around a matrix and inside.
    rising, falling: from above 0 to the highest weight, and from below 0 to the lowest if some are negative.
    Lightness changes steadily along both, and blue and orange stay apart for every kind of colour blindness.
    """

    paper: str
    ink: str
    frame: str
    cell: str
    rising: Sequence[str]
    falling: Sequence[str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2126",
    frame="#8a929b",
    cell="#e6e9ec",
    rising=("#d5e5f4", "#9fc8e3", "#5fa3d0", "#2878b8", "#0d4b8c", "#072a57"),
    falling=("#fbe1c8", "#f3b57c", "#e0853a", "#b85a12", "#7f3807"),
)
DARK = Theme(
    paper="#14171c",
    ink="#d9dee4",
    frame="#5b636d",
    cell="#232931",
    rising=("#143250", "#1d5485", "#3a80b8", "#74afd9", "#b7d9f0", "#f2faff"),
    falling=("#4a2a10", "#8a4a14", "#c9772e", "#eaa866", "#ffe3c4"),
)


class Scale(NamedTuple):
    """From weights to colours: the lowest and the highest weight shown, and matplotlib's colour map."""

    bottom: float
    top: float
    colours: Any


def scale_of(weights: Sequence[np.ndarray], theme: Theme) -> Scale:
    """From 0 to the largest weight, rounded up to one digit; from minus that where some are negative."""
    from matplotlib.colors import LinearSegmentedColormap

    largest = max(max(float(np.abs(weight).max()) for weight in weights), 1e-3)
    digit = 10.0 ** math.floor(math.log10(largest) if largest < 0.1 or largest > 1 else -1)
    top = float(f"{math.ceil(round(largest / digit, 3)) * digit:.6g}")
    signed = min(float(weight.min()) for weight in weights) < -1e-3 * top
    rising = np.linspace(0, 1, len(theme.rising) + 1)
    stops = list(zip(rising, (theme.paper, *theme.rising), strict=True))
    if signed:
        falling = np.linspace(-1, 0, len(theme.falling) + 1)[:-1]
        stops = [*zip(falling, reversed(theme.falling), strict=True), *stops]
        stops = [((place + 1) / 2, colour) for place, colour in stops]
    return Scale(-top if signed else 0.0, top, LinearSegmentedColormap.from_list("qkv", stops, N=512))
