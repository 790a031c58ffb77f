"""Pictures with noise to generate others from, a function of the seed, the update and the row alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from qkv.data.pictures.augmentation import AugmentedPlan
from qkv.data.randomness import make_random

TURNS = 2  # of the discriminator and of the generator


class NoiseBatch(NamedTuple):
    """Real pictures, and noise for as many generated ones in each turn of an update.

    Args:
        pictures: [B,3,S,S], red, green and blue.
        noise: [B,2,Z], for the turn of the discriminator and for that of the generator.
    """

    pictures: UInt8[Tensor, "B 3 S S"]
    noise: Float32[Tensor, "B 2 Z"]


class NoisePlan:
    """The batches of a plan with noise, which depends on (seed, epoch, update, row) alone.

    So the updates are the same for any number of processes.

    Args:
        plan: the pictures.
        width: Z, how many numbers a picture is generated from.
        seed: decides the noise.
    """

    def __init__(self, plan: AugmentedPlan, width: int, seed: int) -> None:
        self.plan, self.width, self.seed = plan, width, seed

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return self.plan.steps(epoch)

    def count(self, epoch: int, index: int) -> int:
        """How many real pictures one update has, over all processes."""
        return self.plan.count(epoch, index)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[NoiseBatch]:
        """The batches of one update on one process."""
        batches = []
        for batch in self.plan.window(epoch, index, rank, world):
            # one number more than the key of the augmentation, so that they draw independently
            keys = [(self.seed, epoch, index, row, 2) for row in batch.rows.tolist()]
            noise = draw_noise(keys, TURNS * self.width).unflatten(1, (TURNS, self.width))
            batches.append(NoiseBatch(batch.pictures, noise))
        return batches


def draw_noise(keys: Sequence[tuple[int, ...]], width: int) -> Float32[Tensor, "B Z"]:
    """Normally distributed numbers.

    Args:
        keys: for every picture the numbers that its noise depends on.
        width: Z, how many there are for each.
    """
    rows = [make_random(*key).standard_normal(width) for key in keys]
    return torch.from_numpy(np.array(rows, np.float32).reshape(len(keys), width))
