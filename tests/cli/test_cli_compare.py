"""`qkv compare`: the table of runs, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from qkv.cost import comparison
from qkv.task.recipe import parse_recipe
from qkv.yaml_input import load_yaml

RECIPE = """\
task: generate
data: {train: text.txt}
tokens: {kind: byte}
model: {layers: 1, width: 16, heads: 2, feedforward: 16, max_length: 16}
batch: {streams: 2, length: 8}
train: {steps: 4}
"""


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes what a comparison reads of a run: its recipe and its metrics."""
    real = comparison.read_subject
    monkeypatch.setattr(comparison, "read_subject", lambda run: real(run / "recipe.yaml"))

    def make(name: str, scores: list[float], speed: float = 1000.0, seconds: float = 10.0) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.yaml").write_text(parse_recipe(load_yaml(RECIPE), "test").to_yaml())
        lines = [{"kind": "train", "step": 1, "epoch": 0, "tokens_per_second": speed, "seconds": 1.0}]
        for number, score in enumerate(scores, 1):
            is_best = score == min(scores[:number])
            line = {"kind": "validation", "step": number, "epoch": 0, "nll": score, "ppl": 2 * score}
            lines.append({**line, "best": is_best, "seconds": number * seconds})
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    return make


def test_runs_stand_in_one_table(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = make_run("slow", [3.0, 2.0, 2.5]), make_run("fast", [2.5, 1.5], 3000.0, 5.0)
    out = tmp_path / "comparison.json"
    assert tiny.call("compare", slow, fast, "--json", out) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "nll", "ppl"]
    assert head.endswith("seconds to nll 2")
    assert first.split()[1:3] == ["2", "4"]
    assert first.split()[-1] == "20"  # its second validation
    assert second.split()[1:3] == ["1.5", "3"]
    assert second.split()[-1] == "10"
    assert "1,000" in first
    assert "3,000" in second
    result = json.loads(out.read_text())
    assert result["quality"] == 2.0
    assert [run["seconds_to_quality"] for run in result["runs"]] == [20.0, 10.0]
    assert result["runs"][0]["curve"] == [[10.0, 3.0], [20.0, 2.0], [30.0, 2.5]]

    assert tiny.call("compare", slow, fast, "--reach", "1.6", "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("|---|--:|")
    assert lines[2].endswith("| never |")
    assert lines[3].endswith("| 10 |")


def test_mistakes_end_in_one_line(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = make_run("run", [2.0]), make_run("other", [1.0])
    cases: list[tuple[tuple[object, ...], str]] = [((run,), "takes two runs or more")]
    cases.append(
        ((run, other, "--reach", "low"), "--reach takes a value of the monitored score, such as 1.5")
    )
    cases.append(((run, tmp_path / "missing"), "there is no run directory"))
    for arguments, message in cases:
        assert tiny.call("compare", *arguments) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert message in err
    (other / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "seconds": 1.0}\n')
    assert tiny.call("compare", run, other) == 2
    assert "has no validation with the score 'nll'" in capsys.readouterr().err
    for content, message in (("", "is empty or damaged"), ("{", "is damaged (")):
        (other / "metrics.jsonl").write_text(content)
        assert tiny.call("compare", run, other) == 2
        assert message in capsys.readouterr().err
    (other / "metrics.jsonl").unlink()
    assert tiny.call("compare", run, other) == 2
    assert "only runs with metrics are compared" in capsys.readouterr().err


def test_runs_of_different_tasks_are_refused(make_run: Callable[..., Path]) -> None:
    runs = [comparison.read_compared_run(make_run(name, [2.0])) for name in ("a", "b")]
    with pytest.raises(
        comparison.BadRun, match=r"'generate' and .* of 'translate': compare runs of one task"
    ):
        comparison.check_comparable([runs[0], runs[1]._replace(task="translate")])
    with pytest.raises(comparison.BadRun, match=r"monitors 'nll' and .* 'bleu'"):
        comparison.check_comparable([runs[0], runs[1]._replace(monitor="bleu")])
