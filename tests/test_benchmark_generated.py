"""The benchmarks of generated tasks: a tiny run, its table and picture, and that finished rows are kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from script_loading import load_script

recall, listops, captioning = (
    load_script("benchmarks", name) for name in ("recall", "listops", "captioning")
)


def test_recall_measures_what_is_missing_and_reports_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(tmp_path), "--attention", "softmax,elu", "--pairs", "2,4", "--updates", "2"]
    assert recall.main([*arguments, "--minutes", "0"]) == 0
    assert "are over: run the same command again" in capsys.readouterr().out
    measured: list[Any] = []

    def measure(cell: Any, folder: Path, updates: int | None) -> dict[str, Any]:
        measured.append(cell)
        return {**cell._asdict(), "updates": updates, "train_seconds": 1.0, "accuracy": 1 / cell.pairs}

    monkeypatch.setattr(recall, "measure", measure)
    assert recall.main([*arguments, "--pairs", "4"]) == 0
    assert recall.main(arguments) == 0
    assert [tuple(cell) for cell in measured] == [("softmax", 4), ("elu", 4), ("softmax", 2), ("elu", 2)]
    table = (tmp_path / "recall.md").read_text()
    assert "| attention | 2 | 4 |" in table
    assert "| softmax | 50.0% | 25.0% |" in table
    assert (tmp_path / "recall.png").stat().st_size > 5000


@pytest.mark.parametrize("pairs", [4, 64])
def test_recall_trains_a_recipe_with_other_pairs(pairs: int) -> None:
    recipe = recall.build_recipe(recall.Cell("rfa-gate", pairs), 5)
    assert recipe.data.recall.pairs == pairs
    assert recipe.batch.length == 4 * pairs
    assert recipe.train.steps == 5


def test_a_cell_is_trained_from_the_one_with_fewer_pairs_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_recipe(cell: Any, updates: int | None) -> Any:
        sizes = f"{{pairs: {cell.pairs}, keys: 4, values: 4, train: 50, valid: 5, test: 5}}"
        changes = [f"data.recall={sizes}", f"train.steps={updates}", "model.width=8"]
        return recall.read_recipe("recall-softmax", changes)

    monkeypatch.setattr(recall, "build_recipe", build_recipe)
    cells = [recall.Cell("softmax", pairs) for pairs in (2, 3, 4)]
    assert recall.find_initial_run(cells[0], tmp_path) is None
    recall.run_cells(cells, tmp_path, 2, None)
    runs = [tmp_path / "runs" / cell.name for cell in cells]
    assert recall.find_initial_run(cells[2], tmp_path) == runs[1]
    assert [(run / "initial.json").exists() for run in runs] == [False, True, True]
    row = json.loads((tmp_path / "results" / "recall-softmax-4.json").read_text())
    assert (row["updates"], row["pairs"]) == (2, 4)
    assert 0 <= row["accuracy"] <= 1


def test_listops_reports_accuracy_speed_memory_and_the_majority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "{train: 40, valid: 5, test: 8, min_length: 4, max_length: 12, depth: 3, arguments: 4}"
    changes = [f"data.listops={sizes}", "batch.batch_tokens=60", "train.log_every=2", "model.width=8"]
    settings = [f"--set={change}" for change in (*changes, "train.validate_every=2", "train.warmup=1")]
    for attention in ("softmax", "rfa"):
        arguments = [str(tmp_path), "--attention", attention, "--updates", "4", "--here", *settings]
        assert listops.main(arguments) == 0
    assert listops.main([str(tmp_path)]) == 0  # everything is there already
    table = (tmp_path / "listops.md").read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    for name in ("softmax", "rfa", "majority class"):
        assert f"| {name} | " in table
    row = json.loads((tmp_path / "results/listops-rfa.json").read_text())
    assert row["peak_bytes"] > 50e6
    assert row["documents_per_second"] > 0
    assert listops.read_curve(tmp_path / "runs/listops-rfa")[-1][0] == 4


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (recall, ["--attention", "softmacks"], "there is no 'softmacks'; known: softmax, rfa"),
        (recall, ["--pairs", "4,x"], "--pairs takes whole numbers"),
        (recall, ["--pairs", "0"], "--pairs takes numbers from 1 to 64"),
        (listops, ["--attention", "favor"], "there is no 'favor'; known: softmax, rfa"),
        (captioning, ["--models", "none"], "--models: there is no 'none'; known: soft, hard"),
        (captioning, ["--updates", "x"], "--updates: must be at least 1, got x"),
        (listops, ["--updates", "0"], "--updates: must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(
    module: Any, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        module.main([str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_captioners_are_trained_once_and_tabulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioning, "measure_search", lambda captioner, size: 100.0 / size)
    changes = ["data.shapes={size: 16, train: 40, valid: 5, test: 6}", "train={steps: 2, log_every: 1}"]
    settings = [f"--set={change}" for change in (*changes, "model.hidden=8", "model.encoder.stride=1")]
    options = [str(tmp_path), "--threads", "1", *settings]
    assert captioning.main([*options, "--models", "mean", "--here"]) == 0
    result = captioning.read_results(tmp_path)["caption-shapes-mean"]
    assert result["updates"] == 2
    assert result["pictures_per_second"] > 0
    captioning.write_result(tmp_path, "caption-shapes-soft", {**result, "model": "soft", "pointing": 91.25})
    capsys.readouterr()
    monkeypatch.setattr(captioning.subprocess, "run", lambda command, check: pytest.fail(command))
    assert captioning.main([*options, "--models", "soft,mean"]) == 0
    table = (tmp_path / "captioning.md").read_text()
    assert "| mean | 0.0 | – | – |" in table
    assert "| soft | 0.0 | 91.2 |" in table or "| soft | 0.0 | 91.3 |" in table
    assert captioning.main([*options, "--models", "rfa", "--minutes", "0"]) == 0
    assert "are over: run the same command again" in capsys.readouterr().out
