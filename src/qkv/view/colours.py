"""Colours of pictures: themes, and the scale from weights to colours."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Theme(NamedTuple):
    """The colours of a picture.

    Lightness changes steadily along `rising` and along `falling`. Blue and orange remain distinct for every
    kind of colour blindness.

    Args:
        paper: the background, and weight 0.
        ink: text.
        frame: the line around a matrix.
        word: lines between words.
        cell: lines between cells.
        rising: from just above 0 to the highest weight.
        falling: from just below 0 to the lowest weight, where some weights are negative.
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
    """The map from weights to colours.

    Args:
        lowest: the lowest weight that the colour bar shows.
        highest: the highest weight that the colour bar shows.
        limits: the weights of the first and the last colour of the map.
        colour_map: matplotlib's colour map between the limits.
    """

    lowest: float
    highest: float
    limits: tuple[float, float]
    colour_map: Any


def make_scale(weights: Sequence[np.ndarray], theme: Theme) -> Scale:
    """A scale from 0, or from the lowest weight if some are negative, to the highest weight.

    Both ends are rounded up to two digits. Weights of equal size and opposite sign have colours of equal
    strength.

    Args:
        weights: all matrices of the picture.
        theme: the colours.
    """
    from matplotlib.colors import LinearSegmentedColormap

    maximum = max(float(weight.max()) for weight in weights)
    minimum = min(float(weight.min()) for weight in weights)
    is_signed = minimum < -1e-3 * maximum
    lowest, highest = (-_round_up(-minimum) if is_signed else 0.0), _round_up(maximum)
    limit = max(highest, -lowest) or 1.0
    stops = list(zip(np.linspace(0, 1, len(theme.rising) + 1), (theme.paper, *theme.rising), strict=True))
    if is_signed:
        falling = np.linspace(-1, 0, len(theme.falling) + 1)[:-1]
        stops = [*zip(falling, reversed(theme.falling), strict=True), *stops]
        stops = [((position + 1) / 2, colour) for position, colour in stops]
    colour_map = LinearSegmentedColormap.from_list("qkv", stops, N=512)
    return Scale(lowest, highest or float(not is_signed), (-limit if is_signed else 0.0, limit), colour_map)


def _round_up(value: float) -> float:
    """Round up to two significant digits; 0 for values that are not positive."""
    if value <= 0:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(round(value / digit, 3)) * digit:.6g}")
