"""Measures of the attention of a translation model on some pairs, for the records of a training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qkv.task.translate.forced_decoding import compute_weights
from qkv.view.measures import Measures, measure_head

RECORDED = ("entropy", "diagonality", "coverage")


def measure_attention(
    model: Any, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> dict[str, float]:
    """The mean over pairs and heads of every measure in RECORDED, for every layer.

    Args:
        model: the translation model.
        sources: token ids, without the end symbol.
        targets: token ids, without begin and end symbol.

    Returns:
        "attention.LAYER.MEASURE" -> value; the measures are those of `qkv.view.measures`.
    """
    places = model.attention_places()
    measures: dict[str, list[Measures]] = {}
    for source, target in zip(sources, targets, strict=True):
        for name, heads in compute_weights(model, source, target).items():
            is_self = places[name] != "cross"
            measures.setdefault(name, []).extend(measure_head(head, is_self, is_grid=False) for head in heads)
    return {
        f"attention.{name}.{measure}": float(np.mean([getattr(each, measure) or 0.0 for each in values]))
        for name, values in measures.items()
        for measure in RECORDED
    }
