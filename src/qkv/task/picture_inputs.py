"""Pictures that a user passes to a trained model: paths of files, or pixels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from qkv.data.lines import expand_path
from qkv.data.pictures.config import PictureConfig
from qkv.data.pictures.outcome import Outcome
from qkv.errors import BadData
from qkv.picture_decoding import Decoded, decode_picture

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
        BadData: the file cannot be read or is not a picture, or the pixels have another type or size.
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


def select_usable(files: Sequence[Path], size: int) -> tuple[list[Path], list[str]]:
    """The files of a command that are pictures; the others are left out and named.

    Args:
        files: the files.
        size: the side of the pictures of the model in pixels.

    Returns:
        The files that are left, and lines about what was left out or converted.

    Raises:
        BadData: none is left.
    """
    if len(files) == 1:
        read_picture(files[0], size)
    outcome = Outcome(Path("the input"), PictureConfig(size=size, unusable="skip"), {})
    usable = [file for file in files if outcome.add(str(file), _decode(expand_path(file), size))]
    outcome.refuse()
    return usable, outcome.describe()


def _decode(path: Path, size: int) -> Decoded:
    try:
        return decode_picture(path.read_bytes(), size)
    except OSError as error:
        return Decoded(None, f"cannot be read: {error.strerror}")
