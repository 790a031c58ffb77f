"""Sheets of pictures: many small pictures in rows on one larger one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from qkv.errors import BadData

GAP = 2  # pixels between pictures, before they are enlarged
SMALLEST_SIDE = 64  # pixels; smaller pictures are enlarged to at least this


def draw_sheet(pictures: Sequence[UInt8[np.ndarray, "S S 3"]], columns: int) -> Image.Image:
    """Draw pictures row by row from the top left, on white; small ones are enlarged without smoothing.

    Args:
        pictures: pictures of one size.
        columns: how many stand in a row.

    Returns:
        The sheet.

    Raises:
        BadData: there is no picture.
    """
    if not len(pictures):
        raise BadData("there is no picture for the sheet: pass at least one")
    height, width = pictures[0].shape[:2]
    rows, columns = -(-len(pictures) // columns), min(columns, len(pictures))
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    scale = max(1, -(-SMALLEST_SIDE // min(height, width)))
    return Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1))
