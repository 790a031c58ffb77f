"""Pictures inside a page: the file that a grid names, as a data: address."""

import base64
import io
from pathlib import Path

import numpy as np

from qkv.picture_decoding import decode_picture
from qkv.view.traced import GridLike

SIDE = 448  # pixels, of the shorter side
_QUALITY = 85


def embed_picture(grid: GridLike, folders: list[Path]) -> tuple[str, str]:
    """The picture of a grid as a data: address, cropped to a square like the input of a captioner.

    Only a grid as high as it is wide has its picture embedded: the cells of others do not cover the crop.

    Args:
        grid: the cells.
        folders: where a relative path may start.

    Returns:
        The address, or "" without a usable picture; and the reason, or "" if there is none.
    """
    if grid.picture is None or grid.height != grid.width:
        return "", "" if grid.picture is None else f"the grid is {grid.height}×{grid.width}, not square"
    path = next((folder / grid.picture for folder in folders if (folder / grid.picture).is_file()), None)
    if path is None:
        return "", "there is no such file beside the trace or in this folder"
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", error.strerror or "cannot be read"
    decoded = decode_picture(content, SIDE)
    return ("", decoded.problem) if decoded.pixels is None else (_encode(decoded.pixels), "")


def _encode(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
