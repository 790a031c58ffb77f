"""Checks the files that a command will write, before its work starts."""

from pathlib import Path

from qkv.task.output_files import check_writable
from qkv.view.canvas import check_output


def check_picture_and_json(picture: Path | None, json: Path | None) -> None:
    """Check the files of `--png` (or `--plot`) and `--json`.

    Args:
        picture: where a picture will be drawn.
        json: where the results will be written.

    Raises:
        QKVError: the suffix names no format of pictures, matplotlib is missing, or a file cannot be written.
    """
    if picture is not None:
        check_output(picture)
    for path in (picture, json):
        if path is not None:
            check_writable(path)
