"""Where a command writes."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def opened(output: Path | None) -> Any:
    """Where to write: stdout, or a file that appears only when all of it is written."""
    from qkv.task.files import whole_file

    return whole_file(output) if output else nullcontext(sys.stdout)
