"""Reads examples of version 1, which holds translations only: the name of the weights implies their axes."""

import re
from typing import Any

from qkv.errors import BadData
from qkv.trace.archive import Arrays
from qkv.trace.axes import WeightAxes
from qkv.trace.example import LOG_PROBS, Example
from qkv.trace.fields import read_mapping, read_strings

_AXES = {
    "encoder": WeightAxes("source", "source"),
    "cross": WeightAxes("target", "source"),
    "decoder": WeightAxes("target", "target so far", causal=True),
}
_LAYER = re.compile(r"0|[1-9][0-9]{0,8}")
_EXAMPLE_KEYS = ("source", "target", "meta")


def read_example(entry: Any, arrays: Arrays) -> Example:
    """Convert an example of version 1 to the value that version 2 holds.

    Args:
        entry: the example in the header.
        arrays: name -> array.

    Raises:
        BadData: if they do not follow the schema.
    """
    read_mapping(entry, "its entry in the header", _EXAMPLE_KEYS)
    source, target = (read_strings(entry.get(side), side) for side in ("source", "target"))
    weights = {name: array for name, array in arrays.items() if name != LOG_PROBS}
    log_probs = arrays.get(LOG_PROBS)
    return Example(
        named_axes={"source": source, "target": target, "target so far": ("<s>", *target)[: len(target)]},
        weights=weights,
        weight_axes={name: _infer_axes(name) for name in weights},
        log_probs=log_probs,
        log_probs_axis=None if log_probs is None else "target",
        meta=read_mapping(entry.get("meta", {}), "meta"),
    )


def _infer_axes(name: str) -> WeightAxes:
    place, _, layer = name.partition(".")
    if place not in _AXES or not _LAYER.fullmatch(layer):
        expected = ", ".join(f'"{place}.N"' for place in _AXES)
        raise BadData(f"weights are named {expected} with a layer number N, not {name[:80]!r}: rename them")
    return _AXES[place]
