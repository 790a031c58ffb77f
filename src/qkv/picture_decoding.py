"""Decodes picture files of any colour mode to squares of RGB pixels.  Worker processes import this alone."""

import io
import signal
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow knows more formats; some of them start other programs, such as Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ANIMATED, CMYK = "animated", "CMYK"
BAND_PIXELS = 2**20  # that are converted to RGB together
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class Decoded(NamedTuple):
    """What became of a picture file.

    Args:
        pixels: S × S pixels, red, green and blue; None where the file cannot be used.
        problem: why it cannot be used, in a few words; empty where it can.
        traits: ANIMATED, of which the first frame is taken, and CMYK.
    """

    pixels: UInt8[np.ndarray, "S S 3"] | None
    problem: str = ""
    traits: tuple[str, ...] = ()


def decode_pictures(contents: Sequence[bytes | str], size: int) -> list[Decoded]:
    """Decode several files; see `decode_picture`.

    Args:
        contents: the bytes of each file, or, of a file that could not be read, why.
        size: S, the side of the results.
    """
    return [Decoded(None, each) if isinstance(each, str) else decode_picture(each, size) for each in contents]


def decode_picture(content: bytes, size: int) -> Decoded:
    """Decode a file: turn it as its EXIF data says, resize its shorter side, and crop its centre.

    Transparent pixels become white, and 16-bit grey values are scaled to 8 bits.  A JPEG file is decoded at a
    reduced size.  Pillow's limit on the number of pixels bounds the memory of others: their own pixels, and
    those in RGB.

    Args:
        content: the bytes of the file.
        size: S, the side of the result.
    """
    if not content:
        return Decoded(None, "0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _decode_image(image, size)
        except UnidentifiedImageError:
            return Decoded(None, f"not a picture of a known format ({', '.join(FORMATS)})")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return Decoded(None, f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit")
        except Exception as error:  # decoders raise errors of any kind for damaged files
            return Decoded(None, f"damaged: {str(error).splitlines()[0] if str(error) else repr(error)}")


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _decode_image(image: Image.Image, size: int) -> Decoded:
    is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    image.draft(None, (2 * size, 2 * size))  # no effect but on JPEG
    traits = (*([ANIMATED] if is_animated else []), *([CMYK] if image.mode == "CMYK" else []))
    if image.mode == "F":
        return Decoded(None, "pixels are floating-point numbers of unknown range")
    ImageOps.exif_transpose(image, in_place=True)
    rgb = _convert_to_rgb(image)
    square = ImageOps.fit(rgb, (size, size), method=Image.Resampling.LANCZOS)
    return Decoded(np.asarray(square), "", traits)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    """The picture in red, green and blue, converted band by band, because large pictures fill the memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb, rows = Image.new("RGB", image.size), max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_convert_band(band), (0, top))
    return rgb


def _convert_band(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError("grey values outside 0 to 65,535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
