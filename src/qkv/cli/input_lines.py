"""Reads the lines that a command works on: of a file, or of stdin."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qkv.cli.output_stream import STANDARD
from qkv.data.lines import LONGEST_LINE, decode_lines, decode_stream, read_marked_lines
from qkv.errors import BadData


def read_input_lines(
    file: Path | None, *, is_interactive: bool = False, longest: int = LONGEST_LINE
) -> Iterator[str]:
    """The lines of a file, or of stdin where the file is None or `-`.

    Args:
        file: the file.
        is_interactive: stdin is a terminal: yield every line as it is typed.
        longest: characters of a line that are surely kept.

    Raises:
        BadData: the file cannot be read, or stdin is closed.
    """
    if file is not None and file != STANDARD:
        return (line.text for line in read_marked_lines(file, longest))
    if sys.stdin is None:
        raise BadData("stdin is closed: name a file, or pipe lines in")
    binary = sys.stdin.buffer
    lines = (
        decode_lines(binary, "stdin", longest) if is_interactive else decode_stream(binary, "stdin", longest)
    )
    return (line.text for line in lines)


def limit_traced_lines(
    lines: list[Any], limit: int, unit: str = "lines", option: str = "--trace"
) -> list[Any]:
    """The lines, or other inputs; BadData if there are too many for a trace."""
    if len(lines) > limit:
        raise BadData(f"{option} keeps every weight: pass at most {limit} {unit}, got {len(lines):,}")
    return lines
