"""Copying and reversal: a random sequence, a separator, and the sequence again, forwards or backwards.

    b a c a | b a c a          reverse: true has   b a c a | a c a b

What follows the separator counts, the end of the line too: the model has to know when the copy is complete.
"""

import string

import numpy as np
from pydantic import Field, model_validator

from qkv.data.generated.examples import LINE_END, ExampleData, SymbolSequence

SEPARATOR = "|"


class CopyingData(ExampleData):
    """The recipe section of copying.

    Args:
        symbols: different symbols: the first letters of the alphabet.
        min_length: fewest symbols of a sequence.
        max_length: most symbols of a sequence; all lengths are equally frequent.
        reverse: the sequence is repeated backwards.
    """

    symbols: int = Field(default=10, ge=2, le=len(string.ascii_lowercase))
    min_length: int = Field(default=4, ge=1)
    max_length: int = Field(default=12, ge=1)
    reverse: bool = False

    @model_validator(mode="after")
    def _has_range(self) -> "CopyingData":
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length={self.min_length} is above max_length={self.max_length}: lower it, or raise "
                "max_length"
            )
        return self

    @property
    def longest(self) -> int:
        """The symbols of the longest example, the separator and the line end included."""
        return 2 * self.max_length + 2

    def list_symbols(self) -> list[str]:
        """The letters, the separator and the line end."""
        return [*string.ascii_lowercase[: self.symbols], SEPARATOR, LINE_END]

    def draw(self, random: np.random.RandomState) -> SymbolSequence:
        """Draw a length and a sequence."""
        length = random.randint(self.min_length, self.max_length + 1)
        sequence = random.randint(self.symbols, size=length)
        again = sequence[::-1] if self.reverse else sequence
        symbols = np.concatenate([sequence, [self.symbols], again, [self.symbols + 1]])
        return SymbolSequence(symbols, symbols, np.arange(len(symbols)) > length)
