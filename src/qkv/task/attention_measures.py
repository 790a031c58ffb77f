"""Measures of attention on some held-out examples, for the records of a training."""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from qkv.trace import Example, Grid
from qkv.view.measures import Measures, measure_head

RECORDED = ("entropy", "diagonality", "coverage")


def average_measures(heads: Iterable[tuple[str, Measures]]) -> dict[str, float]:
    """The mean of every measure in RECORDED over the heads and examples of each layer.

    Args:
        heads: the name of a layer, and the measures of one of its heads on one example.

    Returns:
        "attention.LAYER.MEASURE" -> value; a measure that a layer does not have, as on grids, is left out.
    """
    values: dict[str, list[float]] = {}
    for layer, measures in heads:
        for name in RECORDED:
            if (value := getattr(measures, name)) is not None:
                values.setdefault(f"attention.{layer}.{name}", []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}


def list_segments(ids: np.ndarray, length: int, count: int) -> list[list[int]]:
    """The first segments of a text.

    Args:
        ids: the token ids of the text.
        length: tokens of a segment; the last one may be shorter.
        count: how many segments, at most.
    """
    return [ids[start : start + length].tolist() for start in range(0, len(ids), length)[:count]]


def measure_examples(examples: Iterable[Example]) -> dict[str, float]:
    """The means over the heads of some examples of a trace; see `average_measures`.

    Args:
        examples: the examples. Layers of single sentences, "words.3.pool", count as one, "words.pool".
    """
    return average_measures(pair for example in examples for pair in _measure_heads(example))


def _measure_heads(example: Example) -> Iterator[tuple[str, Measures]]:
    for name, weights in example.weights.items():
        axes = example.weight_axes[name]
        is_self = axes.rows == axes.columns or axes.causal
        is_grid = isinstance(example.named_axes[axes.columns], Grid)
        for head in weights:
            yield re.sub(r"\bwords\.[0-9]+\.", "words.", name), measure_head(head, is_self, is_grid)
