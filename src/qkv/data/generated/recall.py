"""Multi-query associative recall: keys and values first, then every key again, and its value to be recalled.

Arora et al. 2023 (Zoology, arXiv:2312.04927), section 4.1.  Every example has a mapping of its own, so the
values cannot be learnt by heart: they have to be looked up in the example.

    k5 v2 k1 v9 k7 v4   v3 v8   k7 v1   k5 v6   k1 v2      read
                                   v4      v2      v9      to predict
    pairs               filler  queries

As in that paper an answer is not shown: a random value stands in its place.  Otherwise the answers to other
queries could be excluded, which is easier to learn than looking the value up.  Filler is random values too,
so a key occurs only in its pair and in its query.
"""

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from qkv.data.generated.examples import ExampleData, SymbolSequence


class RecallData(ExampleData):
    """The recipe section of multi-query associative recall.

    Args:
        pairs: key-value pairs of an example; each key is queried once.
        length: tokens of an example, an even number of at least 4 for every pair; tokens that pairs and
            queries leave are filler.  null: no filler.
        keys: different keys.
        values: different values.
        gap_power: where there is filler, a power law of the distance between pairs and queries: place i gets
            the weight i^(gap_power - 1), so 0.01 puts most queries near the pairs.  null: all places alike.
    """

    pairs: PositiveInt = 8
    length: PositiveInt | None = None
    keys: PositiveInt = 64
    values: PositiveInt = 64
    gap_power: float | None = Field(default=None, gt=0, le=100)

    @model_validator(mode="after")
    def _is_possible(self) -> "RecallData":
        if min(self.keys, self.values) < self.pairs:
            raise ValueError(
                f"pairs={self.pairs} needs as many different keys and values, got keys={self.keys} and "
                f"values={self.values}: raise them, or lower pairs"
            )
        if self.longest % 2 or self.longest < 4 * self.pairs:
            raise ValueError(
                f"length={self.length} must be even and at least {4 * self.pairs}, 4 tokens for each of "
                f"pairs={self.pairs}: change it, or leave it out"
            )
        return self

    @property
    def longest(self) -> int:
        """The number of symbols of every example."""
        return self.length or 4 * self.pairs

    def list_symbols(self) -> list[str]:
        """The keys, then the values."""
        return [*(f"k{i}" for i in range(self.keys)), *(f"v{i}" for i in range(self.values))]

    def draw(self, random: np.random.RandomState) -> SymbolSequence:
        """Draw a mapping, the places of the queries and their order."""
        keys = random.permutation(self.keys)[: self.pairs]
        values = self.keys + random.permutation(self.values)[: self.pairs]
        symbols = self.keys + random.randint(self.values, size=self.longest)
        symbols[0 : 2 * self.pairs : 2], symbols[1 : 2 * self.pairs : 2] = keys, values
        queries = 2 * self.pairs + 2 * self._draw_places(random)
        symbols[queries] = keys
        targets, scored = symbols.copy(), np.zeros(self.longest, bool)
        targets[queries + 1], scored[queries + 1] = values, True
        return SymbolSequence(symbols, targets, scored)

    def _draw_places(self, random: np.random.RandomState) -> np.ndarray:
        """The place of every key's query behind the pairs, in random order."""
        places = self.longest // 2 - self.pairs
        if self.gap_power is None:
            return random.permutation(places)[: self.pairs]
        weights = (np.arange(1, places + 1) / places) ** (self.gap_power - 1)
        chosen = random.choice(places, self.pairs, replace=False, p=weights / weights.sum())
        return random.permutation(chosen)
