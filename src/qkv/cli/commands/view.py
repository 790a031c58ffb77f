"""`qkv view`: draws an example of a trace."""

from pathlib import Path
from typing import Literal, cast

from qkv.errors import UnknownName
from qkv.task.trace_picture import draw_example
from qkv.trace import Trace

MAX_DIGITS = 9


def view_trace(
    file: Path, png: Path | None, example: int, layers: str | None, heads: str, merge: bool, dark: bool
) -> None:
    """Draw one example of a trace, and print the path of the picture."""
    trace = Trace.load(file)
    if not 1 <= example <= len(trace.examples):
        raise UnknownName(
            f"there is no example {example}: {file} has {len(trace.examples)}, counted from 1; choose one "
            "of these"
        )
    picture = png or file.with_suffix(".png")
    for line in draw_example(trace, picture, example - 1, layers, _parse_heads(heads), merge, dark):
        print(line)
    print(picture)


def _parse_heads(option: str) -> int | Literal["mean", "all"]:
    if option in ("mean", "all"):
        return cast(Literal["mean", "all"], option)
    if not option.isdecimal() or len(option) > MAX_DIGITS:
        raise UnknownName(f"--heads takes mean, all or the number of a head from 0, got {option!r}")
    return int(option)
