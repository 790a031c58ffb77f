"""Which cells of training pictures are hidden, a function of the seed, the update and the row alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from qkv.data.pictures.augmentation import AugmentedPlan
from qkv.data.randomness import make_random


class HiddenBatch(NamedTuple):
    """Pictures, and which of their cells a model does not see.

    Args:
        pictures: [B,3,S,S], red, green and blue.
        hidden: [B,height,width], True at the hidden cells.
    """

    pictures: UInt8[Tensor, "B 3 S S"]
    hidden: Bool[Tensor, "B h w"]


def hide_cells(keys: Sequence[tuple[int, ...]], grid: tuple[int, int], share: float) -> Bool[Tensor, "B h w"]:
    """Choose the hidden cells of pictures; all have equally many, at least one and not all.

    Args:
        keys: for every picture the numbers that its cells depend on.
        grid: rows and columns of cells.
        share: the share of cells to hide, between 0 and 1.

    Returns:
        [B,height,width], True at the hidden cells.
    """
    cells = grid[0] * grid[1]
    count = min(max(round(share * cells), 1), cells - 1)
    hidden = np.zeros((len(keys), cells), bool)
    for row, key in zip(hidden, keys, strict=True):
        row[make_random(*key).permutation(cells)[:count]] = True
    return torch.from_numpy(hidden).unflatten(1, grid)


class HiddenPlan:
    """The batches of a plan with hidden cells.

    The hidden cells of a picture depend on (seed, epoch, update, row) alone, like its augmentation.

    Args:
        plan: the pictures.
        grid: rows and columns of cells.
        share: the share of cells to hide, between 0 and 1.
        seed: decides the cells.
    """

    def __init__(self, plan: AugmentedPlan, grid: tuple[int, int], share: float, seed: int) -> None:
        self.plan, self.grid, self.share, self.seed = plan, grid, share, seed

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return self.plan.steps(epoch)

    def count(self, epoch: int, index: int) -> int:
        """How many pictures one update has, over all processes."""
        return self.plan.count(epoch, index)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[HiddenBatch]:
        """The batches of one update on one process."""
        batches = []
        for batch in self.plan.window(epoch, index, rank, world):
            # one number more than the key of the augmentation, so that they draw independently
            keys = [(self.seed, epoch, index, row, 1) for row in batch.rows.tolist()]
            batches.append(HiddenBatch(batch.pictures, hide_cells(keys, self.grid, self.share)))
        return batches
