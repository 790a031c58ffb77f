"""Draws scenes with Pillow: polygons on a canvas of four times the size, which is then reduced."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from qkv.data.generated.shapes.scenes import SceneObject

_SUPERSAMPLING = 4
_RGB = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (246, 211, 30),
    "green": (40, 150, 60),
    "blue": (35, 90, 200),
    "purple": (140, 60, 170),
    "black": (25, 25, 28),
}
_COLOUR_NOISE = 10
_DARKEST_BACKGROUND, _BACKGROUND_TINT = 222, 8


def draw_picture(
    objects: Sequence[SceneObject], size: int, random: np.random.RandomState
) -> UInt8[np.ndarray, "S S 3"]:
    """The picture of a scene, on a light background.

    Args:
        objects: the objects.
        size: S, the side in pixels.
        random: the source of the background and of small differences of the colours.
    """
    grey = random.randint(_DARKEST_BACKGROUND, 256 - _BACKGROUND_TINT)
    background = tuple(grey + random.randint(0, _BACKGROUND_TINT, 3))
    side = size * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), background)
    canvas = ImageDraw.Draw(image)
    for each in objects:
        noise = random.randint(-_COLOUR_NOISE, _COLOUR_NOISE + 1, 3)
        colour = tuple(np.clip(np.add(_RGB[each.colour], noise), 0, 255).tolist())
        corners = find_outline(each) * side
        canvas.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
    return np.asarray(image.reduce(_SUPERSAMPLING))


def find_outline(thing: SceneObject) -> Float[np.ndarray, "P 2"]:
    """The corners of an object, as fractions of the picture's side."""
    angle = np.deg2rad(thing.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = _OUTLINES[thing.shape] @ turn.T
    low, high = corners.min(0), corners.max(0)
    return (corners - (low + high) / 2) / (high - low).max() * thing.side + (thing.x, thing.y)


def find_box(thing: SceneObject) -> Float[np.ndarray, "4"]:
    """The box of an object: left, top, right and bottom, as fractions of the picture's side."""
    corners = find_outline(thing)
    return np.concatenate([corners.min(0), corners.max(0)])


def _make_star() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _make_heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], 1)


def _make_circle() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _make_cross() -> np.ndarray:
    arm = 0.36  # half its width
    quarter = np.array([(arm, -1), (arm, -arm), (1, -arm)])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(quarter_turn, i) for i in range(4)])


_OUTLINES: dict[str, np.ndarray] = {
    "circle": _make_circle(),
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float),
    "triangle": np.array([(0, -0.9), (1, 0.9), (-1, 0.9)], float),
    "star": _make_star(),
    "cross": _make_cross(),
    "heart": _make_heart(),
}
