"""The command line: runs that are damaged or incomplete."""

from pathlib import Path

import pytest

import tiny
from tiny import Refused


def test_a_run_that_is_none(tmp_path: Path, refused: Refused) -> None:
    for command in ("translate", "evaluate"):
        assert "no run directory" in refused(command, tmp_path / "none")
        assert "is not a finished run (recipe.yaml: No such file" in refused(command, tmp_path)


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing(name: str, broken: Path, refused: Refused) -> None:
    (broken / name).unlink()
    said = refused("translate", broken, stdin=b"one\n")
    assert "is not a finished run" in said
    assert name in said


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_cut_short(name: str, share: float, broken: Path, refused: Refused) -> None:
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: int(len(whole) * share)])
    said = refused("translate", broken, stdin=b"one\n")
    assert f"{broken / name}" in said
    assert "damaged" in said


def test_weights_of_another_model(broken: Path, refused: Refused) -> None:
    path = broken / "recipe.yaml"
    path.write_text(path.read_text().replace("hidden: 32", "hidden: 16"))
    assert "model.safetensors belongs to another model" in refused("translate", broken, stdin=b"one\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "recipe.yaml", "training/state.pt"])
def test_resuming_from_a_file_that_is_cut_short(name: str, broken: Path, run: Path, refused: Refused) -> None:
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: len(whole) // 2])
    before = tiny.tree(broken)
    said = refused("train", run.parent / "tiny.yaml", "--out", broken, "--resume")
    assert str(broken / name) in said
    assert "damaged" in said
    assert tiny.tree(broken) == before
