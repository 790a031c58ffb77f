"""Where decoded pixels are kept: in memory, or in a file that the next training maps into memory."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from qkv.data.lines import expand_path
from qkv.data.pictures.config import PictureConfig
from qkv.data.pictures.sources import Entry
from qkv.errors import TooLarge
from qkv.files import convert_write_errors, open_output

_VERSION = 1  # of the pixels that decoding gives
Pixels = UInt8[np.ndarray, "N S S 3"]


class CacheFile(NamedTuple):
    """A file of pixels, and beside it one of names and notes.

    Args:
        pixels: the path of the file of pixels, row after row.
        size: the side of the pictures.
    """

    pixels: Path
    size: int

    @property
    def description(self) -> Path:
        """The path of the file of names and notes."""
        return self.pixels.with_suffix(".json")

    def read(self) -> tuple[Pixels, list[str], list[str]] | None:
        """Pixels, names and notes; None where they are not cached."""
        with suppress(FileNotFoundError, ValueError, KeyError):
            described = json.loads(self.description.read_text(encoding="utf-8"))
            names, notes = described["names"], described["notes"]
            if self.pixels.stat().st_size == len(names) * 3 * self.size**2:
                return self._map(len(names)), names, notes
        return None

    def write_pixels(self, rows: Iterator[UInt8[np.ndarray, "S S 3"]]) -> Pixels:
        """Write all pixels; returns them, mapped into memory.

        Args:
            rows: the pictures; an error while they are decoded leaves no file.
        """
        count = 0
        with convert_write_errors(self.pixels, "the cache "):
            self.pixels.parent.mkdir(parents=True, exist_ok=True)
            with open_output(self.pixels) as file:
                for count, row in enumerate(rows, start=1):  # noqa: B007 -- the last number is the count
                    file.write(row.tobytes())
        return self._map(count)

    def write_description(self, names: Sequence[str], notes: Sequence[str]) -> None:
        """Write names and notes, which completes the cache."""
        with convert_write_errors(self.description, "the cache "), open_output(self.description) as file:
            file.write(json.dumps({"names": names, "notes": notes}).encode())

    def _map(self, count: int) -> Pixels:
        return np.memmap(self.pixels, np.uint8, "r", shape=(count, self.size, self.size, 3))


def find_cache_file(
    entries: Sequence[Entry], problems: Mapping[str, str], config: PictureConfig
) -> CacheFile | None:
    """The cache of these files; None where the recipe has none.  Its name says what it was made from.

    Args:
        entries: the files that are decoded.
        problems: name -> why a file cannot be read.
        config: how they are decoded.
    """
    if config.cache is None:
        return None
    made_from = [_VERSION, config.size, config.unusable, config.unusual, entries, sorted(problems.items())]
    digest = hashlib.blake2b(json.dumps(made_from).encode(), digest_size=12).hexdigest()
    return CacheFile(expand_path(config.cache) / f"pictures-{config.size}-{digest}.rgb", config.size)


def collect_rows(rows: Iterator[UInt8[np.ndarray, "S S 3"]], count: int, size: int) -> Pixels:
    """An array of pictures in memory.

    Args:
        rows: the pictures.
        count: at most how many there are.
        size: their side.

    Raises:
        TooLarge: they do not fit into memory.
    """
    try:
        pixels = np.empty((count, size, size, 3), np.uint8)
    except MemoryError:
        raise TooLarge(
            f"{count:,} pictures of {size} × {size} pixels need {3 * count * size**2 / 2**30:.1f} GiB: set "
            "data.pictures.cache to a folder, or data.pictures.size to a smaller one"
        ) from None
    used = 0
    for used, row in enumerate(rows, start=1):
        pixels[used - 1] = row
    return pixels[:used]
