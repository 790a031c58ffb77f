"""Film strips of traces whose keys are the cells of a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qkv.errors import UnknownName
from qkv.task.trace_picture import draw_example
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view.film_of_example import make_film_of_example

AREA = (-0.1, 0.0, 0.9, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path


def make_example(rows: Any = ("a", "cat"), picture: str | None = "cat.png", layers: int = 2) -> Example:
    count = len(rows)
    weights = np.random.default_rng(0).random((layers, 3, count, 16))
    weights /= weights.sum(-1, keepdims=True)
    return Example(
        {"words": rows, "image": Grid(4, 4, picture, AREA)},
        {f"cross.{n}": weights[n] for n in range(layers)},
        {f"cross.{n}": WeightAxes("words", "image") for n in range(layers)},
    )


def test_a_strip_has_a_frame_for_every_word(folder: Path) -> None:
    example = make_example()
    film, problem = make_film_of_example(example, None, None, [folder])
    assert film is not None
    assert problem == ""
    assert film.words == ["a", "cat"]
    np.testing.assert_allclose(film.weights, example.weights["cross.1"].mean(0).reshape(2, 4, 4))
    np.testing.assert_allclose(film.columns, [0.025, 0.275, 0.525, 0.775])
    np.testing.assert_allclose(film.rows, [0.125, 0.375, 0.625, 0.875])
    assert film.pixels[0, 0, 0] < 10 < 245 < film.pixels[0, -1, 0]
    assert film.title == "cross.1 over cat.png"


def test_layers_are_averaged_and_a_head_stands_alone(folder: Path) -> None:
    example = make_example()
    film, _ = make_film_of_example(example, "cross", 2, [folder])
    assert film is not None
    expected = (example.weights["cross.0"][2] + example.weights["cross.1"][2]) / 2
    np.testing.assert_allclose(film.weights, expected.reshape(2, 4, 4))
    assert film.title == "mean of cross.0, cross.1, head 2 over cat.png"
    with pytest.raises(UnknownName, match="there is no head 3"):
        make_film_of_example(example, "cross", 3, [folder])


def test_of_queries_on_a_grid_a_few_are_shown(folder: Path) -> None:
    film, _ = make_film_of_example(make_example(Grid(8, 8, "cat.png")), None, None, [folder])
    assert film is not None
    assert film.words == [f"cell {row}, {column}" for row in (1, 4, 6) for column in (1, 4, 6)]


def test_without_the_picture_heat_maps_are_drawn(folder: Path, tmp_path: Path) -> None:
    trace = Trace((make_example(picture="dog.png"),), "caption")
    assert draw_example(trace, tmp_path / "dog-strip.png", folders=[folder]) == [
        "dog.png is not in the picture: there is no such file beside the trace or in this folder"
    ]
    assert make_film_of_example(make_example(picture=None), None, None, [folder]) == (None, "")
    assert (tmp_path / "dog-strip.png").exists()


def test_the_picture_of_a_trace_has_the_pixels(folder: Path, tmp_path: Path) -> None:
    trace = Trace((make_example(),), "caption")
    sizes = {}
    for heads in ("mean", "all"):
        path = tmp_path / f"{heads}.png"
        assert draw_example(trace, path, heads=heads, folders=[folder]) == []
        with Image.open(path) as picture:
            sizes[heads] = picture.size
    assert sizes["mean"] != sizes["all"]


def test_a_notebook_holds_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    trace = Trace((make_example(),), "caption")
    assert "data:image/jpeg;base64," in trace._repr_html_()
    (folder / "cat.png").unlink()
    assert "data:image/jpeg;base64," not in trace._repr_html_()
