"""Generated examples in three parts without a common example: to train on, to choose by and to test with."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from pydantic import Field, PositiveInt

from qkv.data.randomness import make_random
from qkv.errors import BadData
from qkv.strict import Strict

Item = TypeVar("Item")
MOST_DRAWS = 1000
TRAIN, VALID, TEST = range(3)


class SplitSizes(Strict):
    """The sizes of generated data and the seed; generated data of every kind has these keys.

    Args:
        train: examples to train on; they are generated when they are needed.
        valid: held-out examples for choosing the weights.
        test: held-out examples for `qkv evaluate`.
        seed: the same seed gives the same examples on every machine.
    """

    train: PositiveInt = 100_000
    valid: PositiveInt = 1000
    test: PositiveInt = 1000
    seed: int = Field(default=1, ge=0)


class GeneratedItems(Sequence[Item], Generic[Item]):
    """Examples that are generated when they are read; example i is a function of (seed, split, i) alone.

    Args:
        draw: generates an example from random numbers.
        size: the number of examples.
        seed: the seed of the data.
        split: TRAIN, VALID or TEST; each has random numbers of its own.
        identify: what two equal examples have in common.
        excluded: what `identify` returns for the examples that must not occur.
    """

    def __init__(
        self,
        draw: Callable[[np.random.RandomState], Item],
        size: int,
        seed: int,
        split: int,
        *,
        identify: Callable[[Item], Hashable],
        excluded: frozenset[Hashable] = frozenset(),
    ) -> None:
        self.draw, self.size, self.seed, self.split = draw, size, seed, split
        self.identify, self.excluded = identify, excluded

    def __len__(self) -> int:
        """The number of examples."""
        return self.size

    def __getitem__(self, index: int) -> Item:
        """Generate one example.

        Raises:
            IndexError: there is no example of this number.
            BadData: only excluded examples were drawn.
        """
        if not 0 <= index < self.size:
            raise IndexError(index)
        random = make_random(self.seed, self.split, index)
        for _ in range(MOST_DRAWS):
            item = self.draw(random)
            if self.identify(item) not in self.excluded:
                return item
        raise BadData(
            f"{MOST_DRAWS:,} generated examples in a row were held out already: there are too few different "
            "ones. Ask for longer examples or more symbols, or hold out fewer"
        )


@dataclass(frozen=True)
class GeneratedSplits(Generic[Item]):
    """Examples in three parts; no example is in two of them.

    Args:
        train: examples to train on.
        valid: examples to choose the weights by.
        test: examples to measure a model with.
    """

    train: GeneratedItems[Item]
    valid: GeneratedItems[Item]
    test: GeneratedItems[Item]


def make_splits(
    draw: Callable[[np.random.RandomState], Item],
    sizes: SplitSizes,
    identify: Callable[[Item], Hashable],
) -> GeneratedSplits[Item]:
    """The examples of all splits.  The test set leaves out what is in `valid`; `train` leaves out both.

    Args:
        draw: generates an example from random numbers.
        sizes: the sizes and the seed.
        identify: what two equal examples have in common.

    Raises:
        BadData: there are too few different examples.
    """

    def generate(size: int, split: int, excluded: frozenset[Hashable]) -> GeneratedItems[Item]:
        return GeneratedItems(draw, size, sizes.seed, split, identify=identify, excluded=excluded)

    valid = generate(sizes.valid, VALID, frozenset())
    in_valid = frozenset(map(identify, valid))
    test = generate(sizes.test, TEST, in_valid)
    held_out = in_valid | frozenset(map(identify, test))
    return GeneratedSplits(generate(sizes.train, TRAIN, held_out), valid, test)
