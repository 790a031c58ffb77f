"""Measures of the attention of a translation model on some pairs, for the records of a training."""

from collections.abc import Sequence
from typing import Any

from qkv.task.attention_measures import average_measures
from qkv.task.translate.forced_decoding import compute_weights
from qkv.view.measures import measure_head


def measure_attention(
    model: Any, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> dict[str, float]:
    """The mean over pairs and heads of every recorded measure, for every layer; see `average_measures`.

    Args:
        model: the translation model.
        sources: token ids, without the end symbol.
        targets: token ids, without begin and end symbol.

    Returns:
        "attention.LAYER.MEASURE" -> value; the measures are those of `qkv.view.measures`.
    """
    places = model.attention_places()
    return average_measures(
        (name, measure_head(head, places[name] != "cross", is_grid=False))
        for source, target in zip(sources, targets, strict=True)
        for name, heads in compute_weights(model, source, target).items()
        for head in heads
    )
