"""`qkv compare`: the table of runs, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from qkv.cost import comparison
from qkv.cost.significance import compare_answers
from qkv.task.evaluation import Answers
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

    def make(
        name: str, scores: list[float], speed: float = 1000.0, seconds: float = 10.0, recipe: str = RECIPE
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.yaml").write_text(parse_recipe(load_yaml(recipe), "test").to_yaml())
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


def test_scores_that_cannot_be_compared_are_told(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    softmax = make_run("softmax", [3.0])
    linear = RECIPE.replace("max_length: 16}", "positions: none, attention: {kernel: elu}}")
    carried = make_run("carried", [2.0], recipe=linear.replace("length: 8}", "length: 8, carry: true}"))
    other = make_run("other", [2.0], recipe=RECIPE.replace("{kind: byte}", "{kind: char}"))
    out = tmp_path / "comparison.json"
    assert tiny.call("compare", softmax, carried, "--json", out) == 0
    line = (
        f"not the same: held-out text: separate segments of 8 tokens in {softmax}; state carried over the "
        f"whole text, read 8 tokens at a time in {carried}"
    )
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert json.loads(out.read_text())["differences"] == [line]
    assert tiny.call("compare", softmax, other) == 0
    assert f'not the same: tokens.kind: "byte" in {softmax}; "char" in {other}' in capsys.readouterr().out


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


def test_curves_of_runs_are_drawn(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run(name, [3.0, 2.0]) for name in ("_$a$", "b")]
    assert tiny.call("compare", *runs, "--png", tmp_path / "new" / "curves.png") == 0
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_measures_of_attention_are_means_over_layers(make_run: Callable[..., Path]) -> None:
    run = comparison.read_compared_run(make_run("run", [2.0]))
    scores = {"nll": 2.0, "attention.cross.0.entropy": 1.0, "attention.cross.1.entropy": 2.0}
    other = {"nll": 2.0, "attention.cross.entropy": 3.0}
    rows = comparison.make_rows([run._replace(scores=scores), run._replace(scores=other)], 2.0)
    assert rows[0][1:3] == ("nll", "attention entropy")
    assert [row[2] for row in rows[1:]] == ["1.5", "3"]


def test_answers_differ_significantly_only_where_many_examples_do() -> None:
    expected = ["a", "b"] * 100
    half, better = ["a"] * 200, [*["a", "b"] * 30, *["a"] * 140]
    comparison_ = compare_answers([Answers(expected, expected, each) for each in (half, half, better)])
    assert [score.score for score in comparison_.scores] == [50.0, 50.0, 65.0]
    assert comparison_.scores[0].p is None
    assert comparison_.scores[1].p == 1.0
    assert comparison_.scores[2].p == pytest.approx(1 / 1001)
    assert comparison_.scores[0].margin == pytest.approx(6.9, abs=0.7)  # 1.96 √(0.25 / 200)


def test_translators_are_compared_on_their_test_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tiny.trained(), tmp_path / "comparison.json"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert tiny.call("compare", run, run, "--test", "--json", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4] == f"test data: 40 examples, paired bootstrap with 1,000 samples; p against {run}"
    assert lines[-3].split() == ["run", "BLEU", "95", "%", "interval", "p"]
    first, second = json.loads(out.read_text())["test"]["scores"]
    assert first["p"] is None
    assert second["p"] == 1.0
    assert first["score"] == second["score"]


def test_other_tasks_have_no_answers_to_compare(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("compare", make_run("a", [2.0]), make_run("b", [2.0]), "--test") == 2
    assert "these are runs of the task 'generate'" in capsys.readouterr().err
