"""Text files that commands write, in folders that are made where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from qkv.files import check_output, open_text_output, write_errors


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears at `path` when the block ends without error; else what was there stays.

    Devices, pipes and sockets are written into.  Raises BadData where it cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_text_output(path) as file:
            yield file


def check_writable(path: Path) -> None:
    """BadData for a file that cannot be written there: before the work whose result it is to hold."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_output(path)


def write_text(path: Path, text: str) -> None:
    """Write the text to `path`, wholly or not at all."""
    with whole_file(path) as file:
        file.write(text)
