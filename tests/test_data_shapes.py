"""Generated pictures of shapes: what is drawn, what is written about it, and what is held out."""

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from qkv.data.generated.shapes import (
    COLOURS,
    PLACES,
    SHAPES,
    ShapesConfig,
    ShapesExample,
    ShapesSplit,
    corpus,
    is_held_out,
)
from qkv.data.generated.shapes.scenes import OPPOSITES, SceneObject
from qkv.data.generated.shapes.sentences import write_sentence
from qkv.errors import BadData, UnknownName

KINDS = list(product(COLOURS, SHAPES))


def examples(split: Any, count: int = 100, **changes: Any) -> list[ShapesExample]:
    pictures = ShapesSplit(ShapesConfig(**changes), split)
    return [pictures[i] for i in range(count)]


def thing(colour: str, shape: str, size: str, place: str) -> SceneObject:
    return SceneObject(colour, shape, size, place, 0.5, 0.5, 0.2, 0.0)


def test_the_same_seed_gives_the_same_pictures() -> None:
    first, second, other = (examples("train", 3, seed=seed) for seed in (4, 4, 5))
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a.picture, b.picture)
        assert a[1:3] == b[1:3]
        assert not np.array_equal(a.picture, c.picture)


def test_splits_differ_and_the_size_changes_nothing_but_the_pixels() -> None:
    assert examples("train", 5)[0].words != examples("valid", 5)[0].words
    small, large = examples("test", 5, size=32), examples("test", 5, size=96)
    for a, b in zip(small, large, strict=True):
        assert a.words == b.words
        np.testing.assert_array_equal(a.boxes, b.boxes)
        means = b.picture.reshape(32, 3, 32, 3, 3).mean((1, 3))
        assert np.abs(means - a.picture).mean() < 3


@pytest.mark.parametrize("objects", [2, 3])
def test_what_is_held_out_occurs_in_test_alone(objects: int) -> None:
    for split in ("train", "valid", "test"):
        for example in examples(split, 60, objects=objects, size=16):
            held_out = [is_held_out(each.colour, each.shape, each.place) for each in example.objects]
            assert any(held_out) == (split == "test")


def test_every_colour_shape_place_and_pair_of_them_occurs_in_training() -> None:
    kept = {combination for combination in product(COLOURS, SHAPES, PLACES) if not is_held_out(*combination)}
    assert len(kept) == 6 / 7 * len(COLOURS) * len(SHAPES) * len(PLACES)
    for axes in ((0, 1), (0, 2), (1, 2)):
        pairs = {tuple(combination[axis] for axis in axes) for combination in kept}
        assert pairs == set(product(*((COLOURS, SHAPES, PLACES)[axis] for axis in axes)))


def test_the_number_of_sentences_is_as_documented() -> None:
    sizes = (("small", "medium"), ("small", "large"), ("medium", "large"))
    sentences: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for first, second in permutations(KINDS, 2):
        for place, (smaller, larger) in product(PLACES, sizes):
            objects = thing(*first, smaller, place), thing(*second, larger, OPPOSITES[place])
            held_out = is_held_out(*first, place) or is_held_out(*second, OPPOSITES[place])
            sentences[held_out].add(write_sentence(objects, "en").words)
    assert (len(sentences[False]), len(sentences[True])) == (15_192, 5_472)
    assert not sentences[False] & sentences[True]


@pytest.mark.parametrize(
    ("language", "objects", "text"),
    [
        ("en", "small red circle above, medium blue square", "a small red circle above a blue square"),
        ("en", "medium orange star left, large red heart", "an orange star to the left of a large red heart"),
        (
            "fr",
            "medium red star right, large orange heart",
            "une étoile rouge à droite d'un grand cœur orange",
        ),
        (
            "fr",
            "small green square above, medium black cross",
            "un petit carré vert au-dessus d'une croix noire",
        ),
        (
            "fr",
            "small blue cross below, medium purple star",
            "une petite croix bleue au-dessous d'une étoile violette",
        ),
    ],
)
def test_sentences_agree(language: str, objects: str, text: str) -> None:
    first, second = (part.split() for part in objects.split(", "))
    size, colour, shape, place = first
    larger, other_colour, other_shape = second
    described = thing(colour, shape, size, place), thing(other_colour, other_shape, larger, OPPOSITES[place])
    assert " ".join(write_sentence(described, language).words) == text


@pytest.mark.parametrize("language", ["en", "fr"])
def test_every_naming_word_names_its_object(language: str) -> None:
    for example in examples("train", 40, objects=3, language=language, size=16):
        assert len(example.words) == len(example.named)
        for number, each in enumerate(example.objects):
            naming = [word for word, name in zip(example.words, example.named, strict=True) if name == number]
            assert len(naming) == (2 if each.size == "medium" else 3)
            assert language == "fr" or naming[-2:] == [each.colour, each.shape]


@pytest.mark.parametrize("objects", [2, 3])
def test_boxes_hold_their_objects_and_places_are_true(objects: int) -> None:
    for example in examples("train", 60, objects=objects, size=96):
        for number, box in enumerate(example.boxes):
            assert (box[:2] >= 0).all()
            assert (box[2:] <= 1).all()
            left, top, right, bottom = np.round(box * 96).astype(int)
            inside = example.picture[top:bottom, left:right].reshape(-1, 3).astype(int)
            background = example.picture[0, 0]
            assert 0.2 < (np.abs(inside - background).max(1) > 30).mean() <= 1
            following = example.objects[number + 1 : number + 2]
            for other in following:
                each = example.objects[number]
                across, down = other.x - each.x, other.y - each.y
                offset = {"above": down, "below": -down, "left": across, "right": -across}[each.place]
                assert offset == max(abs(across), abs(down))
        widths = np.max(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
        assert (np.diff(widths) > 0.02).all()
        outside = np.ones((96, 96), bool)
        for box in example.boxes:
            left, top = np.floor(box[:2] * 96).astype(int)
            right, bottom = np.ceil(box[2:] * 96).astype(int)
            outside[top:bottom, left:right] = False
        assert len(np.unique(example.picture[outside], axis=0)) == 1


def test_pictures_beyond_the_cache_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = examples("train", 4, size=16)
    monkeypatch.setattr(corpus, "CACHE_BYTES", 2 * 3 * 16 * 16)
    pictures = ShapesSplit(ShapesConfig(size=16), "train")
    for i in (3, 0, 3, 1, 2):
        np.testing.assert_array_equal(pictures.get_picture(i), expected[i].picture)


def test_bad_requests() -> None:
    with pytest.raises(BadData, match="no picture 500 among the 500 of valid"):
        ShapesSplit(ShapesConfig(), "valid").get_picture(500)
    with pytest.raises(UnknownName, match=r"no sentences about shapes in 'de'.*Known: en, fr"):
        write_sentence((), "de")
    with pytest.raises(ValidationError):
        ShapesConfig(size=8)
