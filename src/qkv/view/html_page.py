"""One self-contained HTML page of traces: data, styles and script are inside, and nothing is fetched."""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from qkv.errors import BadData
from qkv.files import convert_write_errors, open_output
from qkv.view.bundle import bundle_modules, read_page_file
from qkv.view.colours import DARK, LIGHT
from qkv.view.measures import Measures, measure_head
from qkv.view.packing import Packed, pack_weights
from qkv.view.protocols import OCCLUSION, ExampleLike, GridLike, TraceLike, is_occlusion, list_labels
from qkv.view.words import SPECIAL, format_token, group_words

MAX_WEIGHTS = 50_000_000
LONGEST_TEXT = 1000  # characters of a token, which may be a sentence
_ACCENTS = {"light": "#b04a00", "dark": "#ffb066"}
_TITLE_TOKENS = 12


class NamedTrace(NamedTuple):
    """A trace and the name that the page shows for it.

    Args:
        name: such as the name of its file.
        trace: the trace.
    """

    name: str
    trace: TraceLike


def write_html(
    traces: Sequence[NamedTrace], path: str | Path, images: Mapping[str, str] | None = None
) -> Path:
    """Write one page with all examples of the traces, and return the path.

    Args:
        traces: at least one.
        path: the file to write.
        images: `Grid.picture` -> data: address of the picture, for overlays.

    Raises:
        BadData: if there is no trace or no weight, there are more than 50 million weights, or the file cannot
            be written.
    """
    content = format_html(traces, images)
    with convert_write_errors(path, "the page "), open_output(path) as file:
        file.write(content.encode())
    return Path(path)


def format_html(traces: Sequence[NamedTrace], images: Mapping[str, str] | None = None) -> str:
    """The page as text; see `write_html`."""
    _check_size(traces)
    arrays = [
        (example, name) for _, trace in traces for example in trace.examples for name in example.weights
    ]
    packed = pack_weights([example.weights[name] for example, name in arrays])
    chunks = iter(enumerate(packed))
    data = {
        "traces": [_describe_trace(name, trace, chunks, images or {}) for name, trace in traces],
        "themes": {
            name: {**theme._asdict(), "accent": _ACCENTS[name]}
            for name, theme in (("light", LIGHT), ("dark", DARK))
        },
        "measures": list(Measures._fields),
    }
    script, style = bundle_modules(), read_page_file("style.css")
    title = " and ".join(name for name, _ in traces)
    values = {
        "title": html.escape(f"{title}: attention"),
        "about": html.escape(_summarise(traces)),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": _format_json(data),
        "chunks": "\n".join(
            f'<script type="text/plain" id="chunk-{number}">{entry.text}</script>'
            for number, entry in enumerate(packed)
        ),
    }
    return Template(read_page_file("page.html")).substitute(values)


def _check_size(traces: Sequence[NamedTrace]) -> None:
    if not traces:
        raise BadData("there is no trace to show: pass one or more")
    for name, trace in traces:
        if not any(weight.size for example in trace.examples for weight in example.weights.values()):
            raise BadData(f"{name} has no weights to show: write the trace again with weights")
    sizes = [
        (weight.size, name, key)
        for name, trace in traces
        for example in trace.examples
        for key, weight in example.weights.items()
    ]
    total = sum(size for size, _, _ in sizes)
    if total > MAX_WEIGHTS:
        size, name, key = max(sizes)
        raise BadData(
            f"a page shows up to {MAX_WEIGHTS:,} weights, got {total:,} (the most in {key} of {name}: "
            f"{size:,}): show fewer examples or layers (qkv view --example, --layers), or capture with pool="
        )


def _describe_trace(
    name: str, trace: TraceLike, chunks: Iterator[tuple[int, Packed]], images: Mapping[str, str]
) -> dict[str, Any]:
    examples = [_describe_example(example, trace, chunks, images) for example in trace.examples]
    return {"name": name, "kind": trace.kind, "examples": examples}


def _describe_example(
    example: ExampleLike, trace: TraceLike, chunks: Iterator[tuple[int, Packed]], images: Mapping[str, str]
) -> dict[str, Any]:
    axes = {name: _describe_axis(name, axis, images) for name, axis in example.named_axes.items()}
    weights = [_describe_weights(example, name, trace, chunks) for name in example.weights]
    log_probs = None if example.log_probs is None else [round(float(x), 4) for x in example.log_probs]
    points = example.meta.get("points")
    size = [example.meta.get(side) for side in ("height", "width")]
    return {
        "title": _make_title(axes),
        "axes": axes,
        "weights": weights,
        "logProbs": log_probs,
        "logProbsAxis": example.log_probs_axis,
        "points": points if isinstance(points, list) else None,
        "map": size if all(isinstance(side, int) for side in size) else None,
    }


def _describe_axis(name: str, axis: Any, images: Mapping[str, str]) -> dict[str, Any]:
    labels = list_labels(axis)
    if isinstance(axis, GridLike):
        grid = {
            "height": axis.height,
            "width": axis.width,
            "area": axis.area,
            "image": images.get(axis.picture or ""),
        }
        return {"name": name, "labels": list(labels), "starts": [], "special": [], "grid": grid}
    groups = group_words(labels)
    return {
        "name": name,
        "labels": [format_token(token, LONGEST_TEXT) for token in labels],
        "starts": [group[0] for group in groups] if len(groups) < len(labels) else [],
        "special": [position for position, token in enumerate(labels) if token in SPECIAL],
        "grid": None,
    }


def _describe_weights(
    example: ExampleLike, name: str, trace: TraceLike, chunks: Iterator[tuple[int, Packed]]
) -> dict[str, Any]:
    weight, axes = example.weights[name], example.weight_axes[name]
    number, packed = next(chunks)
    is_self = axes.rows == axes.columns or axes.causal
    is_grid = isinstance(example.axes(name)[1], GridLike)
    return {
        "name": name,
        "rows": axes.rows,
        "columns": axes.columns,
        "causal": axes.causal,
        "shape": list(weight.shape),
        "chunk": f"chunk-{number}",
        "scales": packed.scales,
        "levels": packed.levels,
        "signed": packed.is_signed,
        "normalised": name not in trace.unnormalised,
        "measures": [_round(measure_head(head, is_self, is_grid)) for head in weight],
        "kind": OCCLUSION if is_occlusion(name) else "attention",
    }


def _round(measures: Measures) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in measures]


def _make_title(axes: Mapping[str, Any]) -> str:
    """The first tokens of the first axis of tokens."""
    for axis in axes.values():
        if axis["grid"] is None and axis["labels"]:
            shown = [i for i in range(len(axis["labels"])) if i not in axis["special"]]
            starts = set(axis["starts"] or shown)
            words = ((" " if i in starts else "") + axis["labels"][i] for i in shown[:_TITLE_TOKENS])
            return "".join(words).strip() + (" …" if len(shown) > _TITLE_TOKENS else "")
    return "image"


def _summarise(traces: Sequence[NamedTrace]) -> str:
    """One line about what the page holds."""
    parts = []
    for name, trace in traces:
        count = len(trace.examples)
        heads = sum(len(weight) for weight in trace.examples[0].weights.values())
        layers = len(trace.examples[0].weights)
        parts.append(
            f"{name}: {trace.kind}, {count} example{'s' * (count > 1)}, {layers} layer{'s' * (layers > 1)} "
            f"with {heads} head{'s' * (heads > 1)}"
        )
    return "; ".join(parts)


def _format_json(data: Any) -> str:
    """JSON that no HTML parser mistakes for markup: "<" cannot end the script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
