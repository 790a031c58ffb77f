"""The run that a training takes its first weights from, as a value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn


class InitialRun(NamedTuple):
    """A trained run whose weights and vocabulary another training starts from.

    Args:
        path: its directory, as the user wrote it.
        recipe: its complete recipe.
        vocabulary: name -> content of the files that the new run takes over, such as a tokenizer.
        weights: the digest of its weights; None for weights of the first versions, which have none.
        parsed: what its task's `parse_files` returns; None when a training is resumed.
        model: its trained model; None when a training is resumed, whose state holds all weights.
    """

    path: str
    recipe: Any
    vocabulary: Mapping[str, bytes]
    weights: str | None
    parsed: Any = None
    model: nn.Module | None = None
