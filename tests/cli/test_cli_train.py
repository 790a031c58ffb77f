"""The command line: what `qkv train` says and refuses, and what an interrupt or a full disk leaves."""

import os
import signal
from pathlib import Path

import pytest

import tiny
from qkv.task.translate import task as translate
from tiny import Refused, full_after


def test_training_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe_in(tmp_path)
    with (tmp_path / "train.en").open("a") as english, (tmp_path / "train.fr").open("a") as french:
        english.write("\none\n \t\n" + "one " * 13 + "\n")
        french.write("un\n\nun\n" + "un " * 13 + "\n")
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--set", "train.epochs=1") == 0
    out, err = capsys.readouterr()
    assert "dropped 4 of 304 pairs: 3 with an empty side, 1 longer than 12 tokens (first: line 301)" in err
    assert "304 pairs to train on, 20 held out" in err
    assert "updates an epoch" in err
    assert "held-out: nll" in out
    assert f"qkv translate {tmp_path / 'run'}" in out
    files = {"recipe.yaml", "tokenizer.json", "model.safetensors", "metrics.jsonl", "training/state.pt"}
    assert tiny.tree(tmp_path / "run").keys() == files


def test_the_run_goes_to_runs_by_the_name_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tiny.call("train", recipe, "--quiet", "--set", "train.steps=2") == 0
    assert (tmp_path / "runs/tiny/model.safetensors").exists()


def spoil(folder: Path, how: str) -> None:
    source, target = folder / "train.en", folder / "train.fr"
    if how == "lines":
        source.write_text(source.read_text() + "one\n")
    elif how == "empty":
        source.write_text("")
        target.write_text("")
    elif how == "bytes":
        source.write_bytes(b"one\n\xe9t\xe9\n" + source.read_bytes())
    elif how == "blank":
        source.write_text(" \n" * 300)
    elif how == "missing":
        source.unlink()
    elif how == "held out":
        (folder / "valid.fr").write_text("\n" * 20)
    elif how == "long":
        source.write_text(("one " * 20 + "\n") * 300)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lines", "train.en has 301 lines but"),
        ("empty", "train.en is empty: at least one line is needed"),
        ("bytes", "train.en, line 2: 0xe9 at position 0 is not UTF-8"),
        ("blank", "no pair is left to train on (dropped 300 of 300 pairs: 300 with an empty side"),
        ("long", "no pair is left to train on (dropped 300 of 300 pairs: 300 longer than 12 tokens"),
        ("missing", "train.en: no such file"),
        ("held out", "the held-out pairs: no pair is left"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_left(
    how: str, said: str, tmp_path: Path, refused: Refused
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    spoil(tmp_path, how)
    assert said in refused("train", recipe, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epocs=3", "tiny.yaml: unknown key 'train.epocs'. Did you mean 'epochs'"),
        ("train.epochs", "--set takes key.key=value"),
        ("model={kind: transformer, width: 15, heads: 4}", "15"),
        ("model={kind: transformer, decoder: {kernel: {name: rfa, feature: 3}}}", "Did you mean 'features'"),
        ("validation.tokenize=non", "no tokeniser 'non'. Did you mean 'none'"),
        ("train.device=cdua", "'train.device' is 'cdua'"),
        ("data.valid=null", "too few"),
        ("data.train={source: $NO_SUCH_VARIABLE/a, target: b}", "variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_bad_recipes_are_refused_and_nothing_is_left(
    change: str, said: str, tmp_path: Path, refused: Refused
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    if "valid=null" in change:
        for side in ("en", "fr"):
            (tmp_path / f"train.{side}").write_text("one\ntwo\n")
    assert said in refused("train", recipe, "--out", tmp_path / "run", "--set", change)
    assert not (tmp_path / "run").exists()


def test_recipes_that_are_not_there(tmp_path: Path, refused: Refused) -> None:
    assert "no recipe 'demo-rn'" in refused("train", "demo-rn", "--out", tmp_path / "run")
    assert "cannot read the recipe" in refused("train", tmp_path / "none.yaml", "--out", tmp_path / "run")
    (tmp_path / "list.yaml").write_text("- data\n")
    assert "must hold keys and values" in refused("train", tmp_path / "list.yaml", "--out", tmp_path / "run")
    (tmp_path / "bad.yaml").write_text("data: [\n  - : :\n")
    assert "is not valid YAML" in refused("train", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_trained_over(run: Path, refused: Refused) -> None:
    before = tiny.tree(run)
    said = refused("train", run.parent / "tiny.yaml", "--out", run, "--set", "train.epochs=1")
    assert "already holds a training" in said
    assert "--resume, or choose another --out" in said
    said = refused("train", run.parent / "tiny.yaml", "--out", run, "--resume", "--set", "model.hidden=8")
    assert "was trained with another model" in said
    assert tiny.tree(run) == before


def test_there_must_be_something_to_resume(tmp_path: Path, refused: Refused) -> None:
    recipe = tiny.recipe_in(tmp_path)
    assert "no training to resume" in refused("train", recipe, "--out", tmp_path / "run", "--resume")
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_run_directory(tmp_path: Path, refused: Refused) -> None:
    recipe = tiny.recipe_in(tmp_path)
    assert "cannot write" in refused("train", recipe, "--out", recipe)
    assert "cannot write" in refused("train", recipe, "--out", recipe / "run")


@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_at_the_start_leaves_nothing(
    writes: int, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    arguments = ("train", recipe, "--out", tmp_path / "run", "--set", "train.steps=2")
    with monkeypatch.context() as patch:
        full_after(patch, writes)
        said = refused(*arguments)
    assert "cannot write" in said
    assert "No space left on device" in said
    if writes < 3:  # tokenizer, recipe, first state
        assert not (tmp_path / "run").exists()
    resume = ("--resume",) if writes >= 3 else ()
    assert tiny.call(*arguments, *resume, "--quiet") == 0


def test_a_full_disk_later_can_be_resumed(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", run / "recipe.yaml", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        full_after(patch, 12)
        assert "the previous version is intact" in refused(*arguments)
    assert tiny.call(*arguments, "--resume", "--quiet") == 0
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_an_interrupt_before_the_first_save_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(translate, "build_batches", interrupted)
    assert tiny.call("train", tiny.recipe_in(tmp_path), "--out", tmp_path / "run", "--quiet") == 130
    assert capsys.readouterr().err == "stopped; nothing was saved yet\n"
    assert not (tmp_path / "run").exists()


def test_an_interrupt_saves_and_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkv.task.translate.validator import Validator

    recipe = tiny.recipe_in(tmp_path)
    first = Validator.__call__

    def interrupted(self: Validator) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return first(self)

    with monkeypatch.context() as patch:
        patch.setattr(Validator, "__call__", interrupted)
        assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 130
    command = f"qkv train {recipe} --out={tmp_path / 'run'} --resume"
    assert capsys.readouterr().err == f"stopped; everything is saved. Continue with: {command}\n"
    assert tiny.call(*command.split()[1:], "--quiet", "--set", "train.epochs=2") == 0


def test_train_says_where_it_writes_when_nobody_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tiny.call("train", recipe, "--set", "train.steps=1") == 0
    out, err = capsys.readouterr()
    assert err.startswith("writing to runs/tiny\n")
    assert "qkv translate runs/tiny" in out
    assert (tmp_path / "runs/tiny/model.safetensors").exists()


def test_a_run_below_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiny.call("train", tiny.recipe_in(tmp_path), "--out=~/run", "--set=train.steps=1", "--quiet") == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
