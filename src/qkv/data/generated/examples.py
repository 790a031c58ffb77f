"""Generated sequences of symbols, of which a language model has to predict some: the common part."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from qkv.data.generated.splits import GeneratedSplits, SplitSizes, make_splits

LINE_END = "\n"


class SymbolSequence(NamedTuple):
    """One example.

    Args:
        symbols: [N], numbers of the symbols that are read.
        targets: [N], numbers of the symbols to predict; the one at i from the symbols before i.
        scored: [N], True at the answers: targets that follow from the symbols before them, and that count.
    """

    symbols: np.ndarray
    targets: np.ndarray
    scored: np.ndarray


class ExampleData(SplitSizes, ABC):
    """Base class of the recipe sections that generate examples of their own, one per line.

    Args:
        train: examples to train on; they are generated when they are needed.
        valid: held-out examples for choosing the weights.
        test: held-out examples for `qkv evaluate`.
        seed: the same seed gives the same examples on every machine.
    """

    @property
    @abstractmethod
    def longest(self) -> int:
        """The largest number of symbols of an example."""

    @abstractmethod
    def list_symbols(self) -> list[str]:
        """The symbols in the order of their numbers; LINE_END is the end of the line."""

    @abstractmethod
    def draw(self, random: np.random.RandomState) -> SymbolSequence:
        """Generate an example.

        Args:
            random: the random numbers.
        """


def generate_examples(data: ExampleData) -> GeneratedSplits[SymbolSequence]:
    """Examples to train on, to choose by and to test with; no example is in two of them.

    Args:
        data: what to generate, the sizes and the seed.

    Raises:
        BadData: there are too few different examples.
    """
    return make_splits(data.draw, data, lambda example: example.symbols.tobytes())
