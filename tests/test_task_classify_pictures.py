"""The task `classify` for pictures: training, labels, scores, traces, exact resume, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qkv
import tiny
from picture_trainings import check_resumed_weights, fit, load_weights
from qkv.errors import QKVError
from qkv.task.recipe import parse_recipe
from tiny_pictures import (
    TRAIN,
    check_bad_files_are_left_out,
    class_files,
    encode,
    noise,
    write_folder,
    write_zip,
)
from tiny_text import classify_recipe, merged

CNN = {"kind": "cnn", "widths": [8, 8], "groups": 4}
PATCHES = {
    "kind": "patches",
    "patch": 4,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "feedforward": 16,
    "dropout": 0.0,
}


def recipe_for(source: str, model: Any = None, **sections: Any) -> Any:
    raw = {
        "task": "classify",
        "data": {"train": {"pictures": source}, "pictures": {"size": 8}},
        "augment": {"crop": 1, "flip": True},
        "batch": {"pictures": 8},
        "train": TRAIN,
    }
    kind = PATCHES if model and model.get("kind") == "patches" else CNN
    return parse_recipe(merged({**raw, "model": kind}, {**sections, "model": model or {}}), "the recipe")


def shapes_recipe(**sections: Any) -> Any:
    data = {"shapes": {"size": 16, "train": 60, "valid": 20, "test": 20}, "label": "colour"}
    raw = {"task": "classify", "data": data, "batch": {"pictures": 8}, "model": CNN, "train": TRAIN}
    return parse_recipe(merged(raw, sections), "the recipe")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_zip(tmp_path_factory.mktemp("pictures") / "x.zip", class_files(20))


@pytest.fixture(scope="module")
def run(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify") / "run"
    fit(recipe_for(source, model={"pool": "attention"}), folder)
    return folder


@pytest.mark.parametrize(
    "model",
    [
        {**CNN, "pool": "attention"},
        {**CNN, "norm": "batch"},
        *({**PATCHES, "pool": p} for p in ("mean", "first")),
    ],
)
def test_training_learns_the_label(model: dict[str, Any], source: str, tmp_path: Path) -> None:
    recipe = recipe_for(source, model)
    assert fit(recipe, tmp_path / "run").scores["accuracy"] == 1
    loaded = qkv.load(tmp_path / "run")
    pixels = np.asarray(noise(99, (8, 8), 200))
    assert loaded.classify(pixels).label == "bright"


def test_labels_of_files_and_of_pixels(run: Path, tmp_path: Path) -> None:
    loaded = qkv.load(run)
    pixels = np.asarray(noise(99, (8, 8), 60))
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(99, (8, 8), 60)))
    label, same = loaded.classify(pixels), loaded.classify(path)
    assert label == same == loaded.classify(str(path))
    assert loaded.classify([pixels, path])[1].probabilities == pytest.approx(label.probabilities)
    assert label.label == "dark"
    assert sum(label.probabilities.values()) == pytest.approx(1)
    assert loaded.classify([]) == []
    for bad, message in (
        (pixels[:4], r"pixels of this model are uint8 \[8, 8, 3\], got uint8 \[4, 8, 3\]"),
        (pixels.astype(np.float32), "got float32"),
        (tmp_path / "b.png", "cannot be read"),
        (Path(__file__), "cannot be used: not a picture"),
    ):
        with pytest.raises(QKVError, match=message):
            loaded.classify(bad)


def test_scores_are_those_of_the_held_out_pictures(run: Path, source: str) -> None:
    loaded = qkv.load(run)
    scores = loaded.evaluate()
    assert scores["accuracy"] == scores["f1"] == 1
    assert 0.5 <= scores["majority"] <= 1
    assert loaded.classify([]) == []


def test_a_trace_lies_on_the_grid(run: Path, source: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(99, (8, 8), 60)))
    example = qkv.load(run).trace(path).examples[0]
    assert example.weights["pool"].shape == (1, 1, 16)
    grid = example.named_axes["picture 4×4"]
    assert set(example.named_axes) == {"label", "picture 4×4"}
    assert (grid.height, grid.width, grid.picture) == (4, 4, str(path))
    for pool, length in (("mean", 4), ("first", 5)):
        fit(recipe_for(source, model={**PATCHES, "pool": pool}, train={"steps": 1}), tmp_path / pool)
        example = qkv.load(tmp_path / pool).trace(path).examples[0]
        assert example.weights["layer.0"].shape == (2, length, length)
    sagan = {"self_attention": {"after": 1, "form": "sagan"}}
    fit(recipe_for(source, model=sagan, train={"steps": 1}), tmp_path / "sagan")
    example = qkv.load(tmp_path / "sagan").trace(path).examples[0]
    assert example.weights["map"].shape == (1, 64, 16)
    assert set(example.named_axes) == {"label", "picture 8×8", "picture 4×4"}
    fit(recipe_for(source, train={"steps": 1}), tmp_path / "plain")
    with pytest.raises(QKVError, match="no attention to trace"):
        qkv.load(tmp_path / "plain").trace(path)


@pytest.mark.parametrize(
    "model",
    [
        {"self_attention": {"after": 1, "form": "sagan"}},
        {"norm": "batch", "dropout": 0.1},
        {**PATCHES, "dropout": 0.1},
    ],
)
def test_resuming_ends_with_the_same_weights(model: dict[str, Any], source: str, tmp_path: Path) -> None:
    recipe = recipe_for(source, model=model)
    check_resumed_weights(recipe, tmp_path)


def test_augmentation_changes_training_but_not_held_out_pictures(source: str, tmp_path: Path) -> None:
    for name, augment in (("with", {"crop": 2}), ("without", {"crop": 0, "flip": False})):
        fit(recipe_for(source, augment=augment, train={"steps": 2}), tmp_path / name)
    first, second = load_weights(tmp_path / "with", tmp_path / "without")
    assert not torch.equal(first["model.output.weight"], second["model.output.weight"])
    loaded = qkv.load(tmp_path / "with")
    assert loaded.evaluate() == loaded.evaluate()


def test_a_folder_and_a_zip_file_train_the_same(source: str, run: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", class_files(20))
    fit(recipe_for(folder, model={"pool": "attention"}, data={"pictures": {"workers": 1}}), tmp_path / "run")
    first, second = load_weights(run, tmp_path / "run")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_generated_shapes(tmp_path: Path) -> None:
    fit(shapes_recipe(), tmp_path / "run")
    loaded = qkv.load(tmp_path / "run")
    assert set(loaded.classes) == {"red", "orange", "yellow", "green", "blue", "purple", "black"}
    assert 0 <= loaded.evaluate()["accuracy"] <= 1
    with pytest.raises(QKVError, match=r"another data.shapes"):
        fit(shapes_recipe(data={"shapes": {"seed": 1}}), tmp_path / "run", resume=True)


def test_other_pictures_are_not_resumed(source: str, tmp_path: Path) -> None:
    recipe = recipe_for(source, train={"steps": 2})
    fit(recipe, tmp_path / "run")
    files = class_files(20)
    for changed, message in (
        ({"dark/005.png": encode(noise(7))}, "has other pictures, or its pictures in another order"),
        ({f"dark/{i}.png": encode(noise(i)) for i in range(30)}, "has 63 pictures, not 36"),
    ):
        other = write_zip(tmp_path / "other.zip", {**files, **changed})
        with pytest.raises(QKVError, match=message):
            fit(recipe_for(other, train={"steps": 3}), tmp_path / "run", resume=True)


def test_only_so_many_labels_of_each_class(source: str, tmp_path: Path) -> None:
    from qkv.progress import NoProgress
    from qkv.task.classify_pictures.pictures import read_splits

    train = read_splits(recipe_for(source, data={"labels": 8}).data, 1, NoProgress()).train
    assert sorted(train.used_labels) == ["bright"] * 4 + ["dark"] * 4


def test_weights_of_other_classes_start_a_training(run: Path, tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": encode(noise(i)) for name in "abc" for i in range(5)}
    source = write_zip(tmp_path / "x.zip", files)
    recipe = recipe_for(source, model={"pool": "attention"}, train={"steps": 1, "lr": 1e-9})
    fit(recipe, tmp_path / "run", initial=run)
    before, after = (qkv.load(path).model for path in (run, tmp_path / "run"))
    torch.testing.assert_close(after.encoder.stem.weight, before.encoder.stem.weight)
    assert after.output.weight.shape[0] == 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"shapes": {}}}, "give either 'train', pictures of your own, or 'shapes', generated ones"),
        (
            {"data": {"pictures": {"size": 10}}, "model": PATCHES},
            "cannot be split into patches of model.patch=4",
        ),
        (
            {"model": {**PATCHES, "max_length": 3}},
            "4 patches need more positions than model.max_length=3 holds",
        ),
        ({"model": {**PATCHES, "max_length": 4, "pool": "first"}}, "5 patches need more positions"),
        ({"model": {"widths": [8] * 5}}, "pictures of 8 pixels are smaller than 16"),
        ({"model": {"self_attention": {"after": 3}}}, "self_attention.after=3, but there are 2 stages"),
        (
            {"model": {"self_attention": {"attention": {"causal": True}}}},
            "causal must be False in an encoder",
        ),
        ({"model": {"widths": [6]}}, "groups=4 do not divide the width 6"),
        ({"data": {"picturse": {}}}, "Did you mean 'pictures'"),
        ({"augment": {"crop": -1}}, "'augment.crop' is -1"),
    ],
)
def test_recipes_that_do_not_fit(sections: dict[str, Any], message: str, source: str) -> None:
    with pytest.raises(QKVError, match=message):
        recipe_for(source, **sections)


def test_flips_would_exchange_left_and_right() -> None:
    with pytest.raises(QKVError, match=r"augment.flip exchanges left and right"):
        shapes_recipe(data={"label": "place"}, augment={"flip": True})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.png": encode(noise(0)), "x/b.png": encode(noise(1))},
            "1 picture is in no folder, the first is a.png",
        ),
        ({f"x/{i}.png": encode(noise(i)) for i in range(20)}, "every training picture has the label 'x'"),
        ({f"{i % 2}/{i}.png": encode(noise(i)) for i in range(4)}, "4 pictures are too few to hold any out"),
        ({f"{i % 2}/{i}.png": b"" for i in range(4)}, "4 of 4 pictures cannot be used"),
    ],
)
def test_bad_folders(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=message):
        fit(recipe_for(write_zip(tmp_path / "x.zip", files)), tmp_path / "run")


def test_a_label_that_training_does_not_have(source: str, run: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "x", {"grey/a.png": encode(noise(0))})
    recipe = recipe_for(source, data={"valid": {"pictures": other}})
    with pytest.raises(QKVError, match="no picture of the training has the label 'grey'"):
        fit(recipe, tmp_path / "run")
    assert tiny.call("evaluate", run, "--data", other) == 2


def test_files_that_are_no_pictures_are_left_out_and_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_bad_files_are_left_out("classify", run, tmp_path, capsys)


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, level in zip(paths, (60, 200), strict=True):
        path.write_bytes(encode(noise(1, (9, 14), level)))
    capsys.readouterr()
    trace = tmp_path / "trace.npz"
    assert tiny.call("classify", run, *paths, "--trace", trace) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[2]) for line in lines] == [("dark", str(paths[0])), ("bright", str(paths[1]))]
    assert trace.exists()
    assert tiny.call("evaluate", run) == 0
    assert "4 pictures\n  accuracy               1.0000" in capsys.readouterr().out
    for arguments, message in (
        ((run,), "labels pictures: name the files behind it"),
        ((run, tmp_path / "c.png"), "c.png: cannot be read (No such file or directory)"),
        ((run, *[paths[0]] * 21, "--trace", trace), "pass at most 20 pictures, got 21"),
    ):
        assert tiny.call("classify", *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_classifier_of_texts_takes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(classify_recipe(tmp_path, train={"steps": 1}), tmp_path / "run")
    assert tiny.call("classify", tmp_path / "run", tmp_path / "a", tmp_path / "b") == 2
    assert "labels the lines of one file, got 2 files: join them" in capsys.readouterr().err
