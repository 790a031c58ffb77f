"""How picture files become pixels: a section of recipes."""

from typing import Literal

from pydantic import Field, PositiveInt

from qkv.strict import Strict


class PictureConfig(Strict):
    """How picture files become pixels.

    Args:
        size: the side in pixels; the shorter side of a picture is resized to it and the centre is cropped.
        unusable: pictures that cannot be decoded, and files that cannot be read: refuse, or skip and count.
        unusual: animated pictures, of which the first frame is taken, and CMYK ones: convert, skip or refuse.
        workers: processes that decode; null: one for each CPU core, where there are many pictures.
        cache: a folder to keep the decoded pixels in for the next training; null: they are in memory only.
    """

    size: int = Field(default=64, ge=8, le=2048)
    unusable: Literal["refuse", "skip"] = "refuse"
    unusual: Literal["convert", "skip", "refuse"] = "convert"
    workers: PositiveInt | None = None
    cache: str | None = None
