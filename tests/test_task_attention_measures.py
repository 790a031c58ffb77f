"""`validation.attention`: the records of a training hold measures of its attention."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qkv
from qkv.task.attention_measures import average_measures, measure_examples
from qkv.task.recipe import parse_recipe, read_recipe
from qkv.trace import Example, WeightAxes
from qkv.train import METRICS
from qkv.view.measures import Measures
from tiny_text import classify_recipe, fill_recipe, language_recipe

ONCE = {"steps": 4, "validate_every": 2}
SENTENCES = {"kind": "hierarchical", "max_sentences": 4, "max_sentence_length": 6}
SHAPES = {
    "task": "classify",
    "data": {"shapes": {"size": 16, "train": 16, "valid": 4, "test": 4}, "label": "colour"},
    "batch": {"pictures": 8},
}


def read_measures(recipe: Any, run: Path) -> list[dict[str, float]]:
    """What every validation of a training recorded about its attention."""
    qkv.fit(recipe, run, quiet=True)
    records = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key.startswith("attention.")}
        for record in records
        if record["kind"] == "validation"
    ]


def list_keys(*layers: str, names: tuple[str, ...] = ("entropy", "diagonality", "coverage")) -> set[str]:
    return {f"attention.{layer}.{name}" for layer in layers for name in names}


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ({"layers": 2}, ("layer.0", "layer.1")),
        ({"attention": {"kernel": "elu"}}, ("layer.0",)),
        ({"mixer": "gru"}, ()),
    ],
)
def test_language_models(model: dict[str, Any], layers: tuple[str, ...], tmp_path: Path) -> None:
    recipe = language_recipe(tmp_path, model=model, train=ONCE, validation={"attention": 2})
    first, second = read_measures(recipe, tmp_path / "run")
    assert first.keys() == second.keys() == list_keys(*layers)
    assert all(0 < value < 4 for value in first.values())
    assert first != second or not layers


@pytest.mark.parametrize(
    ("model", "layers"),
    [({"pool": "attention"}, ("layer.0", "pool")), (SENTENCES, ("words.pool", "sentences.pool"))],
)
def test_classifiers_of_texts(model: dict[str, Any], layers: tuple[str, ...], tmp_path: Path) -> None:
    recipe = classify_recipe(tmp_path, model=model, train=ONCE, validation={"attention": 3})
    first, _ = read_measures(recipe, tmp_path / "run")
    assert list_keys(*layers) <= first.keys()
    assert all("words.1" not in key for key in first)


def test_classifiers_of_pictures_have_no_diagonality(tmp_path: Path) -> None:
    patches = {"kind": "patches", "patch": 4, "layers": 1, "width": 8, "heads": 2, "feedforward": 16}
    for model, keys in (
        ({**patches, "pool": "mean"}, list_keys("layer.0", names=("entropy", "coverage"))),
        ({"kind": "cnn", "widths": [8], "blocks": 1}, set()),
    ):
        raw = {**SHAPES, "model": model, "train": ONCE, "validation": {"attention": 2}}
        run = tmp_path / str(len(keys))
        first, _ = read_measures(parse_recipe(raw, "the recipe"), run)
        assert first.keys() == keys


@pytest.mark.parametrize("count", [1, 2, 10**6])
def test_masked_language_models(count: int, tmp_path: Path) -> None:
    recipe = fill_recipe(tmp_path, train=ONCE, validation={"attention": count})
    first, second = read_measures(recipe, tmp_path / "run")
    assert first.keys() == second.keys() == list_keys("layer.0")
    assert 0 < first["attention.layer.0.entropy"] < np.log(recipe.batch.length)
    assert first != second


CNN = "{kind: cnn, widths: [4, 8], groups: 2}"
PATCHES = "{kind: patches, patch: 4, layers: 1, width: 8, heads: 2, feedforward: 16}"
SIZES = "layers: 1, width: 8, heads: 2, feedforward: 8"


@pytest.mark.parametrize(
    ("model", "on_grid", "over_words"),
    [
        (f"{{kind: rnn, encoder: {CNN}, embedding: 8, hidden: 12}}", ("cross.0",), ()),
        (f"{{kind: rnn, encoder: {CNN}, embedding: 8, hidden: 12, attention: null}}", (), ()),
        (
            f"{{kind: transformer, encoder: {PATCHES}, {SIZES}}}",
            ("encoder.layer.0", "cross.0"),
            ("decoder.0",),
        ),
    ],
)
def test_captioners(
    model: str, on_grid: tuple[str, ...], over_words: tuple[str, ...], tmp_path: Path
) -> None:
    changes = ["data={shapes: {size: 16, train: 40, valid: 10, test: 12}}", "batch={pictures: 8}"]
    changes += [f"model={model}", f"train={ONCE}", "validation={attention: 3, decode: 0}"]
    first, second = read_measures(read_recipe("caption-shapes-soft", changes), tmp_path / "run")
    assert first.keys() == second.keys()
    assert first != second or not first
    assert first.keys() == list_keys(*on_grid, names=("entropy", "coverage")) | list_keys(*over_words)


def test_nothing_is_measured_by_default(tmp_path: Path) -> None:
    assert read_measures(language_recipe(tmp_path, train=ONCE), tmp_path / "run") == [{}, {}]


def test_measures_are_means_over_heads_and_sentences() -> None:
    uniform, sharp = np.full((1, 1, 4), 0.25), np.eye(1, 4)[None]
    axes = {"query": ("q",), **{f"sentence {n}": ("a", "b", "c", "d") for n in (1, 2)}}
    weights = {"words.1.pool": uniform, "words.2.pool": sharp}
    weight_axes = {f"words.{n}.pool": WeightAxes("query", f"sentence {n}") for n in (1, 2)}
    measured = measure_examples([Example(axes, weights, weight_axes)])
    assert measured["attention.words.pool.entropy"] == pytest.approx(np.log(4) / 2)
    assert measured["attention.words.pool.coverage"] == pytest.approx(0.25)
    on_grid = Measures(1.0, 0.5, None, None, 0.5, 0.1)
    assert average_measures([("x", on_grid)]) == {"attention.x.entropy": 1.0, "attention.x.coverage": 0.5}
