"""Learning-rate schedules in closed form: a factor on the peak rate, by the update's number."""

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["constant", "inverse_sqrt", "cosine"]


def constant(step: int, warmup: int, total: int) -> float:
    """Linear warm-up to 1, then 1.  `step` counts updates from 1; `total` is not used."""
    return _ramp(step, warmup)


def inverse_sqrt(step: int, warmup: int, total: int) -> float:
    """min(step / warmup, sqrt(warmup / step)): Vaswani et al. 2017, eq. 3, with its peak scaled to 1.

    Without warm-up it is 1 / sqrt(step).  `total` is not used.
    """
    return min(_ramp(step, warmup), math.sqrt(max(warmup, 1) / step))


def cosine(step: int, warmup: int, total: int) -> float:
    """Linear warm-up to 1, then (1 + cos(pi * done)) / 2; 0 at `total` (Loshchilov, Hutter 2017, eq. 5)."""
    if step <= warmup:
        return _ramp(step, warmup)
    done = min(1.0, (step - warmup) / max(total - warmup, 1))
    return (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
    "cosine": cosine,
}


def _ramp(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0
