"""TensorBoard: the event file holds the numbers of metrics.jsonl, each step once, also after a kill."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from qkv.errors import BadRecipe
from qkv.train import fit
from qkv.train.tensorboard import FOLDER, POSITION
from test_train_resume import kill_after
from test_train_toy import ToyBatches, config_of, scores_of, toy

Scalars = dict[str, list[tuple[int, float]]]


def train(run: Path, steps: int, resume: bool = False, **options: Any) -> None:
    objective = toy()
    fit(
        objective,
        ToyBatches(),
        config_of(steps=steps, validate_every=6, average=2, tensorboard=True, **options),
        run=run,
        validate=lambda: scores_of(objective),
        resume=resume,
        quiet=True,
    )


def scalars_of(run: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / FOLDER)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def scalars_in_metrics(run: Path) -> Scalars:
    scalars: dict[str, list[tuple[int, Any]]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if name not in (*POSITION, "best"):
                scalars.setdefault(f"{line['kind']}/{name}", []).append((line["step"], pytest.approx(value)))
    return scalars


def test_the_event_file_holds_the_metrics(tmp_path: Path) -> None:
    train(tmp_path, steps=12)
    scalars = scalars_of(tmp_path)
    assert scalars == scalars_in_metrics(tmp_path)
    assert [step for step, _ in scalars["train/loss"]] == [4, 8, 12]
    assert [step for step, _ in scalars["validation/accuracy"]] == [6, 12]
    assert {"train/lr", "train/tokens_per_second", "average/loss"} <= scalars.keys()


def test_no_step_appears_twice_after_resuming(tmp_path: Path) -> None:
    train(tmp_path, steps=7)
    # as a kill leaves it: lines and events after the last state
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 8, "epoch": 1, "loss": 9.0, "seconds": 1.0}\n')
    train(tmp_path, steps=12, resume=True)
    scalars = scalars_of(tmp_path)
    assert scalars == scalars_in_metrics(tmp_path)
    assert [step for step, _ in scalars["train/loss"]] == [4, 8, 12]
    assert scalars["train/loss"][1][1] != 9.0
    # readers that ignore purge_step count every file
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_it_can_be_turned_on_for_a_training_that_was_killed(tmp_path: Path) -> None:
    step = kill_after(10, tmp_path)
    objective = toy(dropout=0.3)
    options = {"validate_every": 7, "average": 3, "save_every_seconds": 0.05, "tensorboard": True}
    fit(
        objective,
        ToyBatches(),
        config_of(steps=step + 8, **options),
        run=tmp_path,
        validate=lambda: scores_of(objective),
        resume=True,
        quiet=True,
    )
    assert scalars_of(tmp_path) == scalars_in_metrics(tmp_path)


def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return import_module(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadRecipe, match=r"cannot be imported .*pip install tensorboard"):
        train(tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()


def test_nothing_is_imported_or_written_by_default(tmp_path: Path) -> None:
    fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)
    assert not (tmp_path / FOLDER).exists()
