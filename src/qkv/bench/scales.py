"""Log scales of a picture: their limits, their ticks, and labels that do not overlap."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The margin beyond the first and the last point, as a fraction of the distance between them.
MARGIN = 0.05


class Axis(NamedTuple):
    """The limits of an axis, as logarithms.

    Args:
        low: the lower limit.
        high: the upper limit.
    """

    low: float
    high: float

    def fraction(self, value: float) -> float:
        """The position of a logarithm on the axis: 0 at the lower limit, 1 at the upper one."""
        return (value - self.low) / (self.high - self.low)


def fit_axis(logs: Sequence[float]) -> Axis:
    """An axis that holds all values with a margin, at least a factor of two long."""
    low, high = min(logs), max(logs)
    margin = max(MARGIN * (high - low), (0.3 - (high - low)) / 2, 0.02)
    return Axis(low - margin, high + margin)


def make_time_ticks(seconds: Sequence[float]) -> tuple[Axis, list[tuple[float, str]]]:
    """An axis for these times, and its round ticks with their labels: at least three where possible."""
    axis = fit_axis([math.log10(s) for s in seconds])
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        decades = range(math.floor(axis.low), math.ceil(axis.high))
        candidates = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [(s, format_duration(s)) for s in candidates if axis.low <= math.log10(s) <= axis.high]
        if len(ticks) >= 3:
            break
    return axis, ticks


def format_duration(seconds: float) -> str:
    """A time in the largest unit of which it is at least one.

    >>> format_duration(0.0015), format_duration(2e-8)
    ('1.5 ms', '20 ns')
    """
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit * (1 - 1e-9):
            return f"{seconds / unit:.4g} {name}"
    return f"{seconds * 1e9:.4g} ns"


def spread_apart(positions: Sequence[float], distance: float) -> list[float]:
    """The nearest positions in the same order of which no two are closer than `distance`.

    Labels that overlap are merged into groups; each group is centred on the mean of its positions.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        groups.append([i])
        centres.append(positions[i])
        while len(groups) > 1 and _overlap(groups, centres, distance):
            groups[-2:] = [groups[-2] + groups[-1]]
            centres[-2:] = [sum(positions[j] for j in groups[-1]) / len(groups[-1])]
    moved = list(positions)
    for group, centre in zip(groups, centres, strict=True):
        for rank, i in enumerate(group):
            moved[i] = centre + (rank - (len(group) - 1) / 2) * distance
    return moved


def select_ticks(
    ticks: Sequence[int], positions: Mapping[int, float], widths: Mapping[int, float]
) -> list[int]:
    """As many ticks as their labels have room for; the last one is always among them.

    Args:
        ticks: the candidates in ascending order.
        positions: tick -> the centre of its label.
        widths: tick -> the width of its label.
    """
    selected: list[int] = []
    for tick in reversed(ticks):
        last = selected[-1] if selected else None
        if last is None or positions[last] - positions[tick] >= (widths[last] + widths[tick]) / 2:
            selected.append(tick)
    return selected[::-1]


def _overlap(groups: list[list[int]], centres: list[float], distance: float) -> bool:
    """Whether the last two groups are too close to each other."""
    return centres[-1] - centres[-2] < distance * (len(groups[-1]) + len(groups[-2])) / 2
