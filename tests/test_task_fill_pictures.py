"""The task `fill` for pictures: hidden cells, training, filled pictures, and what starts from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import qkv
import tiny
from picture_trainings import check_resumed_weights, fit
from qkv.data.pictures import HiddenBatch, HiddenPlan, hide_cells
from qkv.errors import QKVError
from qkv.model.masked_pictures import MaskedPictureModel
from qkv.model.patches import PatchConfig, join_patches, split_patches
from qkv.progress import NoProgress
from qkv.task.classify_pictures.pictures import read_splits
from qkv.task.learning_curve import read_monitor
from qkv.task.recipe import parse_recipe, read_recipe
from qkv.task.registry import find_task
from qkv.task.run_directory import read_run_recipe
from qkv.task.unlabelled_pictures import read_unlabelled_splits
from qkv.train.objective.reconstruction import Reconstruction
from qkv.view.sheet import GAP, draw_sheet
from tiny_pictures import TRAIN, class_files, encode, fill_pictures_recipe, noise, write_zip
from tiny_text import merged

CNN = {"kind": "cnn", "widths": [8, 8], "groups": 4}
PATCHES = {
    "kind": "patches",
    "patch": 2,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "feedforward": 16,
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_zip(tmp_path_factory.mktemp("pictures") / "x.zip", class_files(20))


def recipe_for(source: str, model: Any = None, **sections: Any) -> Any:
    raw = {
        "task": "fill",
        "data": {"train": {"pictures": source}, "pictures": {"size": 8}},
        "augment": {"crop": 1, "flip": True},
        "batch": {"pictures": 8},
        "model": model or PATCHES,
        "train": TRAIN,
    }
    return parse_recipe(merged(raw, sections), "the recipe")


def test_every_picture_hides_the_same_number_of_cells() -> None:
    for share, count in ((0.6, 10), (0.001, 1), (0.999, 15)):
        hidden = hide_cells([(0, i) for i in range(50)], (4, 4), share)
        assert hidden.shape == (50, 4, 4)
        assert (hidden.flatten(1).sum(1) == count).all()
    assert (
        len({tuple(row.tolist()) for row in hide_cells([(0, i) for i in range(50)], (4, 4), 0.6).flatten(1)})
        > 40
    )


def test_updates_are_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    recipe = fill_pictures_recipe(tmp_path)
    data = read_unlabelled_splits(recipe.data, 1, NoProgress())
    task = find_task(recipe.task)
    parsed = task.parse_files(task.learn_files(recipe, data, {}), tmp_path)
    plan: Any = task.build_training(recipe, data, parsed, NoProgress()).batches
    assert isinstance(plan, HiddenPlan)
    (one,) = plan.window(0, 1, 0, 1)
    for rank in range(2):
        (part,) = plan.window(0, 1, rank, 2)
        assert torch.equal(part.pictures, one.pictures[rank::2])
        assert torch.equal(part.hidden, one.hidden[rank::2])
    assert not torch.equal(one.hidden, plan.window(1, 1, 0, 1)[0].hidden[: len(one.hidden)])


def test_patches_are_split_and_joined() -> None:
    pictures = torch.rand(2, 3, 6, 9)
    patches, rows, columns = split_patches(pictures, 3)
    assert torch.equal(join_patches(patches, (rows, columns), 3), pictures)


def test_the_loss_is_that_of_hidden_pixels_alone() -> None:
    torch.manual_seed(0)
    model = MaskedPictureModel(PatchConfig(patch=2, layers=1, width=8, heads=2, feedforward=8, dropout=0.0))
    pictures = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    hidden = torch.zeros(2, 2, 2, dtype=torch.bool)
    hidden[0, 0, 1] = hidden[1, 1, 0] = hidden[1, 1, 1] = True
    with torch.no_grad():
        model.mask_colour.copy_(torch.tensor([1.0, 2.0, 3.0]))
        loss = Reconstruction(model)(HiddenBatch(pictures, hidden))
        painted = pictures.float() / 255
        scale = model.encoder.normalise
        for b in range(2):
            for y in range(4):
                for x in range(4):
                    if hidden[b, y // 2, x // 2]:
                        for c in range(3):
                            painted[b, c, y, x] = scale.mean[c] + scale.sd[c] * (c + 1)
        predicted = model.output(model.encoder(painted).vectors)
        expected = 0.0
        for b, cells in ((0, [1]), (1, [2, 3])):
            errors = [
                float(
                    (predicted[b, cell, c * 4 + y * 2 + x] - _target(model, pictures[b], cell, c, y, x)) ** 2
                )
                for cell in cells
                for c in range(3)
                for y in range(2)
                for x in range(2)
            ]
            expected += sum(errors) / len(errors)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert loss.count == 2


def _target(model: Any, picture: Any, cell: int, c: int, y: int, x: int) -> float:
    value = float(picture[c, 2 * (cell // 2) + y, 2 * (cell % 2) + x]) / 255
    return (value - float(model.encoder.normalise.mean[c])) / float(model.encoder.normalise.sd[c])


@pytest.mark.parametrize("model", [CNN, PATCHES])
def test_what_is_hidden_does_not_reach_the_prediction(model: dict[str, Any], source: str) -> None:
    recipe = recipe_for(source, model)
    network = MaskedPictureModel(recipe.model).eval()
    first = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    second, hidden = first.clone(), torch.zeros(1, 4, 4, dtype=torch.bool)
    second[:, :, 2:4, 4:6] = 255 - first[:, :, 2:4, 4:6]
    assert not torch.equal(network(first, hidden), network(second, hidden))
    hidden[0, 1, 2] = True
    assert torch.equal(network(first, hidden), network(second, hidden))


@pytest.fixture(scope="module")
def run(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fill") / "run"
    scores = fit(recipe_for(source, train={"steps": 60, "validate_every": 60}), folder).scores
    assert scores["mse"] < 0.5  # a picture is bright or dark, with noise of its own
    return folder


def test_hidden_cells_are_filled(run: Path, tmp_path: Path) -> None:
    loaded = qkv.load(run)
    pixels = np.asarray(noise(99, (8, 8), 200))
    filled = loaded.fill(pixels)
    cells = filled.hidden.repeat(2, 0).repeat(2, 1)
    assert filled.hidden.sum() == 10
    assert (filled.painted[cells] == 128).all()
    assert (filled.filled[~cells] == pixels[~cells]).all()
    assert abs(filled.filled[cells].mean() - 200) < 25
    assert (loaded.fill(pixels, seed=1).hidden != filled.hidden).any()
    chosen = np.zeros((4, 4), bool)
    chosen[0, 0] = True
    assert (loaded.fill(pixels, chosen).filled[2:] == pixels[2:]).all()
    for bad in (chosen[:2], chosen.astype(int)):
        with pytest.raises(QKVError, match=r"hidden is bool \[4, 4\], True at the cells to hide"):
            loaded.fill(pixels, bad)
    assert loaded.evaluate() == loaded.evaluate()


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, sheet = tmp_path / "a.png", tmp_path / "new" / "sheet.png"
    picture.write_bytes(encode(noise(1, (9, 14), 60)))
    assert tiny.call("generate", run, "--fill", picture, "--output", sheet) == 0
    with Image.open(sheet) as image:
        assert image.size == (8 * (3 * (8 + GAP) + GAP), 8 * (8 + 2 * GAP))
    assert tiny.call("evaluate", run) == 0
    assert "pictures\n  mse" in capsys.readouterr().out
    for arguments, message in (
        (("--fill", picture), "writes a picture, got --output None: name a .png file with --output"),
        (("--fill", tmp_path / "b.png", "-o", sheet), "b.png: cannot be read"),
        (("--fill", picture, "-o", sheet, "--trace", "a.npz"), "--trace has no meaning for"),
        (("--prompt", "a"), "which fills pictures: leave it out"),
        ((), "fills pictures: use `qkv generate"),
    ):
        assert tiny.call("generate", run, *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize("model", [CNN, {**PATCHES, "dropout": 0.1}])
def test_resuming_ends_with_the_same_weights(model: dict[str, Any], source: str, tmp_path: Path) -> None:
    recipe = recipe_for(source, model, train={"steps": 12})
    check_resumed_weights(recipe, tmp_path)


@pytest.mark.parametrize(("model", "pool"), [(CNN, "mean"), (PATCHES, "attention")])
def test_a_classifier_starts_from_the_encoder(model: Any, pool: str, source: str, tmp_path: Path) -> None:
    fit(recipe_for(source, model, train={"steps": 2}), tmp_path / "fill")
    raw = {
        "task": "classify",
        "data": {"train": {"pictures": source}, "pictures": {"size": 8}, "labels": 8},
        "model": {**model, "pool": pool},
        "train": {**TRAIN, "steps": 1, "lr": 1e-9},
    }
    fit(parse_recipe(raw, "the recipe"), tmp_path / "classify", initial=tmp_path / "fill")
    before, after = (qkv.load(tmp_path / name).model for name in ("fill", "classify"))
    for name, value in before.encoder.state_dict().items():
        torch.testing.assert_close(after.encoder.state_dict()[name], value, atol=1e-6, rtol=1e-4)
    if model is PATCHES:
        first = parse_recipe(merged(raw, {"model": {"pool": "first"}}), "the recipe")
        with pytest.raises(QKVError, match="class token before the patches, which only one of this model"):
            fit(first, tmp_path / "first", initial=tmp_path / "fill")
        larger = parse_recipe(merged(raw, {"data": {"pictures": {"size": 16}}}), "the recipe")
        with pytest.raises(QKVError, match="so that their learned positions stand for other patches"):
            fit(larger, tmp_path / "larger", initial=tmp_path / "fill")


def test_the_same_pictures_are_held_out_as_by_a_classifier(source: str) -> None:
    fill = read_unlabelled_splits(recipe_for(source).data, 3, NoProgress())
    raw = {"task": "classify", "data": {"train": {"pictures": source}, "pictures": {"size": 8}}}
    labelled = read_splits(parse_recipe(raw, "the recipe").data, 3, NoProgress())
    assert fill.valid.rows.tolist() == labelled.valid.rows.tolist()
    assert fill.train.rows.tolist() == labelled.train.rows.tolist()


def test_generated_shapes(tmp_path: Path) -> None:
    shapes = {"size": 16, "train": 40, "valid": 10, "test": 10}
    raw = {"task": "fill", "data": {"shapes": shapes}, "model": CNN, "train": {**TRAIN, "steps": 2}}
    fit(parse_recipe(raw, "the recipe"), tmp_path / "run")
    assert qkv.load(tmp_path / "run").evaluate()["mse"] > 0


def test_the_built_in_recipes_fit_each_other() -> None:
    for kind in ("cnn", "patches"):
        fill = read_recipe(f"mim-cifar-{kind}").model.model_dump()
        classify = read_recipe(f"classify-cifar-few-{kind}").model.model_dump()
        assert {key: classify[key] for key in fill if key != "dropout"} == {
            key: value for key, value in fill.items() if key != "dropout"
        }


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {**CNN, "widths": [8] * 4}}, "cannot be cut into cells of 8 × 8"),
        ({"model": {**PATCHES, "patch": 3}}, "cannot be split into patches of model.patch=3"),
        ({"model": {**PATCHES, "max_length": 9}}, "16 patches need more positions than model.max_length=9"),
        ({"objective": {"share": 1}}, "'objective.share' is 1: Input should be less than 1"),
        ({"data": {"shapes": {}}}, "give either 'train', pictures of your own, or 'shapes', generated ones"),
        ({"data": {"valid": {"picture": "x"}}}, "Did you mean 'pictures'"),
    ],
)
def test_recipes_that_do_not_fit(sections: dict[str, Any], message: str, source: str) -> None:
    with pytest.raises(QKVError, match=message):
        recipe_for(source, **sections)


def test_no_sheet_without_pictures() -> None:
    with pytest.raises(QKVError, match="there is no picture for the sheet"):
        draw_sheet([], 3)


def test_the_score_that_decides_is_drawn_and_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("compare", run, run) == 0
    assert "mse" in capsys.readouterr().out
    assert read_monitor(read_run_recipe(run)) == "mse"
