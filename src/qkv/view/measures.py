"""Measures of attention heads, by which the wall of a page is sorted."""

from typing import NamedTuple

import numpy as np


class Measures(NamedTuple):
    """Describes the weights [rows, columns] of one head; absolute weights are divided by their row's sum.

    Args:
        entropy: mean entropy of the rows, in nats.
        largest: mean of the largest weight of a row.
        distance: mean distance between query and key, in positions; None on image grids. Between two
            different axes the query's position is scaled to the length of the keys.
        diagonality: 1 minus the distance divided by the largest possible one; None on image grids.
        coverage: share of the keys that are attended to: the mean over keys of their total weight, at most 1
            each, with fewer queries than keys at most rows / columns.
        first: mean weight of the first key, where sinks are.
    """

    entropy: float
    largest: float
    distance: float | None
    diagonality: float | None
    coverage: float
    first: float


def measure_head(weights: np.ndarray, is_self: bool, is_grid: bool) -> Measures:
    """Measure one head.

    Args:
        weights: [rows, columns].
        is_self: whether both axes are the same sequence, with the last query at the last key.
        is_grid: whether the keys are the cells of an image.
    """
    size = np.abs(weights.astype(np.float64))
    sums = size.sum(1, keepdims=True)
    is_nonzero = sums[:, 0] > 0
    if not is_nonzero.any():
        return Measures(0.0, 0.0, None, None, 0.0, 0.0)
    shares = size[is_nonzero] / sums[is_nonzero]
    rows, columns = weights.shape
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1).mean()
    coverage = np.minimum(shares.sum(0), 1).mean()
    distance = diagonality = None
    if not is_grid:
        positions = np.arange(rows) + columns - rows if is_self else np.linspace(0, columns - 1, rows)
        distances = np.abs(np.arange(columns) - positions[is_nonzero][:, None])
        distance = float((shares * distances).sum(1).mean())
        diagonality = 1 - distance / max(columns - 1, 1)
    first, largest = shares[:, 0].mean(), shares.max(1).mean()
    return Measures(float(entropy), float(largest), distance, diagonality, float(coverage), float(first))
