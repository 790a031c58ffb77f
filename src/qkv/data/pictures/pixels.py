"""Checks that pixels are those of pictures, and measures what they are normalised by."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qkv.data.batching import Column
from qkv.errors import BadData

_DARKEST, _BRIGHTEST, _FLATTEST = 0.02, 0.98, 0.02


class PixelStatistics(NamedTuple):
    """The mean and the standard deviation of red, green and blue, where black is 0 and white is 1.

    Args:
        mean: three means.
        sd: three standard deviations.
    """

    mean: tuple[float, float, float]
    sd: tuple[float, float, float]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PixelStatistics":
        """The statistics of plain data, such as `_asdict` gives.

        Args:
            values: three numbers under each of the keys mean and sd.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        (red, green, blue), (red_sd, green_sd, blue_sd) = (map(float, values[key]) for key in ("mean", "sd"))
        return cls((red, green, blue), (red_sd, green_sd, blue_sd))


def measure_pixels(pixels: Column, most: int = 1000) -> PixelStatistics:
    """The statistics of pictures.

    Args:
        pixels: one picture or more, each uint8 [H,W,3].
        most: how many are measured at most, at equal distances.
    """
    total, squares, count = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for row in np.linspace(0, len(pixels) - 1, min(len(pixels), most)).astype(int).tolist():
        values = pixels[row].reshape(-1, 3).astype(np.int64)
        total, squares, count = total + values.sum(0), squares + (values**2).sum(0), count + len(values)
    mean = total / count
    sd = np.sqrt(np.maximum(squares / count - mean**2, 0))
    (red, green, blue), sds = (mean / 255).tolist(), (sd / 255).tolist()
    return PixelStatistics((red, green, blue), (sds[0], sds[1], sds[2]))


def check_pixels(pixels: np.ndarray, name: str) -> PixelStatistics:
    """Check that pixels have the type, the range and the spread of pictures; returns their statistics.

    Args:
        pixels: one picture or more.
        name: what messages call them.

    Raises:
        BadData: they are of another type or shape, or nearly black, white or of one colour.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise BadData(
            f"{name}: expected pixels [N, height, width, 3] of type uint8, 0 to 255, got {pixels.dtype} "
            f"{list(pixels.shape)}: convert them"
        )
    statistics = measure_pixels(pixels)
    mean, sd = float(np.mean(statistics.mean)), float(np.mean(statistics.sd))
    if not _DARKEST <= mean <= _BRIGHTEST or sd < _FLATTEST:
        raise BadData(
            f"{name}: the pixels have mean {mean:.3f} and standard deviation {sd:.3f} where black is 0 and "
            f"white is 1, expected a mean of {_DARKEST} to {_BRIGHTEST} and a deviation of at least "
            f"{_FLATTEST}: look at the pictures; values from 0 to 1 saved as bytes are nearly black"
        )
    return statistics
