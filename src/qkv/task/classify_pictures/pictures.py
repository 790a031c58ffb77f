"""Labelled pictures: read from folders or generated, with their classes, and as batches."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from qkv.data.batching import Column, Dataset
from qkv.data.generated.shapes import ShapesPixels, ShapesSplit
from qkv.data.generated.shapes.corpus import SplitName
from qkv.data.generated.shapes.scenes import SceneObject
from qkv.data.pictures import PictureBatch, PixelStatistics, load_pictures, measure_pixels
from qkv.errors import BadData
from qkv.progress import NoProgress, Progress
from qkv.task.classify_pictures.recipe import LabelledPicturesConfig, PictureClassificationRecipe
from qkv.task.data_source import select_balanced
from qkv.wording import plural

MOST_CLASSES = 1000
DIGESTED = 16  # generated pictures of a split
AnyPictures = TypeVar("AnyPictures", bound=Any)
_LABELS: dict[str, Callable[[SceneObject], str]] = {
    "colour": lambda thing: thing.colour,
    "shape": lambda thing: thing.shape,
    "place": lambda thing: thing.place,
    "object": lambda thing: f"{thing.colour} {thing.shape}",
}


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures with their labels.

    Args:
        pixels: uint8 [S,S,3] for every row.
        rows: the numbers of those that are used.
        labels: the label of every row.
        notes: lines for the log about how they were read.
        is_generated: whether they are drawn when they are asked for.
    """

    pixels: Column
    rows: np.ndarray
    labels: list[str]
    notes: tuple[str, ...] = ()
    is_generated: bool = False

    def __len__(self) -> int:
        """The number of pictures that are used."""
        return len(self.rows)

    def select(self, rows: Sequence[int]) -> "LabelledPictures":
        """Some of the pictures that are used, by their places among them."""
        return replace(self, rows=self.rows[list(rows)])

    @property
    def used_labels(self) -> list[str]:
        """The labels of the pictures that are used."""
        return [self.labels[row] for row in self.rows]


class PictureSplits(NamedTuple):
    """The training and the held-out pictures."""

    train: LabelledPictures
    valid: LabelledPictures


def read_folder(path: str, config: LabelledPicturesConfig, report: Progress) -> LabelledPictures:
    """The pictures of a folder or zip file; the name of the folder that a picture is in is its label.

    Raises:
        BadData: a picture is in no folder, or the pictures cannot be used.
    """
    pictures = load_pictures(path, config.pictures, report)
    loose = [name for name in pictures.names if "/" not in name]
    if loose:
        raise BadData(
            f"{path}: {plural(len(loose), 'picture is', 'pictures are')} in no folder, the first is "
            f"{loose[0]}: put every picture into a folder with the name of its class"
        )
    labels = [PurePosixPath(name).parent.name for name in pictures.names]
    return LabelledPictures(pictures.pixels, np.arange(len(labels)), labels, tuple(pictures.notes))


def draw_shapes(config: LabelledPicturesConfig, split: SplitName) -> LabelledPictures:
    """Generated pictures, with what `config.label` asks for."""
    assert config.shapes is not None
    drawn = ShapesSplit(config.shapes, split)
    labels = [_LABELS[config.label](drawn.get_objects(i)[0]) for i in range(len(drawn))]
    return LabelledPictures(ShapesPixels(drawn), np.arange(len(drawn)), labels, is_generated=True)


def read_splits(config: LabelledPicturesConfig, seed: int, report: Progress) -> PictureSplits:
    """The training and the held-out pictures that a recipe names."""
    if config.train is None:
        train, valid = draw_shapes(config, "train"), draw_shapes(config, "valid")
        order = permute(len(train), seed)
    else:
        train = read_folder(config.train.pictures, config, report)
        order = permute(len(train), seed)
        if config.valid is not None:
            valid = read_folder(config.valid.pictures, config, report)
        else:
            valid, order = hold_out(train, order, config.holdout)
    chosen = order if config.labels is None else select_balanced(train.used_labels, order, config.labels)
    return PictureSplits(train.select(sorted(chosen)), valid)


def hold_out(
    pictures: AnyPictures, order: Sequence[int], most: int, unit: str = "pictures"
) -> tuple[AnyPictures, Sequence[int]]:
    """The held-out pictures, the first in an order, and the rest of the order.

    Args:
        pictures: all pictures: a data class with `select` and notes about how they were read.
        order: their numbers.
        most: how many to hold out; at most a tenth is.
        unit: what the message calls them.

    Raises:
        BadData: there are too few pictures.
    """
    count = min(most, len(pictures) // 10)
    if count == 0:
        raise BadData(f"{len(pictures)} {unit} are too few to hold any out: name others as data.valid")
    return replace(pictures.select(sorted(order[:count])), notes=()), order[count:]


def read_test_pictures(recipe: PictureClassificationRecipe, folder: Path | None = None) -> LabelledPictures:
    """The pictures of a folder, of the recipe's test data, or the held-out ones where there is no test."""
    data, report = recipe.data, NoProgress()
    if folder is not None:
        return read_folder(str(folder), data, report)
    if data.shapes is not None:
        return draw_shapes(data, "test")
    if data.test is not None:
        return read_folder(data.test.pictures, data, report)
    return read_splits(data, recipe.train.seed, report).valid


def list_classes(pictures: LabelledPictures) -> list[str]:
    """The names of the classes, sorted.

    Raises:
        BadData: there is a single class, or more than MOST_CLASSES.
    """
    classes = sorted(set(pictures.used_labels))
    if len(classes) < 2:
        raise BadData(f"every training picture has the label {classes[0]!r}: at least two are needed")
    if len(classes) > MOST_CLASSES:
        raise BadData(
            f"the training pictures are in {len(classes):,} folders, more than {MOST_CLASSES:,}: put "
            "those of a class into one folder"
        )
    return classes


def number_labels(pictures: LabelledPictures, classes: Sequence[str]) -> np.ndarray:
    """The number of the class of every picture that is used.

    Raises:
        BadData: a label is not one of the classes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(pictures.used_labels) - numbers.keys())
    if unknown:
        raise BadData(f"no picture of the training has the label {unknown[0]!r}; known: {list(classes)}")
    return np.array([numbers[label] for label in pictures.used_labels], np.int64)


def measure_used_pixels(pictures: LabelledPictures) -> PixelStatistics:
    """The mean and standard deviation of the pictures that are used."""
    return measure_pixels(_UsedPixels(pictures))


def digest_pictures(pictures: LabelledPictures) -> str:
    """A digest of the pixels and labels; of generated pictures the first few stand for all."""
    state = hashlib.blake2b(json.dumps(pictures.used_labels).encode(), digest_size=16)
    for row in pictures.rows[: DIGESTED if pictures.is_generated else None].tolist():
        state.update(pictures.pixels[row].tobytes())
    return state.hexdigest()


def fingerprint_pictures(splits: PictureSplits) -> dict[str, dict[str, Any]]:
    """What resuming compares: the number and a digest of the pictures and labels of both splits."""
    return {
        f"{split}.pictures": {
            "lines": len(pictures),
            "unit": "pictures",
            "digest": digest_pictures(pictures),
        }
        for split, pictures in splits._asdict().items()
    }


def make_dataset(pictures: LabelledPictures, numbers: np.ndarray) -> Dataset[PictureBatch]:
    """The rows of training and evaluation batches.

    Args:
        pictures: the pictures.
        numbers: the number of the class of each.
    """
    return Dataset(
        [_UsedPixels(pictures), numbers, pictures.rows],
        _collate_pictures,
        positions=np.ones(len(pictures), np.int64),
        row_name="picture",
    )


def stack_pictures(pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[Tensor, "B 3 H W"]:
    """Pictures of one size as a batch."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


class _UsedPixels:
    """The column of pixels of a data set."""

    def __init__(self, pictures: LabelledPictures) -> None:
        self.pixels, self.rows = pictures.pixels, pictures.rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.pixels[int(self.rows[index])]


def _collate_pictures(pixels: Sequence[Any], labels: Sequence[Any], rows: Sequence[Any]) -> PictureBatch:
    return PictureBatch(
        stack_pictures(pixels), torch.tensor(labels, dtype=torch.int64), torch.tensor(rows, dtype=torch.int64)
    )


def spread_evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, at equal distances, so that they are of all classes.

    Args:
        rows: numbers of pictures, in an order by class.
        most: how many to take.
    """
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def permute(count: int, seed: int) -> list[int]:
    """The numbers below `count` in a random order, which the seed decides."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
