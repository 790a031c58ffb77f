"""The largest batch and the largest length whose training step fits into a memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

from qkv.cost.estimate import estimate_cost
from qkv.cost.workload import Sizes
from qkv.errors import BadRecipe

MOST = 2**20
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

    def fits(**changes: int) -> bool:
        try:
            return estimate_cost(config, sizes._replace(**changes)).memory.peak <= limit
        except BadRecipe:  # longer than the model can read
            return False

    batch = _find_largest(lambda batch: fits(batch=batch), sizes.batch)
    length = _find_largest(lambda length: fits(length=length), sizes.length) if reads_text else None
    return Fit(batch, length)


def _find_largest(fits: Callable[[int], bool], first: int) -> int:
    """The largest number that fits, by doubling or halving from `first` and then by halving the interval."""
    low, high = 0, first
    while high <= MOST and fits(high):
        low, high = high, 2 * high
    if low == 0:
        while high > 1 and not fits(high // 2):
            high //= 2
        low = high // 2
    while high - low > 1 and high > low * TOLERANCE:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
