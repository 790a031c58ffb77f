"""Captioned pictures: read from files or generated, and what of each picture is named where."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from qkv.data.batching import Column
from qkv.data.generated.shapes import ShapesPixels, ShapesSplit
from qkv.data.generated.shapes.corpus import SplitName
from qkv.data.generated.shapes.drawing import find_box
from qkv.data.generated.shapes.sentences import write_sentence
from qkv.data.pictures import (
    CaptionConfig,
    PixelStatistics,
    load_captioned_pictures,
    match_captions,
    measure_pixels,
    read_captions,
)
from qkv.data.pictures.grids import is_grid_file, list_grid_names, read_grids
from qkv.errors import BadData
from qkv.progress import NoProgress, Progress
from qkv.task.caption.recipe import CaptionDataConfig, CaptionedFiles, CaptionRecipe
from qkv.task.classify_pictures.pictures import hold_out, permute
from qkv.task.evaluation import EvaluateOptions

DIGESTED = 16  # generated pictures of a split


class NamedObjects(NamedTuple):
    """Which object every word of a caption names, and where the objects are.

    Args:
        named: for every word the number of the object that it names, or None.
        boxes: for every object left, top, right and bottom, as fractions of the picture's sides.
    """

    named: tuple[int | None, ...]
    boxes: Float32[np.ndarray, "N 4"]


@dataclass(frozen=True, eq=False)
class CaptionedExamples:
    """Pictures with their captions.

    Args:
        pixels: uint8 [S,S,3] for every row, or a grid of annotation vectors [Y,X,C].
        rows: the numbers of the pictures that are used.
        captions: one caption or more of every row.
        notes: lines for the log about how they were read.
        drawn: the generated pictures; None where they are read from files.
    """

    pixels: Column
    rows: np.ndarray
    captions: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()
    drawn: ShapesSplit | None = None

    def __len__(self) -> int:
        """The number of pictures that are used."""
        return len(self.rows)

    def select(self, places: Sequence[int]) -> "CaptionedExamples":
        """Some of the pictures that are used, by their places among them."""
        return replace(self, rows=self.rows[list(places)])

    def get_pixels(self, place: int) -> np.ndarray:
        """The pixels of one of the pictures that are used."""
        return self.pixels[int(self.rows[place])]

    def get_captions(self, place: int) -> Sequence[str]:
        """The captions of one of the pictures that are used."""
        return self.captions[int(self.rows[place])]

    def find_objects(self, place: int) -> NamedObjects | None:
        """What the words of the caption name; None where the data have no boxes.

        Args:
            place: the place of the picture among those that are used.
        """
        if self.drawn is None:
            return None
        objects = self.drawn.get_objects(int(self.rows[place]))
        sentence = write_sentence(objects, self.drawn.config.language)
        return NamedObjects(sentence.named, np.array([find_box(each) for each in objects], np.float32))


class CaptionSplits(NamedTuple):
    """The training and the held-out pictures with their captions."""

    train: CaptionedExamples
    valid: CaptionedExamples


class _UsedPixels:
    """The column of the pixels that are used."""

    def __init__(self, examples: CaptionedExamples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.examples.get_pixels(index)


def read_files(files: CaptionedFiles, config: CaptionDataConfig, report: Progress) -> CaptionedExamples:
    """The pictures of a folder or zip file, or the grids of a file, that have captions.

    Raises:
        BadData: pictures or captions cannot be used, or do not match.
    """
    if is_grid_file(files.pictures):
        return _read_grids(files)
    loaded = load_captioned_pictures(files.pictures, files.captions, config.pictures, report)
    rows = np.arange(len(loaded.names))
    return CaptionedExamples(loaded.pixels, rows, loaded.captions, tuple(loaded.notes))


def _read_grids(files: CaptionedFiles) -> CaptionedExamples:
    names = list_grid_names(files.pictures)
    matched = match_captions(read_captions(files.captions), names, files.captions)
    grids = read_grids(files.pictures, is_wanted=matched.captions.__contains__)
    captions = [matched.captions[name] for name in grids.names]
    return CaptionedExamples(grids.vectors, np.arange(len(captions)), captions, tuple(matched.notes))


def draw_shapes(config: CaptionDataConfig, split: SplitName) -> CaptionedExamples:
    """Generated pictures with their sentences."""
    assert config.shapes is not None
    drawn = ShapesSplit(config.shapes, split)
    sentences = (write_sentence(drawn.get_objects(i), config.shapes.language) for i in range(len(drawn)))
    captions = [[" ".join(sentence.words)] for sentence in sentences]
    return CaptionedExamples(ShapesPixels(drawn), np.arange(len(drawn)), captions, drawn=drawn)


def read_splits(config: CaptionDataConfig, seed: int, report: Progress) -> CaptionSplits:
    """The training and the held-out pictures that a recipe names.

    Raises:
        BadData: they cannot be used, or are too few to hold any out.
    """
    if config.train is None:
        return CaptionSplits(draw_shapes(config, "train"), draw_shapes(config, "valid"))
    train = read_files(config.train, config, report)
    if config.valid is not None:
        return CaptionSplits(train, read_files(config.valid, config, report))
    held_out, order = hold_out(train, permute(len(train), seed), config.holdout, "pictures with captions")
    return CaptionSplits(train.select(sorted(order)), held_out)


def read_test_examples(recipe: CaptionRecipe, options: EvaluateOptions) -> CaptionedExamples:
    """The pictures and captions that the options name, the recipe's test data, or else the held-out ones.

    Raises:
        BadData: the options name pictures without captions or the reverse, or they cannot be used.
    """
    data, report = recipe.data, NoProgress()
    if (options.source is None) != (options.target is None):
        raise BadData(
            "--source and --target go together: name the pictures and the file of their captions, or neither "
            "for the recipe's test data"
        )
    if options.source is not None:
        usual = data.train.captions if data.train is not None else CaptionConfig(file="")
        captions = usual.model_copy(update={"file": str(options.target), "format": "auto"})
        return read_files(CaptionedFiles(pictures=str(options.source), captions=captions), data, report)
    if data.shapes is not None:
        return draw_shapes(data, "test")
    if data.test is not None:
        return read_files(data.test, data, report)
    return read_splits(data, recipe.train.seed, report).valid


def stack_inputs(pixels: Sequence[np.ndarray]) -> Tensor:
    """Pictures uint8 [H,W,3] of one size as a batch [B,3,H,W]; grids [Y,X,C] as [B,Y,X,C]."""
    stacked = torch.from_numpy(np.stack(pixels))
    return stacked.permute(0, 3, 1, 2).contiguous() if stacked.dtype == torch.uint8 else stacked


def measure_used_pixels(examples: CaptionedExamples) -> PixelStatistics:
    """The mean and the standard deviation of the pictures that are used; 0 and 1 for grids."""
    if np.asarray(examples.get_pixels(0)).dtype != np.uint8:
        return PixelStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return measure_pixels(_UsedPixels(examples))


def fingerprint_splits(splits: CaptionSplits) -> dict[str, dict[str, Any]]:
    """The number and a digest of the pictures and captions of both splits; see `Task.compute_fingerprint`."""
    return {
        f"{split}.pictures": {"lines": len(examples), "unit": "pictures", "digest": _digest(examples)}
        for split, examples in splits._asdict().items()
    }


def _digest(examples: CaptionedExamples) -> str:
    """A digest of the pixels and captions; of generated pictures the first few stand for all."""
    captions = [list(examples.get_captions(place)) for place in range(len(examples))]
    state = hashlib.blake2b(json.dumps(captions).encode(), digest_size=16)
    for place in range(len(examples))[: None if examples.drawn is None else DIGESTED]:
        state.update(examples.get_pixels(place).tobytes())
    return state.hexdigest()
