"""Where a command writes its output."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qkv.errors import BadData

STANDARD = Path("-")


def open_output(path: Path | None) -> Any:
    """Open stdout, or a file that appears only once it is complete.

    Args:
        path: where to write; None and `-` are stdout.

    Raises:
        BadData: stdout is closed.
    """
    from qkv.task.output_files import open_output_file

    if path is not None and path != STANDARD:
        return open_output_file(path)
    if sys.__stdout__ is None:
        raise BadData("stdout is closed, and the output would be lost: name a file with --output")
    return nullcontext(sys.stdout)


def print_notes(notes: Iterable[str]) -> None:
    """Write lines about the input to stderr, where they are not taken for output.

    Args:
        notes: the lines.
    """
    for note in notes:
        print(f"qkv: {note}", file=sys.stderr, flush=True)
