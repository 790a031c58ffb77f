"""Random crops and flips of training pictures, a function of the seed, the update and the row alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor

from qkv.data.batching import BatchPlan
from qkv.data.pictures.boxes import Boxes
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


class PictureChange(NamedTuple):
    """A random change of a picture.

    Args:
        down: pixels by which the frame moves down over the picture.
        right: pixels by which it moves to the right.
        is_mirrored: whether left and right are exchanged afterwards.
    """

    down: int
    right: int
    is_mirrored: bool

    @property
    def is_any(self) -> bool:
        """Whether it changes anything."""
        return bool(self.down or self.right or self.is_mirrored)

    def apply_to_pixels(self, picture: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
        """The changed picture; what the frame leaves repeats its edge."""
        height, width = picture.shape[1:]
        rows = np.clip(np.arange(height) + self.down, 0, height - 1)
        columns = np.clip(np.arange(width) + self.right, 0, width - 1)
        if self.is_mirrored:
            columns = columns[::-1].copy()
        return picture[:, rows][:, :, columns]

    def apply_to_boxes(self, boxes: Boxes, size: int) -> Boxes:
        """The boxes in the changed picture; one that left the picture is empty.

        Args:
            boxes: left, top, right and bottom of every object, as fractions of the picture's sides.
            size: the side of the picture in pixels.
        """
        moved = boxes - np.array([self.right, self.down] * 2, boxes.dtype) / size
        if self.is_mirrored:
            left, top, right, bottom = moved.T
            moved = np.stack([1 - right, top, 1 - left, bottom], 1)
        return moved.clip(0, 1)


def draw_picture_change(config: AugmentationConfig, key: tuple[int, ...]) -> PictureChange:
    """A random change.

    Args:
        config: the changes that are allowed.
        key: the numbers that the change depends on.
    """
    random = make_random(*key)
    down, right = random.randint(-config.crop, config.crop + 1, 2).tolist()
    return PictureChange(down, right, bool(config.flip and random.randint(2)))


def augment_pictures(
    pictures: UInt8[Tensor, "B 3 H W"], config: AugmentationConfig, keys: Sequence[tuple[int, ...]]
) -> UInt8[Tensor, "B 3 H W"]:
    """Move and mirror pictures at random.

    Args:
        pictures: the pictures.
        config: the changes.
        keys: for every picture the numbers that its changes depend on.
    """
    changed = torch.empty_like(pictures)
    for number, key in enumerate(keys):
        changed[number] = draw_picture_change(config, key).apply_to_pixels(pictures[number])
    return changed
