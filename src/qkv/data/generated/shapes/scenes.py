"""What a picture shows: objects with a colour, a shape, a size and a place relative to each other.

Every object of a picture has another size.  A sentence names the smallest object first and places it relative
to the next larger one, so that a picture has exactly one sentence.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "medium", "large")
PLACES = ("above", "below", "left", "right")
OPPOSITES = {"above": "below", "below": "above", "left": "right", "right": "left"}

_STEPS = {"above": (0, -1), "below": (0, 1), "left": (-1, 0), "right": (1, 0)}
_SIDES = {"small": (0.40, 0.44), "medium": (0.60, 0.66), "large": (0.82, 0.90)}  # of a cell
_LARGEST_ANGLE = 12  # degrees


class SceneObject(NamedTuple):
    """An object of a picture; lengths are fractions of the picture's side.

    Args:
        colour: one of COLOURS.
        shape: one of SHAPES.
        size: one of SIZES.
        place: one of PLACES, relative to the next larger object; of the largest, to the next smaller one.
        x: the centre, from the left.
        y: the centre, from the top.
        side: the longer side of the box.
        angle: by how many degrees it is turned.
    """

    colour: str
    shape: str
    size: str
    place: str
    x: float
    y: float
    side: float
    angle: float


def is_held_out(colour: str, shape: str, place: str) -> bool:
    """Whether an object of this colour and shape in this place occurs in no training picture.

    Rule: (number of the colour + 2 × number of the shape + 3 × number of the place) is a multiple of 7, with
    numbers from 0 in COLOURS, SHAPES and PLACES.  So one colour of 7 is held out for every shape in every
    place, and every pair of colour, shape and place occurs in training.

    Args:
        colour: one of COLOURS.
        shape: one of SHAPES.
        place: one of PLACES.
    """
    number = COLOURS.index(colour) + 2 * SHAPES.index(shape) + 3 * PLACES.index(place)
    return number % len(COLOURS) == 0


def draw_scene(random: np.random.RandomState, count: int, *, held_out: bool) -> tuple[SceneObject, ...]:
    """The objects of a random picture, the smallest first; no two share both colour and shape.

    Args:
        random: the source of random numbers.
        count: 2 or 3 objects.
        held_out: whether at least one object is a combination that `is_held_out`, or none is.
    """
    while True:
        kinds = [_draw_kind(random) for _ in range(count)]
        places = [PLACES[random.randint(len(PLACES))] for _ in range(count - 1)]
        turns_back = any(b == OPPOSITES[a] for a, b in pairwise(places))
        of_objects = [*places, OPPOSITES[places[-1]]]
        has_held_out = any(is_held_out(*kind, place) for kind, place in zip(kinds, of_objects, strict=True))
        if len(set(kinds)) == count and not turns_back and has_held_out == held_out:
            return _place_objects(random, kinds, of_objects)


def _draw_kind(random: np.random.RandomState) -> tuple[str, str]:
    return COLOURS[random.randint(len(COLOURS))], SHAPES[random.randint(len(SHAPES))]


def _place_objects(
    random: np.random.RandomState, kinds: list[tuple[str, str]], places: list[str]
) -> tuple[SceneObject, ...]:
    """Put every object into a cell of a count × count grid, and move the occupied cells at random."""
    count = len(kinds)
    sizes = [SIZES[i] for i in sorted(random.permutation(len(SIZES))[:count])]
    steps = np.array([_STEPS[place] for place in places[:-1]] + [(0, 0)])
    cells = steps[::-1].cumsum(0)[::-1]
    cells = cells - cells.min(0)
    shift = random.uniform(0, 1, 2) * (count - 1 - cells.max(0))
    objects = []
    for (colour, shape), size, place, cell in zip(kinds, sizes, places, cells, strict=True):
        side, angle = random.uniform(*_SIDES[size]), random.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE)
        x, y = (cell + shift + 0.5 + random.uniform(-1, 1, 2) * (0.96 - side) / 2) / count
        objects.append(SceneObject(colour, shape, size, place, float(x), float(y), side / count, angle))
    return tuple(objects)
