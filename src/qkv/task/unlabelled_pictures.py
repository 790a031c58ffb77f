"""Pictures without labels: read from a folder or a zip file, or generated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import PositiveInt, model_validator

from qkv.data.generated.shapes import ShapesConfig, ShapesPixels, ShapesSplit
from qkv.data.generated.shapes.corpus import SplitName
from qkv.data.pictures import PictureConfig, load_pictures
from qkv.progress import NoProgress, Progress
from qkv.strict import Strict
from qkv.task.classify_pictures.pictures import (
    LabelledPictures,
    PictureSplits,
    hold_out,
    permute,
)
from qkv.task.data_source import check_one_source


class PictureFolder(Strict):
    """Where pictures come from.

    Args:
        pictures: a folder, with its subfolders, or a zip file.
    """

    pictures: str


class UnlabelledPicturesConfig(Strict):
    """The pictures of a recipe, without labels: files of your own, or generated shapes.

    Args:
        train: the pictures to train on.
        valid: held-out pictures; null takes some of the training pictures.
        shapes: generate pictures of shapes instead of reading files; they have their own held-out pictures.
        holdout: training pictures to hold out where valid is null (at most a tenth).  A classifier of the
            same folder with the same holdout and train.seed holds out the same pictures.
        pictures: how picture files become pixels.
    """

    train: PictureFolder | None = None
    valid: PictureFolder | None = None
    shapes: ShapesConfig | None = None
    holdout: PositiveInt = 1000
    pictures: PictureConfig = PictureConfig(size=32)

    @property
    def size(self) -> int:
        """The side of the pictures in pixels."""
        return self.pictures.size if self.shapes is None else self.shapes.size

    @model_validator(mode="after")
    def _has_one_source(self) -> "UnlabelledPicturesConfig":
        check_one_source(self, ("shapes",), "pictures")
        return self


def read_unlabelled_splits(config: UnlabelledPicturesConfig, seed: int, report: Progress) -> PictureSplits:
    """The training and the held-out pictures that a recipe names; every label is empty.

    Args:
        config: the section `data`.
        seed: decides which pictures are held out.
        report: where the progress of reading is shown.

    Raises:
        BadData: they cannot be read, or are too few.
    """
    if config.train is None:
        return PictureSplits(_draw(config, "train"), _draw(config, "valid"))
    train = _read(config.train.pictures, config, report)
    order: Sequence[int] = permute(len(train), seed)
    if config.valid is not None:
        return PictureSplits(train, _read(config.valid.pictures, config, report))
    valid, order = hold_out(train, order, config.holdout)
    return PictureSplits(train.select(sorted(order)), valid)


def read_unlabelled_test(
    config: UnlabelledPicturesConfig, seed: int, folder: Path | None = None
) -> LabelledPictures:
    """The pictures of a folder, or the test pictures of generated shapes, or the held-out ones.

    Args:
        config: the section `data`.
        seed: decides which pictures are held out.
        folder: a folder or a zip file; None takes the recipe's pictures.
    """
    if folder is not None:
        return _read(str(folder), config, NoProgress())
    if config.shapes is not None:
        return _draw(config, "test")
    return read_unlabelled_splits(config, seed, NoProgress()).valid


def name_pictures(part: str, config: UnlabelledPicturesConfig) -> str:
    """What a user calls the pictures of a split: a key of the recipe.

    Args:
        part: the name of a part in the fingerprint.
        config: the section `data`.
    """
    if config.shapes is not None:
        return "data.shapes"
    return "data.valid" if part.startswith("valid.") and config.valid is not None else "data.train"


def _read(path: str, config: UnlabelledPicturesConfig, report: Progress) -> LabelledPictures:
    pictures = load_pictures(path, config.pictures, report)
    count = len(pictures.names)
    return LabelledPictures(pictures.pixels, np.arange(count), [""] * count, tuple(pictures.notes))


def _draw(config: UnlabelledPicturesConfig, split: SplitName) -> LabelledPictures:
    assert config.shapes is not None
    drawn = ShapesSplit(config.shapes, split)
    rows = np.arange(len(drawn))
    return LabelledPictures(ShapesPixels(drawn), rows, [""] * len(rows), is_generated=True)
