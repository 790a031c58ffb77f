"""Pictures inside a page: the file that a grid names, as a data: address."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qkv.picture_decoding import decode_picture
from qkv.view.protocols import GridLike, TraceLike

SIDE = 448  # pixels, of the shorter side
_QUALITY = 85


def embed_picture(grid: GridLike, folders: Sequence[Path]) -> tuple[str, str]:
    """The picture of a grid as a data: address, cropped to a square like the input of a captioner.

    Only a grid as high as it is wide has its picture embedded: the cells of others do not cover the crop.

    Args:
        grid: the cells.
        folders: where a relative path may start.

    Returns:
        The address, or "" without a usable picture; and the reason, or "" if there is none.
    """
    if grid.picture is None:
        return "", ""
    pixels, problem = find_picture(grid, folders)
    return ("", problem) if pixels is None else (_encode(pixels), "")


def embed_pictures(
    trace: TraceLike, folders: Sequence[Path] = (Path(),)
) -> tuple[dict[str, str], dict[str, str]]:
    """The pictures that the grids of a trace name; see `embed_picture`.

    Args:
        trace: the trace.
        folders: where a relative path may start; by default in the current folder.

    Returns:
        Name -> address of each picture that was found, and name -> the reason for each other one.
    """
    images: dict[str, str] = {}
    problems: dict[str, str] = {}
    for axis in (axis for example in trace.examples for axis in example.named_axes.values()):
        if not isinstance(axis, GridLike) or axis.picture is None or axis.picture in images | problems:
            continue
        address, problem = embed_picture(axis, folders)
        (images if address else problems)[axis.picture] = address or problem
    return images, problems


def find_picture(grid: GridLike, folders: Sequence[Path]) -> tuple[np.ndarray | None, str]:
    """The pixels of the picture that a grid names; see `embed_picture`.

    Args:
        grid: the cells.
        folders: where a relative path may start.

    Returns:
        uint8 [S,S,3], or None; and the reason, or "" if there is none.
    """
    if grid.picture is None:
        return None, "the grid names no picture"
    if grid.height != grid.width:
        return None, f"the grid is {grid.height}×{grid.width}, not square"
    path = next((folder / grid.picture for folder in folders if (folder / grid.picture).is_file()), None)
    if path is None:
        return None, "there is no such file beside the trace or in this folder"
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, error.strerror or "cannot be read"
    decoded = decode_picture(content, SIDE)
    return decoded.pixels, decoded.problem


def _encode(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
