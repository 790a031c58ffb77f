"""Log scales of a picture: their ends, their ticks, and labels that keep out of each other's way."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Beyond the first and the last point, as a share of what lies between.
ROOM = 0.05


class Axis(NamedTuple):
    """The ends of an axis, as logarithms."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """How far along the axis it stands: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)


def axis_of(logs: Sequence[float]) -> Axis:
    """An axis with all of them on it and a little room beside; at least a factor of two long."""
    low, high = min(logs), max(logs)
    room = max(ROOM * (high - low), (0.3 - (high - low)) / 2, 0.02)
    return Axis(low - room, high + room)


def time_ticks(seconds: Sequence[float]) -> tuple[Axis, list[tuple[float, str]]]:
    """An axis for these times, and the round ones on it with their names; finer ones where they are few."""
    axis = axis_of([math.log10(s) for s in seconds])
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        decades = range(math.floor(axis.low), math.ceil(axis.high))
        round_ones = [step * 10.0**decade for decade in decades for step in steps]
        marks = [(s, duration(s)) for s in round_ones if axis.low <= math.log10(s) <= axis.high]
        if len(marks) >= 3:
            break
    return axis, marks


def duration(seconds: float) -> str:
    """A time in the largest unit that it is at least one of."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit * (1 - 1e-9):
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds * 1e9:.4g} ns"


def spread(places: Sequence[float], apart: float) -> list[float]:
    """The nearest places that keep the order and stand at least so far apart."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[list[int]] = []
    middles: list[float] = []
    for i in order:
        groups.append([i])
        middles.append(places[i])
        while len(groups) > 1 and middles[-1] - middles[-2] < apart * (len(groups[-1]) + len(groups[-2])) / 2:
            groups[-2:] = [groups[-2] + groups[-1]]
            middles[-2:] = [sum(places[j] for j in groups[-1]) / len(groups[-1])]
    moved = list(places)
    for group, middle in zip(groups, middles, strict=True):
        for rank, i in enumerate(group):
            moved[i] = middle + (rank - (len(group) - 1) / 2) * apart
    return moved


def thinned(marks: Sequence[int], places: Mapping[int, float], widths: Mapping[int, float]) -> list[int]:
    """As many of these marks as their labels have room for, the last one always."""
    kept: list[int] = []
    for mark in reversed(marks):
        if not kept or places[kept[-1]] - places[mark] >= (widths[kept[-1]] + widths[mark]) / 2:
            kept.append(mark)
    return kept[::-1]
