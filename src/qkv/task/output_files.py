"""Writes the files of commands, texts and pictures; missing folders are created."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from qkv.files import check_output, convert_write_errors, open_output, open_text_output


@contextmanager
def open_output_file(path: Path) -> Iterator[TextIO]:
    """Open a text file that replaces `path` once the block ends without an error.

    Devices, pipes and sockets are written directly.

    Args:
        path: where to write.

    Raises:
        BadData: the file cannot be written.
    """
    with convert_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_text_output(path) as file:
            yield file


def check_writable(*paths: Path | None) -> None:
    """Check that files can be written, before long work whose results go there; missing folders are created.

    Args:
        paths: where; None stands for an output that is not wanted.

    Raises:
        BadData: one cannot be written.
    """
    for path in paths:
        if path is not None:
            with convert_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                check_output(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely, or leave what was there."""
    with open_output_file(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write plain data as an indented JSON file, completely, or leave what was there."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG file completely, or leave what was there."""
    with convert_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_output(path) as file:
            picture.save(file, "PNG")
