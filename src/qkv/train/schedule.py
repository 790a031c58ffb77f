"""Learning-rate schedules in closed form: a factor on the peak rate, by the number of the update."""

import math
from collections.abc import Callable
from typing import Literal

ScheduleName = Literal["constant", "inverse_sqrt", "cosine"]


def compute_constant_factor(step: int, warmup: int, total_steps: int) -> float:
    """Linear warm-up to 1, then 1.

    Args:
        step: the number of the update, from 1.
        warmup: the number of updates of warm-up.
        total_steps: not used.
    """
    return _compute_warmup_factor(step, warmup)


def compute_inverse_sqrt_factor(step: int, warmup: int, total_steps: int) -> float:
    """min(step / warmup, sqrt(warmup / step)): Vaswani et al. 2017, eq. 3, with its peak scaled to 1.

    Without warm-up it is 1 / sqrt(step).

    Args:
        step: the number of the update, from 1.
        warmup: the number of updates of warm-up.
        total_steps: not used.
    """
    return min(_compute_warmup_factor(step, warmup), math.sqrt(max(warmup, 1) / step))


def compute_cosine_factor(step: int, warmup: int, total_steps: int) -> float:
    """Linear warm-up to 1, then (1 + cos(pi * progress)) / 2: Loshchilov, Hutter 2017, eq. 5.

    Args:
        step: the number of the update, from 1.
        warmup: the number of updates of warm-up.
        total_steps: the number of the last update, at which the factor is 0.
    """
    if step <= warmup:
        return _compute_warmup_factor(step, warmup)
    progress = min(1.0, (step - warmup) / max(total_steps - warmup, 1))
    return (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": compute_constant_factor,
    "inverse_sqrt": compute_inverse_sqrt_factor,
    "cosine": compute_cosine_factor,
}


def _compute_warmup_factor(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0
