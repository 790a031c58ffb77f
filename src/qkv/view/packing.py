"""Packs attention weights for a page: one byte for a weight, deflated and written as base64.

A code is the rounded square root of a weight, in steps of 1 / levels of the largest weight of its head. The
root spends the codes on small weights, of which a row has most. A page that would be too large gets fewer
levels. Readers divide the rows of distributions by their sums.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVELS = (255, 127, 63, 47, 31, 23, 15, 11, 8, 6)
BYTES_PER_WEIGHT = 0.28
FREE_BYTES = 200_000  # of a page, whatever the number of weights
ZERO = 128  # the code of 0 where weights may be negative
_SAMPLE = 1_000_000  # weights from which the size of a page is estimated
_COMPRESSION = 6


class Packed(NamedTuple):
    """One array of weights, packed.

    Args:
        text: base64 of the deflated codes [H, rows, columns].
        scales: the largest absolute weight of every head.
        levels: the code of the largest weight, counted from the code of 0.
        is_signed: whether the code of 0 is 128; otherwise it is 0.
    """

    text: str
    scales: list[float]
    levels: int
    is_signed: bool


def pack_weights(arrays: Sequence[np.ndarray]) -> list[Packed]:
    """Pack the arrays of a page with as many levels as its size allows.

    Args:
        arrays: [H, rows, columns] each.
    """
    levels = _choose_levels(arrays)
    return [_pack(array, levels) for array in arrays]


def unpack_weights(packed: Packed, shape: tuple[int, int, int]) -> np.ndarray:
    """The weights that a page shows, before rows are divided by their sums.

    Args:
        packed: what `pack_weights` returned.
        shape: [H, rows, columns].
    """
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed.text)), np.uint8).reshape(shape)
    roots = (codes.astype(np.float32) - (ZERO if packed.is_signed else 0)) / packed.levels
    return np.sign(roots) * roots**2 * np.array(packed.scales, np.float32)[:, None, None]


def _choose_levels(arrays: Sequence[np.ndarray]) -> int:
    """The largest number of levels with which the arrays fit into the limit."""
    count = sum(array.size for array in arrays)
    limit = FREE_BYTES + BYTES_PER_WEIGHT * count
    samples = [array[:, : max(1, array.shape[1] * _SAMPLE // max(count, 1))] for array in arrays]
    scales = [_find_scales(array) for array in arrays]
    share = count / max(sum(sample.size for sample in samples), 1)
    for levels in LEVELS:
        size = sum(
            len(zlib.compress(_quantise(sample, scale, levels).tobytes(), _COMPRESSION))
            for sample, scale in zip(samples, scales, strict=True)
        )
        if size * share * 4 / 3 <= limit:
            return levels
    return LEVELS[-1]


def _pack(array: np.ndarray, levels: int) -> Packed:
    scales, is_signed = _find_scales(array), _is_signed(array)
    codes = _quantise(array, scales, levels)
    text = base64.b64encode(zlib.compress(codes.tobytes(), _COMPRESSION)).decode()
    return Packed(text, [float(f"{scale:.7g}") for scale in scales], _limit(levels, is_signed), is_signed)


def _quantise(array: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    """The codes of weights [H, rows, columns], as uint8."""
    is_signed = _is_signed(array)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)[:, None, None]
    codes = np.rint(np.sqrt(np.abs(array) / divisors) * _limit(levels, is_signed))
    return (ZERO + np.sign(array) * codes if is_signed else codes).astype(np.uint8)


def _limit(levels: int, is_signed: bool) -> int:
    return min(levels, 127) if is_signed else levels


def _is_signed(array: np.ndarray) -> bool:
    return bool(array.size) and float(array.min()) < 0


def _find_scales(array: np.ndarray) -> np.ndarray:
    """The largest absolute weight of every head."""
    return np.abs(array).max((1, 2)) if array.size else np.zeros(len(array))
