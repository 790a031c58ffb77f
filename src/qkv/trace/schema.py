"""The schema of a trace file, version 2: converts examples to a header and arrays, and back."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from qkv.errors import BadData
from qkv.trace.archive import Arrays, Header
from qkv.trace.axes import WHOLE, Axis, Grid, WeightAxes
from qkv.trace.example import LOG_PROBS, Example
from qkv.trace.fields import read_mapping, read_strings
from qkv.trace.version1 import read_example as read_example_1

VERSION = 2
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

_HEADER_KEYS = ("schema", "kind", "unnormalised", "meta", "examples")
_EXAMPLE_KEYS = ("axes", "weights", LOG_PROBS, "meta")
_GRID_KEYS = ("height", "width", "picture", "area")


class Content(NamedTuple):
    """The fields of a `Trace`, as a file holds them.

    Args:
        examples: the examples.
        kind: the task of the model.
        unnormalised: names of weights whose rows need not be distributions.
        meta: further facts.
    """

    examples: tuple[Example, ...]
    kind: str
    unnormalised: tuple[str, ...]
    meta: Mapping[str, Any]


def encode(content: Content) -> tuple[Header, Arrays]:
    """The header and the arrays of a file of version 2.

    Weights are float16, unnormalised ones float32.
    """
    examples = [_encode_example(example) for example in content.examples]
    values = (f"qkv-trace/{VERSION}", content.kind, content.unnormalised, content.meta, examples)
    arrays: Arrays = {}
    for number, example in enumerate(content.examples):
        if example.log_probs is not None:
            arrays[f"{number}/{LOG_PROBS}"] = example.log_probs
        for name, weight in example.weights.items():
            precision = np.float32 if name in content.unnormalised else np.float16
            arrays[f"{number}/{name}"] = weight.astype(precision)
    return dict(zip(_HEADER_KEYS, values, strict=True)), arrays


def decode(header: Header, arrays: Arrays) -> Content:
    """Read the examples in a header and arrays of version 1 or 2.

    Args:
        header: the parsed header.
        arrays: name of the entry -> array.

    Raises:
        BadData: if they do not follow the schema or contradict each other.
    """
    version = _read_version(header)
    read_mapping(header, "its header", _HEADER_KEYS)
    entries = header.get("examples")
    if not isinstance(entries, list):
        raise BadData(
            "its header lists no examples: `examples` must be a list with one mapping for each example"
        )
    read_example = read_example_1 if version == 1 else _read_example
    examples = []
    for number, (entry, example_arrays) in enumerate(
        zip(entries, _group_by_example(arrays, len(entries)), strict=True)
    ):
        try:
            examples.append(read_example(entry, example_arrays))
        except BadData as error:
            raise BadData(f"example {number}: {error}") from None
    unnormalised = read_strings(header.get("unnormalised", []), "unnormalised")
    kind = header.get("kind", "translation" if version == 1 else None)
    if not isinstance(kind, str):
        raise BadData("kind is not a string: name what the model does, as 'translation'")
    return Content(tuple(examples), kind, unnormalised, read_mapping(header.get("meta", {}), "meta"))


def _read_version(header: Header) -> int:
    schema = header.get("schema")
    match = re.fullmatch(r"qkv-trace/([0-9]{1,9})", str(schema))
    if match is None or int(match[1]) == 0:
        raise BadData(
            f"is not a trace: its schema is {schema!r}, expected qkv-trace/ and a version from 1 to "
            f"{VERSION}: pass a file that an option --trace wrote"
        )
    if int(match[1]) > VERSION:
        raise BadData(
            f"has the schema {schema}, but this qkv reads up to qkv-trace/{VERSION}; "
            "it was written by a newer version: upgrade qkv"
        )
    return int(match[1])


def _group_by_example(arrays: Arrays, count: int) -> list[Arrays]:
    """Split the arrays by example; the keys lose the number of the example."""
    by_example: list[Arrays] = [{} for _ in range(count)]
    for entry, array in arrays.items():
        number, _, name = entry.partition("/")
        if not NUMBER.fullmatch(number) or int(number) >= count:
            raise BadData(
                f"has an entry {entry!r}, but entries are named EXAMPLE/NAME with {count} examples, "
                "counted from 0: rename it"
            )
        by_example[int(number)][name] = array
    return by_example


def _encode_example(example: Example) -> dict[str, Any]:
    axes = {name: _encode_axis(axis) for name, axis in example.named_axes.items()}
    weights = {name: example.weight_axes[name]._asdict() for name in example.weights}
    return {"axes": axes, "weights": weights, LOG_PROBS: example.log_probs_axis, "meta": example.meta}


def _encode_axis(axis: Axis) -> Any:
    if isinstance(axis, Grid):
        fields = {"height": axis.height, "width": axis.width, "picture": axis.picture}
        return fields if axis.area == WHOLE else fields | {"area": axis.area}
    return axis


def _read_example(entry: Any, arrays: Arrays) -> Example:
    read_mapping(entry, "its entry in the header", _EXAMPLE_KEYS)
    axes = read_mapping(entry.get("axes"), "axes")
    weights = read_mapping(entry.get("weights", {}), "weights")
    axis = entry.get(LOG_PROBS)
    if axis is not None and not isinstance(axis, str):
        raise BadData(
            f"{LOG_PROBS} must be the name of an axis or null, not {axis!r}: name the axis of the tokens"
        )
    described = set(weights) | ({LOG_PROBS} if axis is not None else set())
    _check_entries(described, arrays)
    return Example(
        named_axes={name: _read_axis(value, name) for name, value in axes.items()},
        weights={name: arrays[name] for name in weights},
        weight_axes={name: _read_weight_axes(value, name) for name, value in weights.items()},
        log_probs=arrays.get(LOG_PROBS),
        log_probs_axis=axis,
        meta=read_mapping(entry.get("meta", {}), "meta"),
    )


def _check_entries(described: Iterable[str], arrays: Arrays) -> None:
    """Check that the header describes every array and no other."""
    for name in sorted(set(described) ^ set(arrays)):
        if name in arrays:
            raise BadData(f"the header does not describe its entry {name[:80]!r}: name its axes there")
        raise BadData(
            f"the header describes {name[:80]!r}, but the file has no such entry: "
            "add the array or remove the description"
        )


def _read_axis(value: Any, name: str) -> Axis:
    if isinstance(value, list):
        return read_strings(value, f"the axis {name!r}")
    fields = read_mapping(value, f"the axis {name!r} is not a list of tokens and", _GRID_KEYS)
    height, width, picture, area = (fields.get(key) for key in _GRID_KEYS)
    if not isinstance(height, int) or not isinstance(width, int):
        raise BadData(f"the axis {name!r} is a grid: it needs `height` and `width` as whole numbers")
    if picture is not None and not isinstance(picture, str):
        raise BadData(
            f"the `picture` of the axis {name!r} must be a path or file name as text, not {picture!r}"
        )
    return Grid(height, width, picture, WHOLE if area is None else _read_area(area, name))


def _read_area(value: Any, name: str) -> tuple[float, float, float, float]:
    is_area = isinstance(value, list) and len(value) == len(WHOLE)
    if not is_area or any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in value):
        raise BadData(f"the `area` of the axis {name!r} must be four numbers, not {str(value)[:80]}")
    left, top, right, bottom = map(float, value)
    return left, top, right, bottom


def _read_weight_axes(value: Any, name: str) -> WeightAxes:
    fields = read_mapping(value, f"the entry of {name} in weights", WeightAxes._fields)
    rows, columns, causal = fields.get("rows"), fields.get("columns"), fields.get("causal", False)
    if not isinstance(rows, str) or not isinstance(columns, str) or not isinstance(causal, bool):
        raise BadData(
            f"{name}: got rows={rows!r}, columns={columns!r}, causal={causal!r}; expected the names of "
            "two axes, and true or false for causal"
        )
    return WeightAxes(rows, columns, causal)
