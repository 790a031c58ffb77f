"""`qkv view`: draws an example of a trace, or writes a page of traces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.task.output_files import check_writable
from qkv.task.trace_picture import draw_example
from qkv.trace import Example, Trace
from qkv.view import NamedTrace, embed_pictures, write_html

MAX_DIGITS = 9


class ViewOptions(NamedTuple):
    """The options of `qkv view`.

    Args:
        output: the page to write; None draws pictures.
        pictures: the pictures to draw; empty without a page draws TRACE.png.
        example: the number of the example from 1; None takes the first for pictures, all for a page.
        layers: a kind of layer or one layer.
        heads: "mean", "all" or a number.
        merge: whether word pieces become words.
        dark: whether pictures have a dark background.
    """

    output: Path | None
    pictures: Sequence[Path]
    example: int | None
    layers: str | None
    heads: str
    merge: bool
    dark: bool


def view_traces(files: Sequence[Path], options: ViewOptions) -> None:
    """Write the page and draw the pictures, and print their paths."""
    if options.output is None or options.pictures:
        if len(files) > 1:
            raise BadData(f"a picture shows one trace, got {len(files)}: pass one, or --output page.html")
        _draw(files[0], options)
    if options.output is not None:
        _write_page(files, options.output, options)


def _draw(file: Path, options: ViewOptions) -> None:
    trace = Trace.load(file)
    example = 1 if options.example is None else options.example
    _check_example(file, trace, example)
    heads = _parse_heads(options.heads)
    for picture in options.pictures or [file.with_suffix(".png")]:
        folders = [file.parent, Path()]
        for line in draw_example(
            trace, picture, example - 1, options.layers, heads, options.merge, options.dark, folders
        ):
            print(line)
        print(picture)


def _write_page(files: Sequence[Path], output: Path, options: ViewOptions) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise BadData(
            f"--output writes a page, got {output.name!r}: name it .html, or use --png, --svg, --pdf"
        )
    check_writable(output)
    traces = [_select(file, options) for file in files]
    images: dict[str, str] = {}
    for file, trace in zip(files, traces, strict=True):
        addresses, problems = embed_pictures(trace, [file.parent, Path()])
        images |= addresses
        for picture in addresses:
            print(f"{picture}: is in the page")
        for picture, problem in problems.items():
            print(f"{picture}: not in the page: {problem}")
    write_html([NamedTrace(*pair) for pair in zip(_name(files), traces, strict=True)], output, images)
    print(output)


def _name(files: Sequence[Path]) -> list[str]:
    """The names of the files; with their folders where two are equal."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def _select(file: Path, options: ViewOptions) -> Trace:
    """The trace of a file with the selected examples and layers."""
    trace = Trace.load(file)
    if options.example is not None:
        _check_example(file, trace, options.example)
    examples = trace.examples if options.example is None else (trace.examples[options.example - 1],)
    if options.layers is not None:
        examples = tuple(_keep_layers(file, example, options.layers) for example in examples)
    return replace(trace, examples=examples)


def _keep_layers(file: Path, example: Example, layers: str) -> Example:
    names = [name for name in example.weights if f"{name}.".startswith(f"{layers}.")]
    if not names:
        raise UnknownName(f"there is no layer {layers!r} in {file}. {did_you_mean(layers, example.weights)}")
    return replace(
        example,
        weights={name: example.weights[name] for name in names},
        weight_axes={name: example.weight_axes[name] for name in names},
    )


def _check_example(file: Path, trace: Trace, example: int) -> None:
    if not 1 <= example <= len(trace.examples):
        raise UnknownName(
            f"there is no example {example}: {file} has {len(trace.examples)}, counted from 1; choose one "
            "of these"
        )


def _parse_heads(option: str) -> int | Literal["mean", "all"]:
    if option in ("mean", "all"):
        return cast(Literal["mean", "all"], option)
    if not option.isdecimal() or len(option) > MAX_DIGITS:
        raise UnknownName(f"--heads takes mean, all or the number of a head from 0, got {option!r}")
    return int(option)
