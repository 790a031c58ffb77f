"""Pictures together with their captions."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from qkv.data.pictures.captions import CaptionConfig, match_captions, read_captions
from qkv.data.pictures.config import PictureConfig
from qkv.data.pictures.loading import load_pictures
from qkv.data.pictures.sources import open_source
from qkv.progress import Progress


class CaptionedPictures(NamedTuple):
    """Pictures with one caption or more each.

    Args:
        pixels: [N,S,S,3], red, green and blue.
        names: the path of every picture inside its folder or zip file.
        captions: the captions of every picture.
        notes: lines for the log about how they were read, and what was skipped.
    """

    pixels: UInt8[np.ndarray, "N S S 3"]
    names: list[str]
    captions: list[list[str]]
    notes: list[str]


def load_captioned_pictures(
    path: str | Path, captions: CaptionConfig, config: PictureConfig, report: Progress
) -> CaptionedPictures:
    """Load the pictures that have captions, in the order of their names.

    Captions are matched with the names of the files before a picture is decoded.

    Args:
        path: the folder or zip file of the pictures.
        captions: where their captions are.
        config: the size of the pictures, and what becomes of those that cannot be used.
        report: where progress is shown.

    Raises:
        BadData: pictures or captions cannot be used, or do not match.
        TooLarge: the pixels do not fit into memory.
        QKVError: a worker process ended unexpectedly.
    """
    with open_source(path) as source:
        names, unusable = [entry.name for entry in source.entries], set(source.problems)
    matched = match_captions(read_captions(captions), names, captions, unusable)
    wanted = unusable.union(matched.captions)
    pictures = load_pictures(path, config, report, is_wanted=wanted.__contains__)
    texts = [matched.captions[name] for name in pictures.names]
    return CaptionedPictures(pictures.pixels, pictures.names, texts, [*pictures.notes, *matched.notes])
