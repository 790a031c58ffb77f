"""Curves of time over length: how they grow, and where they cross."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Curve = Sequence[tuple[int, float]]

# The exponent is fitted to the longest lengths, where the terms that grow slowest no longer count.
SPAN = 16


class Crossing(NamedTuple):
    """The point at which a curve crosses the reference curve.

    Args:
        length: the length, in tokens.
        faster_above: whether the curve is the faster one above that length.
    """

    length: float
    faster_above: bool

    @property
    def rounded(self) -> int:
        """The length to two significant digits, which is as far as the interpolation is accurate."""
        return int(float(f"{self.length:.2g}"))


def fit_exponent(curve: Curve) -> float | None:
    """The exponent p of seconds ~ length^p, by least squares on log scales.

    Args:
        curve: pairs of length and seconds.

    Returns:
        The exponent over the lengths from a sixteenth of the longest on; None if there are fewer than two.
    """
    longest = max((length for length, _ in curve), default=0)
    points = [(math.log(n), math.log(seconds)) for n, seconds in curve if n * SPAN >= longest]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(side) / len(points) for side in zip(*points, strict=True))
    variance = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / variance if variance else None


def find_crossing(reference: Curve, curve: Curve) -> Crossing | None:
    """Where `curve` crosses `reference` for the last time, interpolated on log scales.

    Args:
        reference: pairs of length and seconds.
        curve: the other curve. Only lengths that both have count.

    Returns:
        The crossing, or None if one curve is faster at every length.
    """
    seconds_by_length = dict(reference)
    points = [
        (n, math.log(seconds / seconds_by_length[n]))
        for n, seconds in sorted(curve)
        if n in seconds_by_length
    ]
    for (n0, before), (n1, after) in zip(points[-2::-1], points[:0:-1], strict=True):
        if before * after < 0:
            fraction = before / (before - after)
            return Crossing(n0 * (n1 / n0) ** fraction, after < 0)
    return None
