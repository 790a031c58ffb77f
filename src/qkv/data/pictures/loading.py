"""Loads pictures as one array of pixels: decoded, or from the cache of an earlier training."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from qkv.data.pictures.config import PictureConfig
from qkv.data.pictures.decoding import choose_worker_count, decode_entries
from qkv.data.pictures.outcome import Outcome, list_names
from qkv.data.pictures.pixels import check_pixels
from qkv.data.pictures.sources import Entry, PictureSource, open_source
from qkv.data.pictures.storage import CacheFile, collect_rows, find_cache_file
from qkv.errors import BadData
from qkv.picture_decoding import Decoded
from qkv.progress import Progress
from qkv.wording import plural


class Pictures(NamedTuple):
    """Pictures in memory, or in a file of the cache that is mapped into memory.

    Args:
        pixels: [N,S,S,3], red, green and blue.
        names: the path of every picture inside its folder or zip file.
        notes: lines for the log: how many were loaded, and how many were skipped, converted and ignored.
    """

    pixels: UInt8[np.ndarray, "N S S 3"]
    names: list[str]
    notes: list[str]


def load_pictures(
    path: str | Path,
    config: PictureConfig,
    report: Progress,
    *,
    is_wanted: Callable[[str], bool] = lambda name: True,
) -> Pictures:
    """Load the pictures of a folder or zip file, in the order of their names.

    Args:
        path: the folder or zip file.
        config: their size, and what becomes of those that cannot be used.
        report: where progress is shown.
        is_wanted: says by its name whether a picture is loaded.

    Raises:
        BadData: there is no picture, one cannot be used and `config` says to refuse it, or the pixels are
            not those of pictures.
        TooLarge: the pixels do not fit into memory.
        QKVError: a worker process ended unexpectedly.
    """
    with open_source(path) as source:
        entries = [entry for entry in source.entries if is_wanted(entry.name)]
        problems = {name: why for name, why in source.problems.items() if is_wanted(name)}
        if not entries and not problems:
            others = f"; no suffix of a picture: {list_names(source.others)}" if source.others else ""
            raise BadData(f"{source.path} has no pictures{others}: check the path")
        cache = find_cache_file(entries, problems, config)
        cached = cache.read() if cache is not None else None
        if cached is not None:
            pixels, names, notes = cached
            notes = [f"{source.path}: {plural(len(names), 'picture')}, decoded before", *notes]
        else:
            outcome = Outcome(source.path, config, problems)
            pixels, names, notes = _decode(source, entries, outcome, cache, report)
        if source.others:
            notes.append(f"ignored, no suffix of a picture: {list_names(source.others)}")
    check_pixels(pixels, str(source.path))
    return Pictures(pixels, names, notes)


def _decode(
    source: PictureSource, entries: list[Entry], outcome: Outcome, cache: CacheFile | None, report: Progress
) -> Pictures:
    size, started = outcome.config.size, time.monotonic()
    workers = choose_worker_count(entries, outcome.config.workers)
    rows = _iterate_usable(decode_entries(source, entries, size, workers), entries, outcome, report)
    pixels = collect_rows(rows, len(entries), size) if cache is None else cache.write_pixels(rows)
    seconds = max(time.monotonic() - started, 1e-9)
    speed = f"{len(entries) / seconds:,.0f} pictures/s, {plural(workers, 'process', 'processes')}"
    note = f"{source.path}: {plural(len(outcome.names), 'picture')} decoded in {seconds:.1f} s ({speed})"
    if cache is not None:
        cache.write_description(outcome.names, outcome.describe())
    return Pictures(pixels, outcome.names, [note, *outcome.describe()])


def _iterate_usable(
    decoded: Iterable[Decoded], entries: Sequence[Entry], outcome: Outcome, report: Progress
) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """The pixels of the pictures that are used; raises BadData at the end where some are to be refused."""
    started = time.monotonic()
    for number, (entry, each) in enumerate(zip(entries, decoded, strict=True), start=1):
        speed = number / max(time.monotonic() - started, 1e-9)
        report.update(number, f"{number:,} of {len(entries):,} pictures decoded, {speed:,.0f}/s")
        if outcome.add(entry.name, each):
            assert each.pixels is not None
            yield each.pixels
    outcome.refuse()
