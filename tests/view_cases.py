"""Shared by the tests of pictures: traces to draw and the pixels of a picture."""

import numpy as np
from PIL import Image

from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import NamedTrace, write_html
from tiny import translation_example

SOURCE = ("▁the", "▁tall", "▁house", "s", "</s>")
TARGET = ("▁die", "▁hoh", "en", "▁Häuser", "</s>")
PAPER, INK = (255, 255, 255), (7, 42, 87)


def rows(*shape, seed=0):
    weights = np.random.default_rng(seed).random(shape) ** 4
    return weights / weights.sum(-1, keepdims=True)


def trace_of(source=SOURCE, target=TARGET, layers=2, heads=3):
    names = {f"cross.{n}": rows(heads, len(target), len(source), seed=n) for n in range(layers)}
    past = np.tril(rows(heads, len(target), len(target))) + np.eye(len(target))
    names["decoder.0"] = past / past.sum(-1, keepdims=True)
    names["encoder.0"] = rows(heads, len(source), len(source))
    return Trace((translation_example(tuple(source), tuple(target), names),), "translation")


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def grid_trace(queries=("▁a", "▁dog"), grid=None, heads=2):
    grid = Grid(2, 3, "photos/dog.jpg") if grid is None else grid
    axes = {"text": tuple(queries), "image": grid}
    weights = {
        "cross.0": rows(heads, len(queries), len(grid)),
        "self.0": rows(heads, len(queries), len(queries)),
    }
    pairs = {"cross.0": WeightAxes("text", "image"), "self.0": WeightAxes("text", "text")}
    return Trace((Example(axes, weights, pairs),), "caption")


def write_trace(folder, example, images=None):
    """The page of one example."""
    trace = example if isinstance(example, Trace) else Trace((example,), "any")
    return write_html([NamedTrace("t", trace)], folder / "p.html", images)
