"""Random crops and flips of training pictures, a function of the seed, the update and the row alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor

from qkv.data.batching import BatchPlan
from qkv.data.randomness import make_random
from qkv.strict import Strict


class AugmentationConfig(Strict):
    """How training pictures are changed at random; held-out pictures are not.

    Args:
        crop: pixels by which a picture is moved at most, in each direction; what it leaves repeats its edge.
        flip: mirror half of the pictures; do not where left and right matter, as in captions that name them.
    """

    crop: int = Field(default=0, ge=0, le=512)
    flip: bool = False


class PictureBatch(NamedTuple):
    """Pictures with the numbers of their rows and of their classes.

    Args:
        pictures: [B,3,S,S], red, green and blue.
        labels: [B], numbers of the classes.
        rows: [B], numbers of the pictures in their data set.
    """

    pictures: UInt8[Tensor, "B 3 S S"]
    labels: Int64[Tensor, "B"]
    rows: Int64[Tensor, "B"]

    @property
    def inputs(self) -> tuple[Tensor]:
        """The arguments of a classifier."""
        return (self.pictures,)

    def to(self, device: Any) -> "PictureBatch":
        """The batch on another device."""
        return PictureBatch(*(each.to(device) for each in self))


class AugmentedPlan:
    """The batches of a plan, with every picture changed at random.

    What happens to a picture depends on (seed, epoch, update, row) alone: not on the batch that it is in, on
    the process that reads it, or on what was drawn before.

    Args:
        plan: the batches.
        config: the changes.
        seed: decides them.
    """

    def __init__(self, plan: BatchPlan[PictureBatch], config: AugmentationConfig, seed: int) -> None:
        self.plan, self.config, self.seed = plan, config, seed

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return self.plan.steps(epoch)

    def count(self, epoch: int, index: int) -> int:
        """How many pictures one update has, over all processes."""
        return self.plan.count(epoch, index)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[PictureBatch]:
        """The changed batches of one update on one process."""
        batches = self.plan.window(epoch, index, rank, world)
        return [self._change(batch, epoch, index) for batch in batches]

    def _change(self, batch: PictureBatch, epoch: int, index: int) -> PictureBatch:
        keys = [(self.seed, epoch, index, row) for row in batch.rows.tolist()]
        return batch._replace(pictures=augment_pictures(batch.pictures, self.config, keys))


def augment_pictures(
    pictures: UInt8[Tensor, "B 3 H W"], config: AugmentationConfig, keys: Sequence[tuple[int, ...]]
) -> UInt8[Tensor, "B 3 H W"]:
    """Move and mirror pictures at random.

    Args:
        pictures: the pictures.
        config: the changes.
        keys: for every picture the numbers that its changes depend on.
    """
    height, width = pictures.shape[2:]
    changed = torch.empty_like(pictures)
    for number, key in enumerate(keys):
        random = make_random(*key)
        down, right = random.randint(-config.crop, config.crop + 1, 2)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        if config.flip and random.randint(2):
            columns = columns[::-1].copy()
        changed[number] = pictures[number][:, rows][:, :, columns]
    return changed
