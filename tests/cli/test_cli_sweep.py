"""`qkv sweep`: every combination and seed is trained once, also after a kill."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from qkv.cost import sweep as sweeping
from qkv.task.training import fit

DATA = ("--set", "data.phrases={source: en, target: fr, size: 300, dev: 20, test: 0}")
COMMAND = (
    *("sweep", "demo-rnn", *DATA, "--set", "train={steps: 2}", "--set", "model.embedding=8"),
    *("--vary", "model.hidden=8,12", "--seeds", 2),
)


def test_a_killed_sweep_goes_on_and_ends_with_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result = tmp_path / "sweep", tmp_path / "sweep.json"
    trained = []

    def train(recipe: Any, run: Path, **options: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(run)
        return fit(recipe, run, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "fit", train)
        assert tiny.call(*COMMAND, "--out", out) == 130
    assert "stopped after 2 of 4; the same command goes on" in capsys.readouterr().err
    assert tiny.call(*COMMAND, "--out", out, "--json", result) == 0
    first = capsys.readouterr().out.splitlines()
    table = first[first.index("") + 1 :]
    assert [line.split()[:2] for line in table] == [
        ["combination", "seeds"],
        ["model.hidden=8", "2"],
        ["model.hidden=12", "2"],
    ]
    assert all("±" in line for line in table[1:])
    rows = json.loads(result.read_text())
    assert [(row["combination"], row["seed"]) for row in rows] == [
        (f"model.hidden={hidden}", seed) for seed in (1, 2) for hidden in (8, 12)
    ]
    assert {run.name for run in (out / "01-8").iterdir()} == {"seed-1", "seed-2"}
    monkeypatch.setattr(sweeping, "fit", None)  # nothing is trained again
    assert tiny.call(*COMMAND, "--out", out) == 0
    assert capsys.readouterr().out.splitlines() == first
    assert tiny.call(*COMMAND, "--set", "train.lr=1", "--out", out) == 2
    assert "holds another sweep, with other changes: choose another --out" in capsys.readouterr().err
    damaged = out / "01-8" / "seed-1" / "result.json"
    damaged.write_text("{")
    assert tiny.call(*COMMAND, "--out", out) == 2
    assert f"delete {damaged.parent}, and the same command trains it again" in capsys.readouterr().err


def test_more_seeds_add_trainings_to_those_that_are_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(recipe: Any, run: Path, **options: Any) -> Any:
        trained.append(f"{run.parent.name}/{run.name}")
        return fit(recipe, run, **options)

    monkeypatch.setattr(sweeping, "fit", train)
    for seeds, new in ((1, 1), (2, 2), (1, None)):
        trained.clear()
        assert tiny.call(*COMMAND[:-1], seeds, "--out", tmp_path) == 0
        assert trained == ([] if new is None else [f"01-8/seed-{new}", f"02-12/seed-{new}"])
        assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[-2:]] == [str(seeds)] * 2
    assert json.loads((tmp_path / "sweep.json").read_text())["seeds"] == 2


def test_a_recipe_that_was_changed_is_another_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "mine.yaml", tmp_path / "sweep"
    text = (
        "data: {phrases: {source: en, target: fr, size: 300, dev: 20, test: 0}}\n"
        "model: {kind: rnn, embedding: 8}\ntrain: {steps: 1}\n"
    )
    command = ("sweep", recipe, "--vary", "model.hidden=8,12", "--out", out)
    recipe.write_text(text)
    assert tiny.call(*command) == 0
    recipe.write_text(text.replace("embedding: 8", "embedding: 9"))
    assert tiny.call(*command) == 2
    assert f"{recipe} was changed after the sweep in {out} began" in capsys.readouterr().err


def test_several_processes_train_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for processes in (1, 2):
        result = tmp_path / f"{processes}.json"
        options = ("--set", "train.threads=1", "--processes", processes, "--json", result)
        assert tiny.call(*COMMAND, *options, "--out", tmp_path / f"sweep-{processes}") == 0
        results.append(json.loads(result.read_text()))
    for row in itertools.chain(*results):
        assert row["scores"].pop("seconds") > 0
    assert results[0] == results[1]
    assert "4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (("model.hidden",), "--vary takes a key and values, as in --vary train.lr=0.001,0.003"),
        (("model.hidden=8",), "give two different values or more"),
        (("model.hidden=8,8",), "give two different values or more"),
        (("model.hidden={a",), "the values are not YAML"),
        (("model.hiden=8,9",), "Did you mean"),
        (("model.hidden=8,-1",), "model.hidden"),
        (("train.seed=1,2",), "pass --seeds 3 for the seeds 1, 2 and 3"),
        (("model.hidden=8,9", "model.hidden=10,11"), "two options --vary name model.hidden"),
    ],
)
def test_mistakes_are_found_before_the_first_training(
    vary: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [part for each in vary for part in ("--vary", each)]
    assert tiny.call("sweep", "demo-rnn", *options, "--out", tmp_path / "sweep") == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert message.lower() in err.lower()
    assert not (tmp_path / "sweep").exists()


def test_a_value_may_be_a_mapping() -> None:
    variation = sweeping.parse_variation("model.decoder.kernel={name: rfa, features: 8},elu")
    assert variation == ("model.decoder.kernel", ("{features: 8, name: rfa}", "elu"))
    trials = sweeping.Sweep("demo-rfa", (), (variation,), 1).trials
    assert [trial.folder for trial in trials] == ["01-features-8-name-rfa", "02-elu"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (
            "{kind: rnn, hidden: 8},{kind: transformer, width: 8},"
            "{kind: transformer, width: 8, decoder: {kernel: rfa}}",
            ["model.kind=rnn", "model.kind=transformer", "model.kind=transformer, model.decoder.kernel=rfa"],
        ),
        ("{a: true},{a: 'True'},{}", ["model.a=true", "model.a='True'", "no model.a"]),
        ("{a: {b: 1}},{a: 1}", ["model.a.b=1", "no model.a.b"]),
        ("8,{a: 1}", ["model=8", "model={a: 1}"]),
    ],
)
def test_labels_of_mappings_name_the_keys_that_tell_them_apart(values: str, labels: list[str]) -> None:
    variation = sweeping.parse_variation(f"model={values}")
    assert [trial.label for trial in sweeping.Sweep("demo-rnn", (), (variation,), 1).trials] == labels
