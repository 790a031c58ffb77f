"""`qkv cost`: what it prints and writes, and what it refuses."""

import json
from pathlib import Path

import pytest

import tiny
from qkv.cli.commands import cost
from qkv.view.line_chart import ChartLine

SMALL = ("--set", "model={width: 16, layers: 1, max_length: 1024, attention: {kernel: rfa}}", "--batch", 2)


def test_it_prints_components_memory_and_crossovers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "costs" / "cost.json"
    command = ("cost", "recall-rfa", *SMALL, "--length", "16,64", "--beam", 3, "--memory", "30MB")
    assert tiny.call(*command, "--json", out) == 0
    text, err = capsys.readouterr()
    assert err == ""
    lines = text.splitlines()
    assert lines[0] == "recall-rfa: task generate, model language"
    assert "(tokens.vocab), the largest that the data can give" in lines[1]
    assert [line for line in lines if line.startswith("one step")] == [
        "one step: 2 × 16, 32 tokens",
        "one step: 2 × 64, 128 tokens",
    ]
    assert any(line.startswith("layers: attention projections") and "4·(16² + 16)" in line for line in lines)
    assert any("model.attention against softmax over all keys" in line for line in lines)
    assert any(line.endswith("with a beam of 3") for line in lines)
    assert sum("in 30MB" in line for line in lines) == 2
    result = json.loads(out.read_text())
    first, second = result["costs"]
    assert first["parameters"] == sum(each["parameters"] for each in first["components"])
    assert second["operations"]["forward"] > 3.9 * first["operations"]["forward"]
    assert result["crossovers"][0]["operations"] > 0
    assert result["fits"]["batch"] > 2


def test_operations_are_drawn_beside_those_of_softmax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[ChartLine] = []
    real = cost.draw_lines
    monkeypatch.setattr(
        cost,
        "draw_lines",
        lambda path, lines, *labels, **kw: (drawn.extend(lines), real(path, lines, *labels, **kw)),
    )
    picture = tmp_path / "new" / "cost.png"
    assert tiny.call("cost", "recall-rfa", *SMALL, "--length", "64,1k", "--png", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    rfa, softmax = (dict(line.points) for line in drawn)
    assert drawn[1].label == "softmax over all keys"
    assert rfa.keys() == softmax.keys() == {64, 1024}
    assert rfa[1024] / rfa[64] == pytest.approx(16, rel=0.3)
    assert softmax[1024] / softmax[64] > 20
    assert tiny.call("cost", "recall-rfa", *SMALL, "--length", "64", "--png", picture) == 2
    assert "pass two or more, as in --length 1k,4k,16k" in capsys.readouterr().err


def test_a_run_has_the_vocabulary_of_its_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = ["data.phrases={source: en, target: fr, size: 300, dev: 20, test: 0}", "train={steps: 1}"]
    options = [part for change in [*changes, "model.hidden=8"] for part in ("--set", change)]
    assert tiny.call("train", "demo-rnn", "--out", run, "--quiet", *options) == 0
    capsys.readouterr()
    assert tiny.call("cost", run, "--length", 8) == 0
    text = capsys.readouterr().out
    assert "tokens.vocab" not in text
    import qkv

    model = qkv.load(run).model
    count = sum(weight.numel() for weight in model.parameters())
    assert next(line for line in text.splitlines() if line.startswith("all")).split()[1] == f"{count:,}"
    assert tiny.call("cost", run, "--set", "model.hidden=9") == 2
    assert "is a run: pass" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("recall-rfa", "--length", "1x"),
            "tokens like 512 or 1k,4k,16k, up to 1024m, got '1x'",
        ),
        (("recall-rfa", "--length", "0"), "tokens like 512 or 1k,4k,16k, up to 1024m, got '0'"),
        (
            ("recall-rfa", "--length", "8,,9"),
            "tokens like 512 or 1k,4k,16k, up to 1024m, got ''",
        ),
        (("recall-rfa", "--length", "1" * 30), "--length takes numbers of tokens"),
        (("recall-rfa", "--memory", "plenty"), "--memory takes a size like 16GB or 512MiB, got 'plenty'"),
        (("recall-rfa", "--memory", "0GB"), "--memory takes a size like 16GB or 512MiB, got '0GB'"),
        (("lm-wikitext2-rfa", "--length", "4k"), "4,096 tokens is more than model.max_length=128 holds"),
        (("classify-shapes", "--length", "8"), "--length counts tokens, and this model reads pictures"),
        (("recall-rfaa",), "Did you mean"),
        (("recall-rfa", "--set", "model.widht=3"), "Did you mean"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("cost", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message.lower() in err.lower()


@pytest.mark.parametrize("recipe", ["gan-shapes", "mim-cifar-cnn"])
def test_pictures_without_labels_have_a_cost(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("cost", recipe, "--batch", 1, "--memory", "5MB") == 0
    out = capsys.readouterr().out
    assert "one step: 1 pictures\n" in out
    assert "in 5MB: a training step of " in out
    assert tiny.call("cost", recipe, "--length", 12) == 2
    assert "this model reads pictures" in capsys.readouterr().err
