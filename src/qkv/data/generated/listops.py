"""ListOps: nested operations on lists of digits, to be classified by their value, a digit.

Nangia and Bowman 2018 (arXiv:1804.06028), in the sizes of Long Range Arena (Tay et al. 2021,
arXiv:2011.04006): a tree of at most 10 levels, up to 10 arguments, 500 to 2,000 tokens.  Every operator keeps
its opening bracket and its closing one: without them the value does not follow from the tokens.

    [MAX 2 9 [MIN 4 7 ] 0 ]   has the value 9
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from qkv.data.generated.splits import GeneratedSplits, SplitSizes, make_splits
from qkv.errors import BadData

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSING = "]"
SYMBOLS = (*OPERATORS, CLOSING, *map(str, range(10)))
OPERATOR_RATE = 0.25  # the probability that an argument is an operation, above the last level
SHORTEST = 4  # an operator, two digits, a bracket
MOST_DRAWS = 10_000


class ListOpsData(SplitSizes):
    """The recipe section of ListOps.

    Args:
        train: expressions to train on.
        valid: held-out expressions for choosing the weights.
        test: held-out expressions for `qkv evaluate`.
        seed: the same seed gives the same expressions on every machine.
        min_length: fewest tokens of an expression.
        max_length: most tokens of an expression.
        depth: levels of the tree, that of the deepest digits included.
        arguments: most arguments of an operation; each has at least 2.
    """

    train: int = Field(default=20_000, ge=1)
    min_length: int = Field(default=500, ge=SHORTEST)
    max_length: int = Field(default=2000, ge=SHORTEST)
    depth: int = Field(default=10, ge=2, le=100)
    arguments: int = Field(default=10, ge=2, le=1000)

    @model_validator(mode="after")
    def _has_range(self) -> "ListOpsData":
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length={self.min_length} is above max_length={self.max_length}: lower it, or raise "
                "max_length"
            )
        return self


class Expression(NamedTuple):
    """One document.

    Args:
        text: the tokens, with a space between them.
        value: a digit, 0 to 9.
    """

    text: str
    value: int


def generate_listops(data: ListOpsData) -> GeneratedSplits[Expression]:
    """Expressions to train on, to choose by and to test with; no expression is in two of them.

    Args:
        data: lengths, depth, sizes and the seed.

    Raises:
        BadData: expressions of such lengths are too rare at this depth, or too few are different.
    """
    return _generate(data.model_dump_json())


@cache
def _generate(json_config: str) -> GeneratedSplits[Expression]:
    """The splits of a configuration, made once per process: the test set needs the other held-out set."""
    data = ListOpsData.model_validate_json(json_config)
    return make_splits(lambda random: draw_expression(random, data), data, lambda item: item.text)


def draw_expression(random: np.random.RandomState, data: ListOpsData) -> Expression:
    """Draw trees until one has as many tokens as wanted.

    Args:
        random: the random numbers.
        data: lengths, depth and arguments.

    Raises:
        BadData: MOST_DRAWS trees in a row were too short or too long.
    """
    for _ in range(MOST_DRAWS):
        levels = _draw_levels(random, data)
        if levels is not None:
            return _Writer(levels, random).write()
    raise BadData(
        f"data.listops: none of {MOST_DRAWS:,} trees of depth={data.depth} with up to {data.arguments} "
        f"arguments has {data.min_length:,} to {data.max_length:,} tokens: widen the range or change "
        "the depth"
    )


class _Level(NamedTuple):
    """The operations of one level of a tree, from left to right.

    Args:
        counts: how many arguments each has.
        is_operation: for the arguments of all of them in turn, whether it is an operation of the next level.
    """

    counts: np.ndarray
    is_operation: np.ndarray


def _draw_levels(random: np.random.RandomState, data: ListOpsData) -> list[_Level] | None:
    """The shape of a tree, level by level; None where it has too few tokens or too many."""
    levels, operations, tokens = [], 1, 1
    for depth in range(1, data.depth):
        counts = random.randint(2, data.arguments + 1, operations)
        tokens += operations + int(counts.sum())  # a bracket for each operation, a token for each argument
        if tokens > data.max_length:
            return None
        is_last = depth == data.depth - 1
        is_operation = random.random_sample(counts.sum()) < (0 if is_last else OPERATOR_RATE)
        levels.append(_Level(counts, is_operation))
        operations = int(is_operation.sum())
        if not operations:
            break
    return levels if tokens >= data.min_length else None


class _Writer:
    """Writes a tree of a shape from left to right, with random operators and digits, and evaluates it."""

    def __init__(self, levels: list[_Level], random: np.random.RandomState) -> None:
        self.counts = [iter(level.counts.tolist()) for level in levels]
        self.flags = [iter(level.is_operation.tolist()) for level in levels]
        operations = sum(len(level.counts) for level in levels)
        digits = sum(len(level.is_operation) for level in levels)
        self.operators: Iterator[int] = iter(random.randint(len(OPERATORS), size=operations).tolist())
        self.digits: Iterator[int] = iter(random.randint(10, size=digits).tolist())
        self.tokens: list[str] = []

    def write(self) -> Expression:
        value = self._write_operation(0)
        return Expression(" ".join(self.tokens), value)

    def _write_operation(self, level: int) -> int:
        operator = OPERATORS[next(self.operators)]
        self.tokens.append(operator)
        arguments = [self._write_argument(level) for _ in range(next(self.counts[level]))]
        self.tokens.append(CLOSING)
        return _evaluate(operator, arguments)

    def _write_argument(self, level: int) -> int:
        if next(self.flags[level]):
            return self._write_operation(level + 1)
        digit = next(self.digits)
        self.tokens.append(str(digit))
        return digit


def _evaluate(operator: str, arguments: Sequence[int]) -> int:
    """The value of an operation; the median of an even number of digits is rounded down."""
    if operator == "[MIN":
        return min(arguments)
    if operator == "[MAX":
        return max(arguments)
    if operator == "[SM":
        return sum(arguments) % 10
    ordered = sorted(arguments)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) // 2
