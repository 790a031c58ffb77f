"""Where a command reads and writes."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from qkv.errors import BadData

STANDARD = Path("-")


def opened(output: Path | None) -> Any:
    """Where to write: stdout, or a file that appears only when all of it is written.

    Raises BadData where stdout is closed.
    """
    from qkv.task.files import whole_file

    if output is not None and output != STANDARD:
        return whole_file(output)
    if sys.__stdout__ is None:
        raise BadData("stdout is closed, and the output would be lost: name a file with --output")
    return nullcontext(sys.stdout)
