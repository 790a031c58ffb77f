"""`qkv train --from`: what it prints, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest

import qkv
import tiny
from tiny import Refused
from tiny_text import classify_recipe, fill_recipe, language_recipe

FEW = {"steps": 2, "warmup": 0, "validate_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recipes, and the runs of two of them."""
    folder = tmp_path_factory.mktemp("initial")
    makers: dict[str, Any] = {"lm": language_recipe, "mlm": fill_recipe, "labels": classify_recipe}
    for name, make in makers.items():
        recipe = make(folder, train=FEW)
        (folder / f"{name}.yaml").write_text(recipe.to_yaml())
        if name != "labels":
            qkv.fit(recipe, folder / name, quiet=True)
    return folder


def test_the_report_counts_what_was_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "run", "--from", folder / "mlm", "--set", "model.pool=attention")
    assert tiny.call("train", folder / "labels.yaml", *options) == 0
    lines = capsys.readouterr().err.splitlines()
    start = lines.index(f"weights from {folder / 'mlm'}, a run of the task 'fill':")
    kinds = [line.split()[0] for line in lines[start + 1 : start + 5]]
    assert kinds == ["loaded", "resized", "new", "unused"]
    assert "encoder.layers.*.norm.weight" in lines[start + 1]
    vocab = qkv.load(folder / "mlm").tokenizer.size
    assert f"encoder.embedding.weight ({vocab + 1:,} → {vocab:,} rows)" in lines[start + 2]
    assert re.fullmatch(r" +new +7 tensors, [\d,]+ values: pool.query, .*", lines[start + 3])
    assert (tmp_path / "run/initial.json").exists()
    # a resumed training takes nothing again
    assert tiny.call("train", folder / "labels.yaml", *options[:2], *options[4:], "--resume") == 0
    assert "weights from" not in capsys.readouterr().err


def test_another_attention_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change = "model.attention={kernel: {name: elu}}"
    options = ("--out", tmp_path / "run", "--from", folder / "lm", "--set", change)
    assert tiny.call("train", folder / "lm.yaml", *options) == 0
    assert "differs  model.attention.kernel.name: 'softmax' there, 'elu' here" in capsys.readouterr().err


@pytest.mark.parametrize(("feedforward", "is_told"), [(16, False), (400, True)])
def test_a_start_from_almost_nothing_is_told(
    feedforward: int, is_told: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--out",
        tmp_path / "run",
        "--from",
        folder / "lm",
        "--set",
        f"model.feedforward={feedforward}",
    )
    assert tiny.call("train", folder / "lm.yaml", *options) == 0
    line = "% of the values of this model are new, so that it starts almost from nothing"
    assert (line in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (
            "lm",
            ("--from", "mlm"),
            "a run of the task 'fill', and its model has no weights for the task 'generate'",
        ),
        ("labels", ("--from", "lm"), "start from a run of 'classify' or 'fill', or leave out --from"),
        ("lm", ("--from", "none"), "there is no run directory"),
        ("lm", ("--from", "lm", "--set", "tokens.kind=byte"), "tokens.kind is 'byte', but"),
        ("labels", ("--from", "mlm", "--set", "tokens.vocab=40"), "tokens.vocab is 40, but"),
        ("lm", ("--from", "lm", "--resume"), "there is no training to resume"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, refused: Refused, recipe: str, options: tuple[str, ...], message: str
) -> None:
    initial, *others = options[1:]
    arguments = ("--out", tmp_path / "run", "--from", folder / initial, *others)
    assert message in refused("train", folder / f"{recipe}.yaml", *arguments)
    assert not (tmp_path / "run").exists()
