"""The random numbers that decide the order of an epoch."""

import numpy as np


def make_epoch_random(seed: int, epoch: int) -> np.random.RandomState:
    """A generator of random numbers that depends on the seed and the epoch alone.

    Args:
        seed: of the training.
        epoch: number of the epoch, from 0.
    """
    # RandomState's stream, unlike Generator's, is promised never to change between versions of numpy.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
