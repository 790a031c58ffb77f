"""`qkv generate`, `qkv classify` and `qkv evaluate` for language models, masked ones and classifiers."""

import json
from pathlib import Path
from typing import Any

import pytest

import qkv
import tiny
from qkv.errors import BadData
from qkv.trace import Trace
from tiny import Refused
from tiny_text import classify_recipe, fill_recipe, language_recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    recipes = {"lm": language_recipe(folder), "mlm": fill_recipe(folder), "labels": classify_recipe(folder)}
    for name, recipe in recipes.items():
        qkv.fit(recipe, folder / name, quiet=True)
    return {name: folder / name for name in recipes}


def test_generate_writes_the_prompt_and_its_continuation(runs: Any, capsys: Any) -> None:
    options = ("--length", 20, "--seed", 3)
    assert tiny.call("generate", runs["lm"], "--prompt", "ann ", *options) == 0
    out = capsys.readouterr().out
    assert out.startswith("ann ")
    assert len(out) == len("ann ") + 20 + 1
    assert tiny.call("generate", runs["lm"], "--prompt", "ann ", *options) == 0
    assert capsys.readouterr().out == out
    assert tiny.call("generate", runs["lm"], "--prompt", "ann ", *options, "--stop", "\\n") == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_prompts_from_a_file_and_a_trace(runs: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "prompts").write_text("ann \nbob \n")
    assert (
        tiny.call(
            *("generate", runs["lm"], tmp_path / "prompts", "--length", 5, "--stop", "\\n"),
            *("--output", tmp_path / "out", "--trace", tmp_path / "t.npz", "--quiet"),
        )
        == 0
    )
    texts = (tmp_path / "out").read_text().removesuffix("\n").split("\n\n")
    assert [text[:4] for text in texts] == ["ann ", "bob "]
    assert tiny.call("view", tmp_path / "t.npz", "--png", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_text_that_outgrows_the_model_is_traced_at_its_end(runs: Any, tmp_path: Path, capsys: Any) -> None:
    trace = tmp_path / "t.npz"
    options = ("--prompt", "ann ", "--length", 80, "--seed", 3, "--trace", trace, "--quiet")
    assert tiny.call("generate", runs["lm"], *options) == 0
    out, err = capsys.readouterr()
    assert "text 1 without its first 21 tokens: the model reads at most 64" in err
    example = Trace.load(trace).examples[0]
    assert example.weights["layer.0"].shape == (2, 63, 63)
    predicted: Any = example.named_axes["predicted"]
    assert "".join(predicted).replace("▁", " ") == out[:-1][-63:]
    with pytest.raises(BadData, match="text 1 has 85 tokens, but the model reads at most 64: shorten it"):
        qkv.load(runs["lm"]).trace(out[:-1])


def test_fill_prints_words_with_probabilities(runs: Any, tmp_path: Path, capsys: Any) -> None:
    options = ("--n-best", 2, "--trace", tmp_path / "t.npz")
    assert tiny.call("generate", runs["mlm"], "--fill", "ann [MASK] bob [MASK]", *options) == 0
    assert (tmp_path / "t.npz").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines] == ["blank 1:", "blank 2:"]
    assert len(lines[0].split()) == 2 + 2 * 2


def test_classify_prints_labels_with_probabilities(runs: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "texts").write_text("ann sees bob .\n\ncat knows dan .\n")
    trace = tmp_path / "t.npz"
    assert tiny.call("classify", runs["labels"], tmp_path / "texts", "--quiet", "--trace", trace) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert all(label in ("0", "1") and 0.5 <= float(probability) <= 1 for label, probability in rows)
    assert trace.exists()


@pytest.mark.parametrize(
    ("name", "unit", "scores"),
    [
        ("lm", "tokens", {"nll", "perplexity", "accuracy", "bits_per_byte"}),
        ("mlm", "lines", {"nll", "accuracy"}),
        ("labels", "documents", {"accuracy", "nll", "f1", "majority"}),
    ],
)
def test_evaluate_every_task(
    runs: Any, tmp_path: Path, capsys: Any, name: str, unit: str, scores: set[str]
) -> None:
    assert tiny.call("evaluate", runs[name], "--json", tmp_path / "s.json", "--quiet") == 0
    assert f" {unit}\n" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "s.json").read_text())["scores"]) == scores


def test_evaluate_says_how_the_text_was_read(runs: Any, capsys: Any) -> None:
    assert tiny.call("evaluate", runs["lm"], "--mode", "sliding", "--stride", 4, "--quiet") == 0
    assert "sliding window of 16 tokens, stride 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("labels", ("generate", "--prompt", "a"), "qkv generate cannot use"),
        ("lm", ("classify", "none"), "qkv classify cannot use"),
        ("lm", ("generate", "--fill", "a [MASK]"), "--fill has no meaning for"),
        ("mlm", ("generate", "--prompt", "a"), "which fills blanks: leave it out"),
        ("mlm", ("generate",), "fills blanks: use `qkv generate"),
        ("mlm", ("generate", "--fill", "a"), "there is no [MASK]"),
        ("lm", ("generate", "--prompt", "a" * 100), "prompt 1 has 101 tokens"),
        ("lm", ("evaluate", "--mode", "slidng"), "Did you mean 'sliding'"),
        ("lm", ("evaluate", "--mode", "carry"), "that of softmax attention over all keys grows"),
        ("labels", ("evaluate", "--mode", "sliding"), "--mode has no meaning"),
    ],
)
def test_a_command_that_does_not_fit(
    runs: Any, refused: Refused, name: str, arguments: tuple[str, ...], message: str
) -> None:
    command, *options = arguments
    assert message in refused(command, runs[name], *options)


def test_a_trace_that_cannot_be_written_is_told_before_the_work(
    runs: Any, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "texts.txt").write_text("ann sees bob .\n")
    bad = tmp_path / "file" / "t.npz"
    assert "cannot" in refused("generate", runs["lm"], "--prompt", "a", "--trace", bad)
    assert "cannot" in refused("classify", runs["labels"], tmp_path / "texts.txt", "--trace", bad)
    assert "cannot" in refused("generate", runs["mlm"], "--fill", "a [MASK]", "--trace", bad)
    new = tmp_path / "new" / "t.npz"
    assert tiny.call("classify", runs["labels"], tmp_path / "texts.txt", "--trace", new) == 0
    assert new.exists()
