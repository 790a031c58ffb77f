"""What curves of time over length say: how they grow and where they meet."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Curve = Sequence[tuple[int, float]]

# An exponent is read off the longest lengths, where what grows slowest has stopped to count.
SPAN = 16


class Crossing(NamedTuple):
    """The length at which a curve meets another, and whether it is the faster one above it."""

    length: float
    faster_above: bool

    @property
    def rounded(self) -> int:
        """The length to two digits: an interpolation knows no more."""
        return int(float(f"{self.length:.2g}"))


def exponent(curve: Curve) -> float | None:
    """The slope of log time on log length by least squares, over lengths from a sixteenth of the longest on.

    None for fewer than two of them.
    """
    longest = max((length for length, _ in curve), default=0)
    points = [(math.log(n), math.log(seconds)) for n, seconds in curve if n * SPAN >= longest]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(side) / len(points) for side in zip(*points, strict=True))
    across = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across if across else None


def crossing(first: Curve, other: Curve) -> Crossing | None:
    """Where `other` last crosses `first`; None where one is faster throughout.

    By straight lines between the lengths that both have, on log scales.
    """
    reference = dict(first)
    points = [(n, math.log(seconds / reference[n])) for n, seconds in sorted(other) if n in reference]
    for (n0, before), (n1, after) in zip(points[-2::-1], points[:0:-1], strict=True):
        if before * after < 0:
            share = before / (before - after)
            return Crossing(n0 * (n1 / n0) ** share, after < 0)
    return None
