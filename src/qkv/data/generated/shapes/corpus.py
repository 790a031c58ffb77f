"""The splits of the generated pictures: drawn when asked for, from the seed and the number of the picture."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field, PositiveInt

from qkv.data.generated.shapes.drawing import draw_picture, find_box
from qkv.data.generated.shapes.scenes import SceneObject, draw_scene
from qkv.data.generated.shapes.sentences import write_sentence
from qkv.data.randomness import make_random
from qkv.errors import BadData
from qkv.strict import Strict

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
CACHE_BYTES = 2**30  # of a split; pictures beyond it are drawn whenever they are asked for


class ShapesConfig(Strict):
    """The recipe section of generated pictures of shapes.

    Args:
        size: the side of the pictures in pixels.
        objects: 2 or 3 objects in every picture.
        language: en or fr, the language of the sentences.
        train: number of pictures to train on; no object of them is a held-out combination of colour, shape
            and place.
        valid: number of pictures to choose weights by, with the same combinations as in training.
        test: number of pictures to measure with; each has an object in a held-out combination.
        seed: the same seed gives the same pictures, at any size.
    """

    size: int = Field(default=64, ge=16, le=2048)
    objects: Literal[2, 3] = 2
    language: Literal["en", "fr"] = "en"
    train: PositiveInt = 10_000
    valid: PositiveInt = 500
    test: PositiveInt = 1000
    seed: int = Field(default=0, ge=0)


class ShapesExample(NamedTuple):
    """A picture and what is known about it.

    Args:
        picture: S × S pixels, red, green and blue.
        words: its sentence.
        named: for every word the number of the object that it names, or None.
        boxes: for every object left, top, right and bottom, as fractions of the picture's side.
        objects: the objects, the smallest first.
    """

    picture: UInt8[np.ndarray, "S S 3"]
    words: tuple[str, ...]
    named: tuple[int | None, ...]
    boxes: Float32[np.ndarray, "N 4"]
    objects: tuple[SceneObject, ...]


class ShapesSplit:
    """The pictures of one split; each is drawn when it is first asked for, and kept as uint8.

    Args:
        config: the size, the number and the language.
        split: train, valid or test.

    Example:
        >>> from qkv.data.generated.shapes import ShapesConfig, ShapesSplit
        >>> example = ShapesSplit(ShapesConfig(), "train")[0]
        >>> example.picture.shape
        (64, 64, 3)
        >>> " ".join(example.words)
        'a blue square above a large black triangle'
    """

    def __init__(self, config: ShapesConfig, split: SplitName) -> None:
        self.config, self.split = config, split
        self.count: int = getattr(config, split)
        kept = min(self.count, CACHE_BYTES // (3 * config.size**2))
        self._cache = np.empty(
            (kept, config.size, config.size, 3), np.uint8
        )  # untouched memory costs nothing
        self._is_drawn = np.zeros(kept, bool)

    def __len__(self) -> int:
        """The number of pictures."""
        return self.count

    def __getitem__(self, index: int, /) -> ShapesExample:
        """A picture with its sentence and its boxes."""
        objects = self.get_objects(index)
        sentence = write_sentence(objects, self.config.language)
        boxes = np.array([find_box(each) for each in objects], np.float32)
        return ShapesExample(self.get_picture(index), sentence.words, sentence.named, boxes, objects)

    def get_picture(self, index: int) -> UInt8[np.ndarray, "S S 3"]:
        """The pixels of a picture.

        Args:
            index: its number in the split, from 0.
        """
        self._check_index(index)
        if index < len(self._cache):
            if not self._is_drawn[index]:
                self._cache[index] = self._draw(index)
                self._is_drawn[index] = True
            return self._cache[index]
        return self._draw(index)

    def get_objects(self, index: int) -> tuple[SceneObject, ...]:
        """The objects of a picture, the smallest first, without drawing it.

        Args:
            index: its number in the split, from 0.
        """
        self._check_index(index)
        random = self._make_random(index, 0)
        return draw_scene(random, self.config.objects, held_out=self.split == "test")

    def _draw(self, index: int) -> np.ndarray:
        return draw_picture(self.get_objects(index), self.config.size, self._make_random(index, 1))

    def _make_random(self, index: int, purpose: int) -> np.random.RandomState:
        return make_random(self.config.seed, SPLITS.index(self.split), index, purpose)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise BadData(f"there is no picture {index} among the {self.count:,} of {self.split}")


class ShapesPixels:
    """The pictures of a split as a column: their pixels alone.

    Args:
        split: the split.
    """

    def __init__(self, split: ShapesSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.split)

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "S S 3"]:
        """The pixels of a picture."""
        return self.split.get_picture(index)
