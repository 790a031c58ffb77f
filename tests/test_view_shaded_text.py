"""Documents as shaded text: what is shaded how much, where words stand, and when text is drawn."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qkv.view.shaded_text
from qkv.errors import BadData, UnknownName
from qkv.task.trace_picture import draw_example
from qkv.trace import Example, Grid, Trace, WeightAxes
from qkv.view import document
from qkv.view.canvas import DPI
from qkv.view.shaded_text import MANY_WORDS, is_document

PALE, DARK = (255, 255, 255), (7, 42, 87)  # of the lowest and the highest weight
TEXT = [f"▁word{number}" for number in range(MANY_WORDS + 1)]


def make_example(tokens: list[str], weights: Any, columns: str = "text") -> Example:
    """One query over tokens; weights [H, 1, tokens]."""
    array = np.asarray(weights, np.float32).reshape(-1, 1, len(tokens))
    axes = {"label": ("label",), columns: tuple(tokens)}
    return Example(
        named_axes=axes, weights={"pool": array}, weight_axes={"pool": WeightAxes("label", columns)}
    )


def make_levels() -> Example:
    """Two sentences; the second one has three times the weight of the first."""
    axes: dict[str, Any] = {"label": ("label",), "query": ("query",), "sentences": ("a b", "c d")}
    axes |= {"sentence 1": ("▁a", "▁b"), "sentence 2": ("▁c", "▁d")}
    weights = {
        "words.1.pool": np.array([[[1.0, 0.0]]], np.float32),
        "words.2.pool": np.array([[[0.5, 0.5]]], np.float32),
        "sentences.pool": np.array([[[0.25, 0.75]]], np.float32),
    }
    weight_axes = {
        "words.1.pool": WeightAxes("query", "sentence 1"),
        "words.2.pool": WeightAxes("query", "sentence 2"),
        "sentences.pool": WeightAxes("label", "sentences"),
    }
    return Example(named_axes=axes, weights=weights, weight_axes=weight_axes)


@pytest.fixture
def shades(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, tuple[float, ...]]]:
    """The weights and boxes that are shaded."""
    drawn: list[tuple[float, tuple[float, ...]]] = []
    real = qkv.view.shaded_text._shade
    monkeypatch.setattr(
        qkv.view.shaded_text,
        "_shade",
        lambda page, scale, weight, box: (drawn.append((weight, box)), real(page, scale, weight, box))[1],
    )
    return drawn


def test_the_word_with_all_the_weight_is_dark_and_the_others_are_not(
    tmp_path: Path, shades: list[Any]
) -> None:
    tokens = ["▁two", "▁pie", "ces", "▁here", "."]
    example = make_example(tokens, [0, 0.25, 0.75, 0, 0])
    picture = document(Trace((example,), kind="test"), path=tmp_path / "text.png")
    assert [weight for weight, _ in shades] == [0, 1, 0]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    for weight, (left, bottom, width, height) in shades:
        row, column = pixels.shape[0] - round((bottom + 0.04) * DPI), round((left + width / 2) * DPI)
        assert tuple(pixels[row, column]) == (DARK if weight else PALE)
        assert height > 0
    lefts = [box[0] for _, box in shades]
    assert lefts == sorted(lefts)
    assert all(a[0] + a[2] < b[0] for (_, a), (_, b) in itertools.pairwise(shades))


def test_heads_are_averaged_or_chosen(tmp_path: Path, shades: list[Any]) -> None:
    trace = Trace((make_example(["▁a", "▁b"], [[[1, 0]], [[0, 1]]]),), kind="test")
    document(trace, path=tmp_path / "mean.svg")
    document(trace, path=tmp_path / "one.svg", heads=1)
    assert [weight for weight, _ in shades] == [0.5, 0.5, 0, 1]
    with pytest.raises(UnknownName, match="there is no head 2 in pool: it has 2"):
        document(trace, path=tmp_path / "none.svg", heads=2)
    with pytest.raises(UnknownName, match="there is no example 1"):
        document(trace, path=tmp_path / "none.svg", example=1)


def test_words_of_sentences_have_their_weight_times_the_root_of_the_sentence(
    tmp_path: Path, shades: list[Any]
) -> None:
    example = make_levels()
    assert is_document(example, None)
    document(Trace((example,), kind="test"), path=tmp_path / "levels.png")
    expected = [0.25, 0.5, 0, 0.75, 0.5 * 0.75**0.5, 0.5 * 0.75**0.5]
    assert [weight for weight, _ in shades] == pytest.approx(expected)
    assert shades[0][1][1] > shades[3][1][1]  # the second sentence stands below the first
    shades.clear()
    document(Trace((example,), kind="test"), path=tmp_path / "one.png", layers="words.2")
    assert [weight for weight, _ in shades] == [0.5, 0.5]


@pytest.mark.parametrize("first", ["▁one", "▁אחת"])
def test_long_lines_are_broken_and_some_scripts_run_leftwards(
    first: str, tmp_path: Path, shades: list[Any]
) -> None:
    example = make_example([first, *TEXT], np.full(len(TEXT) + 1, 1 / (len(TEXT) + 1)))
    document(Trace((example,), kind="test"), path=tmp_path / "text.png")
    boxes = [box for _, box in shades]
    lines = sorted({box[1] for box in boxes}, reverse=True)
    assert len(lines) > 2
    assert [box[1] for box in boxes] == sorted((box[1] for box in boxes), reverse=True)
    assert min(box[0] for box in boxes) >= 0.1
    assert max(box[0] + box[2] for box in boxes) <= 6.5
    steps = np.diff([box[0] for box in boxes if box[1] == lines[0]])
    assert np.all(steps < 0) if first == "▁אחת" else np.all(steps > 0)


@pytest.mark.filterwarnings("ignore::qkv.view.MissingGlyphs")
def test_words_without_marks_are_separated_and_pieces_are_not(tmp_path: Path, shades: list[Any]) -> None:
    gaps = []
    for tokens in (["a", "b"], ["▁", "好", "看"]):
        weights = np.full(len(tokens), 1 / len(tokens))
        shades.clear()
        document(Trace((make_example(tokens, weights),), kind="test"), path=tmp_path / "text.png")
        (_, first), (_, second) = shades[-2:]
        gaps.append(second[0] - first[0] - first[2])
    assert gaps[0] > 0.02
    assert gaps[1] == pytest.approx(0, abs=1e-6)


def test_text_is_drawn_where_one_query_attends_to_many_words(tmp_path: Path) -> None:
    many, few = make_example(TEXT, np.eye(1, len(TEXT))), make_example(["▁a", "▁b"], [0.5, 0.5])
    grid = Example(
        named_axes={"label": ("label",), "cells": Grid(8, 8)},
        weights={"pool": np.full((1, 1, 64), 1 / 64, np.float32)},
        weight_axes={"pool": WeightAxes("label", "cells")},
    )
    assert [is_document(example, None) for example in (many, few, grid)] == [True, False, False]
    for number, example in enumerate((many, few)):
        draw_example(Trace((example,), kind="test"), tmp_path / f"{number}.png")
    widths = [np.asarray(Image.open(tmp_path / f"{number}.png")).shape[1] for number in (0, 1)]
    assert widths[0] > 1300 > 700 > widths[1]  # a page of text, and a matrix
    square = Example(
        named_axes={"text": tuple(TEXT)},
        weights={"layer.0": np.eye(len(TEXT), dtype=np.float32)[None]},
        weight_axes={"layer.0": WeightAxes("text", "text")},
    )
    with pytest.raises(BadData, match=r"layer.0 has 31 queries, and shaded text shows one: choose"):
        document(Trace((square,), kind="test"), path=tmp_path / "text.png")
