"""What goes with a run stays with it: its data, its recipe, its tokenizer, its weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import qkv
import tiny
from qkv.errors import BadRun
from qkv.task.training import fit
from qkv.train.checkpoint import STATE
from qkv.train.update import Updater

TRAIN = {"epochs": 1, "lr": 0.02, "warmup": 5, "precision": "32"}
FILES = ("recipe.yaml", "tokenizer.json", "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fit(tiny.recipe_in(folder, train=TRAIN), folder / "run", quiet=True)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to damage."""
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was interrupted in its first epoch, beside its recipe and its corpus."""
    recipe = tiny.recipe_in(tmp_path, train=TRAIN)
    update = Updater.update

    def interrupted(self: Updater, batches: Any, loop_state: Any, metric_sums: Any) -> None:
        if loop_state.step == 3:
            raise KeyboardInterrupt
        update(self, batches, loop_state, metric_sums)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, tmp_path / "run", changes=["train.save_every_seconds=0"], quiet=True)
    return tmp_path / "run"


def resume(run: Path, *changes: str, recipe: Path | None = None) -> None:
    always = ["train.save_every_seconds=0"]
    fit(recipe or run.parent / "tiny.yaml", run, changes=[*always, *changes], resume=True, quiet=True)


# ---- the data ----


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for side in ("en", "fr"):
            path = folder / f"{name}.{side}"
            path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def reworded(folder: Path) -> None:
    path = folder / "train.fr"
    path.write_text(path.read_text().replace("trois", "quatre", 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            edit("train", lambda lines: lines[:60]),
            "training data changed.*train.source has 60 lines, not 300",
        ),
        (edit("train", lambda lines: lines * 2), "data.train.target has 600 lines, not 300"),
        (
            edit("train", lambda lines: lines[::-1]),
            "data.train.source has other text, or its lines in another",
        ),
        (reworded, r"training data changed since \S+ was started: data.train.target has other text"),
        (
            edit("valid", lambda lines: lines[:5]),
            "held-out data changed.*data.valid.source has 5 lines, not 20",
        ),
    ],
)
def test_other_data_is_refused_by_name(change: Callable[[Path], None], said: str, stopped: Path) -> None:
    change(stopped.parent)
    before = tiny.tree(stopped)
    with pytest.raises(BadRun, match=said) as caught:
        resume(stopped)
    assert "\n" not in str(caught.value)
    assert tiny.tree(stopped) == before


def test_pairs_that_were_held_out_of_the_training_data_count_too(tmp_path: Path) -> None:
    recipe, changes = tiny.recipe_in(tmp_path), ["data.valid=null", "train.steps=2"]
    fit(recipe, tmp_path / "run", changes=changes, quiet=True)
    reworded(tmp_path)
    with pytest.raises(BadRun, match=r"data changed since .*data.train.target"):
        fit(recipe, tmp_path / "run", changes=changes, resume=True, quiet=True)


def test_a_run_and_its_data_may_move(stopped: Path, tmp_path: Path) -> None:
    fit(stopped.parent / "tiny.yaml", tmp_path / "whole", quiet=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in stopped.parent.glob("*.??"):
        path.rename(elsewhere / path.name)
    shutil.move(stopped, elsewhere / "run")
    text = (stopped.parent / "tiny.yaml").read_text().replace(f"{stopped.parent}/", f"{elsewhere}/")
    (elsewhere / "tiny.yaml").write_text(text)
    resume(elsewhere / "run")
    for name in FILES[1:]:
        assert (elsewhere / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("objective.coverage=0.5", "objective.coverage"),
        ("objective.baseline_decay=0.5", "objective.baseline_decay"),
        ("validation.monitor=bleu", "validation.monitor and validation.decode"),
    ],
)
def test_what_the_training_aims_at_may_not_change(change: str, named: str, stopped: Path) -> None:
    before = tiny.tree(stopped)
    with pytest.raises(BadRun, match=f"was trained with another {named}: resume it with its own recipe"):
        resume(stopped, change, "validation.decode=3" if "monitor" in change else "decode.beam=3")
    assert tiny.tree(stopped) == before


def test_what_is_only_looked_at_may_change(stopped: Path) -> None:
    resume(stopped, "validation.decode=2", "validation.samples=0", "decode.beam=3", "description=again")
    assert yaml.safe_load((stopped / "recipe.yaml").read_text())["decode"]["beam"] == 3


# ---- the files of a run ----


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors", "metrics.jsonl"])
def test_a_file_that_was_deleted_comes_back_on_resuming(name: str, run: Path, finished: Path) -> None:
    (run / name).unlink()
    if name in FILES:
        with pytest.raises(
            BadRun, match=r"is not a finished run .*: finish it with `qkv train \S+ --out \S+"
        ):
            qkv.load(run)
    fit(finished.parent / "tiny.yaml", run, resume=True, quiet=True)
    for kept in FILES:
        assert (run / kept).read_bytes() == (finished / kept).read_bytes(), kept
    qkv.load(run)


def test_a_run_without_its_training_says_what_can_be_done(run: Path) -> None:
    (run / "tokenizer.json").unlink()
    shutil.rmtree(run / "training")
    with pytest.raises(
        BadRun, match=r"training/state.pt, which could finish it, is missing too: copy the whole directory"
    ):
        qkv.load(run)


def test_the_tokenizer_of_another_run_is_refused(run: Path, finished: Path) -> None:
    content = json.loads((run / "tokenizer.json").read_text())
    vocabulary = content["source"]["model"]["vocab"]
    one, two = [word for word in vocabulary if word.strip() in ("one", "two")]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (run / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
    with pytest.raises(BadRun, match=r"tokenizer\.json is damaged, or not the one that .* was trained with"):
        qkv.load(run)
    with pytest.raises(BadRun, match=r"tokenizer\.json is damaged, or belongs to another run.* delete it"):
        fit(finished.parent / "tiny.yaml", run, resume=True, quiet=True)


def test_a_model_edited_in_the_recipe_is_refused(tmp_path: Path) -> None:
    model = {"kind": "transformer", "encoder_layers": 1, "decoder_layers": 1, "width": 16, "heads": 2}
    recipe = tiny.recipe_in(tmp_path, model={**model, "feedforward": 16})
    fit(recipe, tmp_path / "run", changes=["train.steps=2"], quiet=True)
    path = tmp_path / "run/recipe.yaml"
    text = path.read_text()
    path.write_text(text.replace("heads: 2", "heads: 4"))
    with pytest.raises(BadRun, match=r"says model.heads = 4, but it was trained with 2"):
        qkv.load(tmp_path / "run")
    path.write_text(text.replace("lowercase: false", "lowercase: true"))
    with pytest.raises(BadRun, match=r"says tokens.lowercase = True, but it was trained with False"):
        qkv.load(tmp_path / "run")
    path.write_text(text.replace("  seed: 1", "  seed: 2"))
    with pytest.raises(BadRun, match=r"says train\.seed = 2, but it was trained with 1"):
        qkv.load(tmp_path / "run")
    path.write_text(text.replace("length_penalty:", "length_penalty: 0.5 #"))
    qkv.load(tmp_path / "run")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_flipped_bit_in_the_weights_is_noticed(share: float, run: Path) -> None:
    path = run / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadRun, match=r"model\.safetensors is damaged"):
        qkv.load(run)


def rewritten(run: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The weights as another program, or an earlier version, writes them: without label and digest."""
    path = run / "model.safetensors"
    weights = {name: change(value) for name, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(weights, path, {"format": "pt"})


def test_a_run_without_label_loads_as_before(run: Path, finished: Path) -> None:
    rewritten(run, lambda value: value)
    line = "one two three"
    assert qkv.load(run).translate(line) == qkv.load(finished).translate(line)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (torch.Tensor.int, "is of torch.int32, the model expects torch.float32"),
        (torch.Tensor.bool, "is of torch.bool, the model expects torch.float32"),
        (lambda value: value * torch.nan, "holds weights that are not finite: the training diverged"),
        (lambda value: value / 0, "holds weights that are not finite"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], said: str, run: Path
) -> None:
    rewritten(run, change)
    with pytest.raises(BadRun, match=said):
        qkv.load(run)


def test_a_state_of_an_earlier_version_is_refused_with_the_reason(stopped: Path) -> None:
    state = torch.load(stopped / STATE, weights_only=True)
    for name in ("format", "origin", "kept"):
        del state[name]
    torch.save(state, stopped / STATE)
    with pytest.raises(
        BadRun, match=r"written by another version of qkv \(format 1, expected 2\): resume it"
    ):
        resume(stopped)


# ---- a training that diverges ----


@pytest.mark.parametrize("decode", [0, 4])
def test_a_diverged_training_is_no_success(
    decode: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"epochs": 1, "lr": 1e38, "warmup": 0, "schedule": "constant", "precision": "32", "average": 2}
    validation = {"decode": decode, "samples": 0, "monitor": "bleu" if decode else "nll"}
    recipe = tiny.recipe_in(tmp_path, train={**train, "steps": 6}, validation=validation)
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 2
    assert "the training diverged: after 6 updates there are no usable weights" in capsys.readouterr().err
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_monitor_that_needs_translations_is_refused_before_training(tmp_path: Path) -> None:
    recipe = tiny.recipe_in(tmp_path, validation={"decode": 0, "monitor": "exact"})
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 2
    assert not (tmp_path / "run").exists()
