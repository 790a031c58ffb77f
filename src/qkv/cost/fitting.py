"""The largest batch and the largest length whose training step fits into a memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from qkv.cost.estimate import estimate_cost
from qkv.cost.workload import Sizes
from qkv.errors import BadRecipe

MOST = 2**20
LARGEST_STEP = 4  # memory may grow faster than in proportion, and large steps take long to trace
TOLERANCE = 1.02  # two answers as near as this need not be told apart: each takes a trace


class Fit(NamedTuple):
    """What fits.

    Args:
        batch: the most rows at the given length; 0 where not even one row fits.
        length: the most tokens of a row at the given batch; 0 where none fit, None for pictures.
    """

    batch: int
    length: int | None


def find_largest_sizes(config: Any, sizes: Sizes, limit: int, reads_text: bool) -> Fit:
    """Find the largest batch and the largest length.

    Args:
        config: the config of the model.
        sizes: the sizes of the step that is varied.
        limit: bytes of memory.
        reads_text: whether the length can be varied.

    Returns:
        The sizes, each with the other one kept; the true ones are at most 2 % larger.
    """

    def fill(**changes: int) -> float:
        """The share of the memory that a step takes; infinite where the model cannot read so much."""
        try:
            return estimate_cost(config, sizes._replace(**changes)).memory.peak / limit
        except BadRecipe:
            return math.inf

    batch = _find_largest(lambda batch: fill(batch=batch), sizes.batch)
    length = _find_largest(lambda length: fill(length=length), sizes.length) if reads_text else None
    return Fit(batch, length)


def _find_largest(fill: Callable[[int], float], first: int) -> int:
    """The largest number that fills at most 1, by steps in proportion to that and then by halving."""
    low, high = 0, first
    while low < MOST and (share := fill(high)) <= 1:
        factor = min(1 / share, LARGEST_STEP)
        low, high = high, min(max(int(high * factor), math.ceil(high * TOLERANCE)), MOST)
    if low == 0:
        while high > 1 and fill(high // 2) > 1:
            high //= 2
        low = high // 2
    while high - low > 1 and high > low * TOLERANCE:
        middle = (low + high) // 2
        low, high = (middle, high) if fill(middle) <= 1 else (low, middle)
    return low
