"""Pictures that a user passes to a trained model: paths of files, or pixels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from qkv.data.lines import expand_path
from qkv.errors import BadData
from qkv.picture_decoding import decode_picture

Picture = str | Path | np.ndarray


def list_pictures(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """The pictures as a list; one alone becomes a list of one."""
    if isinstance(pictures, str | Path) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
        return [pictures]
    return list(pictures)


def read_picture(picture: Picture, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """The pixels of a picture.

    Args:
        picture: the path of a file, which is resized and cropped, or pixels of the right size.
        size: the side of the pictures of the model in pixels.

    Raises:
        BadData: the file cannot be read or is no picture, or the pixels have another type or size.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape != (size, size, 3):
            raise BadData(
                f"pixels of this model are uint8 [{size}, {size}, 3], got {picture.dtype} "
                f"{list(picture.shape)}: resize them, or pass the path of a file"
            )
        return picture
    path = expand_path(picture)
    try:
        decoded = decode_picture(path.read_bytes(), size)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror}): check the path") from None
    if decoded.pixels is None:
        raise BadData(f"{path} cannot be used: {decoded.problem}; pass a picture")
    return decoded.pixels
