"""Random numbers that depend on a seed and a position alone, so that they can be drawn again on resuming."""

import numpy as np


def make_epoch_random(seed: int, epoch: int) -> np.random.RandomState:
    """A generator of random numbers that depends on the seed and the epoch alone.

    Args:
        seed: of the training.
        epoch: number of the epoch, from 0.
    """
    return make_random(seed, epoch)


def make_random(*key: int) -> np.random.RandomState:
    """A generator of random numbers that depends on the key alone.

    Args:
        key: whole numbers from 0, such as a seed, the number of an epoch and that of a row.
    """
    # RandomState's stream, unlike Generator's, is promised never to change between versions of numpy.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))
