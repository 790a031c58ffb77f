"""The section `transfer`: from a softmax run to a linear one, with exact resume."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import qkv
import tiny
from qkv.errors import BadRecipe, BadRun
from qkv.train import STATE
from test_train_loop import lines_of
from tiny_text import language_recipe

ELU = {"attention": {"kernel": {"name": "elu"}}}


@pytest.fixture(scope="module")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("softmax")
    qkv.fit(language_recipe(folder, train={"steps": 120, "validate_every": 60}), folder / "run", quiet=True)
    return folder / "run"


def transfer_recipe(folder: Path, steps: int = 40, **sections: Any) -> Any:
    train = {"steps": steps, "validate_every": 20, "log_every": 10}
    return language_recipe(folder, model=ELU, transfer={"match": "outputs"}, train=train, **sections)


def test_transfer_then_fine_tuning(softmax: Path, tmp_path: Path) -> None:
    recipe = transfer_recipe(tmp_path)
    result = qkv.fit(recipe, tmp_path / "matched", initial=softmax, quiet=True)
    mismatches = [line["mismatch"] for line in lines_of(tmp_path / "matched", "train")]
    assert mismatches[-1] < 0.8 * mismatches[0]
    untrained = language_recipe(tmp_path, model=ELU, train={"steps": 1, "lr": 1e-9})
    before = qkv.fit(untrained, tmp_path / "untrained", initial=softmax, quiet=True)
    assert result.scores["nll"] < before.scores["nll"]
    fine = language_recipe(tmp_path, model=ELU, train={"steps": 30})
    tuned = qkv.fit(fine, tmp_path / "tuned", initial=tmp_path / "matched", quiet=True)
    assert tuned.scores["nll"] < result.scores["nll"]
    assert isinstance(qkv.load(tmp_path / "matched").generate("ann "), str)


def test_transfer_resumes_exactly_without_the_trained_run(softmax: Path, tmp_path: Path) -> None:
    initial = shutil.copytree(softmax, tmp_path / "softmax")
    qkv.fit(transfer_recipe(tmp_path, 24), tmp_path / "whole", initial=initial, quiet=True)
    qkv.fit(transfer_recipe(tmp_path, 11), tmp_path / "parts", initial=initial, quiet=True)
    shutil.rmtree(initial)
    qkv.fit(transfer_recipe(tmp_path, 24), tmp_path / "parts", resume=True, quiet=True)
    whole, parts = (
        torch.load(tmp_path / name / STATE, weights_only=True)["weights"] for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    plain = language_recipe(tmp_path, model=ELU, train={"steps": 30, "validate_every": 20, "log_every": 10})
    with pytest.raises(BadRun, match="was trained with another transfer"):
        qkv.fit(plain, tmp_path / "parts", resume=True, quiet=True)


def test_what_transfer_needs(softmax: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="name that run with --from"):
        qkv.fit(transfer_recipe(tmp_path), tmp_path / "run", quiet=True)
    same = language_recipe(tmp_path, transfer={})
    with pytest.raises(BadRecipe, match="nothing to match"):
        qkv.fit(same, tmp_path / "run", initial=softmax, quiet=True)
    with pytest.raises(BadRecipe, match="transfer reads every segment on its own"):
        language_recipe(tmp_path, model={**ELU, "positions": "none"}, transfer={}, batch={"carry": True})
    assert not (tmp_path / "run").exists()


def test_a_translator_after_transfer(tmp_path: Path) -> None:
    model = {"kind": "transformer", "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    train = {"steps": 4, "precision": "32", "threads": 1, "log_every": 2}
    recipe = tiny.recipe_in(tmp_path, model=model, train=train)
    qkv.fit(recipe, tmp_path / "softmax", quiet=True)
    changes = ["model.cross={kernel: {name: rfa, features: 8}}", "transfer.match=weights"]
    qkv.fit(recipe, tmp_path / "matched", changes=changes, initial=tmp_path / "softmax", quiet=True)
    assert "mismatch" in lines_of(tmp_path / "matched", "train")[0]
    qkv.fit(recipe, tmp_path / "tuned", changes=changes[:1], initial=tmp_path / "matched", quiet=True)
    assert isinstance(qkv.load(tmp_path / "tuned").translate("one two"), str)


def test_a_run_of_a_version_without_the_section_loads(softmax: Path, tmp_path: Path) -> None:
    old = shutil.copytree(softmax, tmp_path / "old")
    text = (old / "recipe.yaml").read_text()
    assert "transfer: null\n" in text
    (old / "recipe.yaml").write_text(text.replace("transfer: null\n", ""))
    assert isinstance(qkv.load(old).generate("ann "), str)
