"""The task `generate` for pictures: training of a GAN, samples, sheets, distances, traces, exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import qkv
import tiny
from picture_trainings import check_resumed_weights, fit
from qkv.errors import QKVError
from qkv.progress import NoProgress
from qkv.task.registry import find_task
from qkv.task.unlabelled_pictures import read_unlabelled_splits
from qkv.trace import Trace
from qkv.view.sheet import GAP
from tiny_pictures import encode, gan_recipe, noise, picture_recipe, write_folder

STEPS = 20


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    fit(picture_recipe(folder, train={"steps": 5}), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan")
    recipe = gan_recipe(folder, validation={"features": str(features)})
    scores = fit(recipe, folder / "run").scores
    assert scores["fid"] >= 0
    assert scores["updates"] in (10, STEPS)
    return folder / "run"


def test_sheets_are_written_while_training(run: Path) -> None:
    sheets = sorted(path.name for path in (run / "samples").iterdir())
    assert sheets == ["000010.png", "000020.png"]
    assert size_of(run / "samples" / sheets[0]) == (8 * (2 * (8 + GAP) + GAP),) * 2


def test_samples_depend_on_the_seed_alone(run: Path) -> None:
    loaded = qkv.load(run)
    pictures = loaded.generate(70, seed=3)
    assert pictures.shape == (70, 8, 8, 3)
    assert pictures.dtype == np.uint8
    assert np.array_equal(loaded.generate(2, seed=3), pictures[:2])
    assert not np.array_equal(loaded.generate(2, seed=4), pictures[:2])
    with pytest.raises(QKVError, match="count=0: generate at least one"):
        loaded.generate(0)


def test_training_moves_the_samples_towards_the_pictures(tmp_path: Path) -> None:
    """All pictures are red: the generator leaves grey."""
    files = {}
    for i in range(20):
        pixels = np.asarray(noise(i, (8, 8), 60)).copy()
        pixels[..., 0] += 120
        files[f"{i}.png"] = encode(Image.fromarray(pixels))
    recipe = gan_recipe(
        tmp_path,
        data={"train": {"pictures": write_folder(tmp_path / "red", files)}},
        model={"self_attention": None},
        train={"steps": 60, "validate_every": 60, "lr": 0.004},
    )
    fit(recipe, tmp_path / "run")
    means = qkv.load(tmp_path / "run").generate(16).mean((0, 1, 2))
    assert means[0] > 150  # 191
    assert means[1:].max() < 95  # 61


def test_the_score_is_that_of_held_out_pictures(
    run: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("evaluate", run, "--features", features) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 pictures\n  fid ")
    assert "fid_train" in printed
    assert tiny.call("evaluate", run) == 0
    assert capsys.readouterr().out == printed


def test_the_trace_of_query_points(run: Path) -> None:
    trace = qkv.load(run).trace_points(picture="a.png")
    example = trace.examples[0]
    assert example.weights["self.0"].shape == (1, 5, 16)  # 8 × 8 cells, pooled keys
    assert example.named_axes["query points"] == ("(4, 4)", "(2, 2)", "(2, 5)", "(5, 2)", "(5, 5)")
    other = qkv.load(run).trace_points([(0, 0)], number=1)
    assert other.examples[0].weights["self.0"].shape == (1, 1, 16)


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet, trace = tmp_path / "sheet.png", tmp_path / "points.npz"
    assert tiny.call("generate", run, "--count", 6, "--seed", 1, "--output", sheet, "--trace", trace) == 0
    assert size_of(sheet) == (8 * (2 * (8 + GAP) + GAP), 8 * (3 * (8 + GAP) + GAP))
    cells: Any = Trace.load(trace).examples[0].named_axes["cells"]
    assert cells.picture == str(tmp_path / "points-picture.png")
    assert (tmp_path / "points-picture.png").exists()
    capsys.readouterr()
    for arguments, message in (
        ((), "writes a picture, got --output None: name a .png file"),
        (("--output", tmp_path / "a.txt"), "name a .png file with --output"),
        (
            ("--prompt", "a cat", "--output", sheet),
            "which generates pictures from noise: leave it out",
        ),
        (("--fill", "a.png", "--output", sheet), "generates pictures"),
    ):
        assert tiny.call("generate", run, *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_resuming_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = gan_recipe(tmp_path, train={"steps": 12, "validate_every": 4})
    check_resumed_weights(recipe, tmp_path)
    first, second = (
        torch.load(tmp_path / name / "training/state.pt", weights_only=True) for name in ("complete", "parts")
    )
    assert int(first["weights"]["turns"]) == 24
    for network, state in first["optimizer"].items():
        for number, moments in state["state"].items():
            for name, value in moments.items():
                assert torch.equal(value, second["optimizer"][network]["state"][number][name])
    for sheet in ("000004.png", "000008.png", "000012.png"):
        files = [tmp_path / name / "samples" / sheet for name in ("complete", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_two_learning_rates_and_their_networks(tmp_path: Path) -> None:
    recipe = gan_recipe(tmp_path, objective={"rate_ratio": 3.0})
    task = find_task(recipe.task)
    data = read_unlabelled_splits(recipe.data, 1, NoProgress())
    objective: Any = task.build_training(recipe, data, None, NoProgress()).objective
    optimizers = objective.optimizers(recipe.train, "cpu")
    assert list(optimizers) == ["discriminator", "generator"]
    rates = {name: {group["lr"] for group in each.param_groups} for name, each in optimizers.items()}
    assert rates == {"discriminator": {3 * recipe.train.lr}, "generator": {recipe.train.lr}}


def test_updates_are_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    recipe = gan_recipe(tmp_path)
    data = read_unlabelled_splits(recipe.data, 1, NoProgress())
    plan = find_task(recipe.task).build_training(recipe, data, None, NoProgress()).batches
    (one,) = plan.window(0, 1, 0, 1)
    assert one.noise.shape == (5, 2, 4)
    assert not torch.equal(one.noise[:, 0], one.noise[:, 1])
    for rank in range(2):
        (part,) = plan.window(0, 1, rank, 2)
        assert torch.equal(part.noise, one.noise[rank::2])
        assert torch.equal(part.pictures, one.pictures[rank::2])
    assert not torch.equal(one.noise, plan.window(1, 1, 0, 1)[0].noise)


def test_without_attention_or_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = gan_recipe(
        tmp_path, model={"self_attention": None}, train={"steps": 2}, validation={"samples": 0}
    )
    assert fit(recipe, tmp_path / "run").scores == {"updates": 2}
    assert not (tmp_path / "run" / "samples").exists()
    with pytest.raises(QKVError, match="this generator has no attention to trace"):
        qkv.load(tmp_path / "run").trace_points()
    capsys.readouterr()
    assert tiny.call("evaluate", tmp_path / "run") == 2
    assert "name its run with --features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"pictures": {"size": 16}}}, "makes pictures of 8 pixels, but those of the data have 16"),
        ({"model": {"self_attention": {"after": 3}}}, "self_attention.after=3, but there are 2 maps"),
        ({"objective": {"rate_ratio": 0}}, "'objective.rate_ratio' is 0: Input should be greater than 0"),
        ({"model": {"width": [8]}}, "Did you mean 'widths'"),
    ],
)
def test_recipes_that_do_not_fit(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=message):
        gan_recipe(tmp_path, **sections)


def test_features_that_do_not_fit(run: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match="features come from a classifier of pictures, got a PictureGenerator"):
        fit(gan_recipe(tmp_path, validation={"features": str(run)}), tmp_path / "run")
    recipe = picture_recipe(tmp_path, data={"pictures": {"size": 16}}, train={"steps": 1})
    fit(recipe, tmp_path / "large")
    with pytest.raises(QKVError, match="reads pictures of 16 pixels, but 8 are generated"):
        fit(gan_recipe(tmp_path, validation={"features": str(tmp_path / "large")}), tmp_path / "run")
    assert tiny.call("evaluate", features, "--features", features) == 2
