"""The task `caption` with grids of features from files in place of pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import qkv
import tiny
from caption_cases import LEARN
from picture_trainings import fit, load_weights
from qkv.data.pictures.grids import read_grids
from qkv.errors import QKVError
from qkv.task.recipe import parse_recipe
from tiny_pictures import caption_files, caption_recipe
from tiny_text import merged


def write_grids(folder: Path, suffix: str = ".npz", count: int = 20) -> str:
    """Grids whose vectors say whether the picture is bright."""
    random, path = np.random.RandomState(0), folder / f"grids{suffix}"
    grids = {
        name: (random.randn(2, 3, 4) / 8 + name.startswith("bright")).astype(np.float32)
        for name in caption_files(count)[0]
    }
    if suffix == ".npz":
        np.savez(path, **grids)  # pyright: ignore[reportArgumentType]
    else:
        save_file(grids, path)
    return str(path)


def grid_recipe(folder: Path, grids: str, **sections: Any) -> Any:
    raw = caption_recipe(folder).model_dump(mode="json")
    changes = {"data": {"train": {"pictures": grids}}, "augment": {"crop": 0, "flip": False}, "train": LEARN}
    raw = {**raw, "model": {**raw["model"], "encoder": {"kind": "grid", "width": 4}}}
    return parse_recipe(merged(merged(raw, changes), sections), "the recipe")


def test_grids_from_files_are_captioned_like_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grids(tmp_path)
    fit(grid_recipe(tmp_path, path), tmp_path / "run")
    captioner = qkv.load(tmp_path / "run")
    captions = captioner.caption(path)
    names = sorted(caption_files()[0])
    assert sum(name.partition("-")[0] in text for name, text in zip(names, captions, strict=True)) >= 38
    assert captioner.evaluate(beam=1)["bleu1"] > 60
    with np.load(path) as grids:
        assert captioner.caption(grids[names[3]]) == captions[3]
    example = captioner.trace(path).examples[3]
    assert (example.named_axes["picture 2×3"].picture, example.meta["line"]) == (names[3], 4)
    assert tiny.call("caption", tmp_path / "run", path) == 0
    assert capsys.readouterr().out.splitlines()[3] == f"{captions[3]}\t{names[3]}"
    with pytest.raises(QKVError, match=r"floating-point \[rows, columns, 4\], got float64 \[2, 3, 5\]"):
        captioner.caption(np.zeros((2, 3, 5)))
    few = {"steps": 4, "validate_every": 4}
    for name, suffix in (("first", ".npz"), ("second", ".safetensors")):
        fit(grid_recipe(tmp_path, write_grids(tmp_path, suffix), train=few), tmp_path / name)
    first, second = load_weights(tmp_path / "first", tmp_path / "second")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_grids_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_grids(tmp_path)
    for sections, message in (
        ({"data": {"train": {"pictures": "x.zip"}}}, "x.zip does not fit model.encoder of kind grid"),
        ({"augment": {"crop": 1}}, "augment changes pictures, and model.encoder reads grids"),
    ):
        with pytest.raises(QKVError, match=message):
            grid_recipe(tmp_path, path, **sections)
    good = np.zeros((2, 3, 4), np.float32)
    for arrays, message in (
        ({"a": good, "b": good[:1]}, r"b is float32 \[1, 3, 4\], but the first grid is float32 \[2, 3, 4\]"),
        ({"a": good.astype(int)}, r"a: expected a grid .* got int64"),
        ({"a": good, "b": good + np.nan}, "b holds values that are not finite"),
        ({}, "has no grid of these pictures"),
    ):
        np.savez(tmp_path / "bad.npz", **arrays)  # pyright: ignore[reportArgumentType]
        with pytest.raises(QKVError, match=message):
            read_grids(tmp_path / "bad.npz")
    for content in (b"", b"no", (tmp_path / "bad.npz").read_bytes()[:20]):
        for name in ("bad.npz", "bad.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(QKVError, match="cannot be read as grids"):
                read_grids(tmp_path / name)
    with pytest.raises(QKVError, match=r"grids have the shape \[batch, height, width, 5\]"):
        fit(grid_recipe(tmp_path, path, model={"encoder": {"width": 5}}), tmp_path / "run")
