"""Settings that follow from the size of the training data, wherever the recipe does not set them."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from qkv.model.seq2seq import RNNConfig
from qkv.task.recipe import Recipe

FEW_UPDATES = 2000  # a training with fewer updates seldom learns to translate
FEW_PAIRS, MANY_PAIRS = 30_000, 100_000
UPDATES_PER_EPOCH = 200
VALIDATIONS = 12


class DataSize(NamedTuple):
    """The number of training pairs, and the characters of both sides together."""

    pairs: int
    characters: int


class Machine(NamedTuple):
    """Where the training will run: "cpu", "cuda" or "mps", CPU threads, whether it multiplies bfloat16."""

    device: str
    threads: int
    bfloat16: bool


class Default(NamedTuple):
    """A key that the recipe leaves out, as `section.key`, the value it gets, and why."""

    key: str
    value: Any
    reason: str


def measure(pairs: Sequence[tuple[str, str]]) -> DataSize:
    """The size of training text."""
    return DataSize(len(pairs), sum(len(source) + len(target) for source, target in pairs))


def fill_defaults(recipe: Recipe, size: DataSize, machine: Machine) -> tuple[Recipe, list[Default]]:
    """The recipe with the keys that it leaves out set for data of this size, and those keys.

    A key that the recipe sets is never changed, so a run's complete recipe comes back as it is.
    """
    defaults: list[Default] = []
    for rule in (_model_kind, _vocabulary, _model_size, _batch, _length, _schedule, _arithmetic):
        new = [default for default in rule(recipe, size, machine) if not is_set(recipe, default.key)]
        recipe = _with_values(recipe, new)
        defaults += new
    return recipe, defaults


def is_set(recipe: Recipe, key: str) -> bool:
    """Whether the recipe itself sets `section.key`, be it to the usual value."""
    section, _, name = key.partition(".")
    return section in recipe.model_fields_set and name in getattr(recipe, section).model_fields_set


def updates_per_epoch(recipe: Recipe, size: DataSize) -> int:
    """About how many updates a pass over the data makes, before the data is tokenised."""
    positions = size.pairs * _positions(recipe, size)
    return max(1, round(positions / FILLED / (recipe.batch.batch_tokens * recipe.batch.accumulate)))


def _with_values(recipe: Recipe, defaults: Sequence[Default]) -> Recipe:
    """The recipe with these values, which count as set from then on."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value, _ in defaults:
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    filled = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=filled)
