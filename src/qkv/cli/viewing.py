"""`qkv view`: a picture of a trace."""

from pathlib import Path
from typing import Literal, cast

from qkv.errors import UnknownName
from qkv.task.drawing import draw_example
from qkv.trace import Trace

LONGEST = 9  # digits of a number


def view_trace(
    file: Path, to: Path | None, example: int, layers: str | None, heads: str, merge: bool, dark: bool
) -> None:
    """Draw one example of a trace, and print the path of the picture."""
    trace = Trace.load(file)
    if not 1 <= example <= len(trace.examples):
        raise UnknownName(f"no example {example}: {file} has {len(trace.examples)}, counted from 1")
    picture = to or file.with_suffix(".png")
    for line in draw_example(trace, picture, example - 1, layers, _heads(heads), merge, dark):
        print(line)
    print(picture)


def _heads(option: str) -> int | Literal["mean", "all"]:
    if option in ("mean", "all"):
        return cast(Literal["mean", "all"], option)
    if not option.isdecimal() or len(option) > LONGEST:
        raise UnknownName(f"--heads takes mean, all or the number of a head from 0, got {option!r}")
    return int(option)
