"""`qkv demo --task generate`: a small model from data to sample and picture, and what is refused."""

from pathlib import Path

import pytest

import tiny
from qkv.task.generate import demo
from qkv.trace import Trace

SMALL = (
    "data.phrases.size=400",
    "data.phrases.dev=20",
    "train.steps=20",
    "train.validate_every=20",
    "sample.length=40",
)


def test_the_demo_ends_in_a_sample_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    demo.run_demo(tmp_path, "de", SMALL)
    printed = capsys.readouterr().out
    assert "a sample:\n    " in printed
    assert "nats per character" in printed
    assert f"where it looked: {tmp_path}/demo-characters.png" in printed
    assert (tmp_path / "demo-characters.png").stat().st_size > 10_000
    (example,) = Trace.load(tmp_path / "demo-characters.npz").examples
    assert set(example.weights) == {"layer.0", "layer.1"}
    weights = (tmp_path / "demo-characters/model.safetensors").read_bytes()
    demo.run_demo(tmp_path, "de", SMALL)  # what is trained is not trained again
    assert (tmp_path / "demo-characters/model.safetensors").read_bytes() == weights
    shown, again = (text.partition("a sample")[2] for text in (printed, capsys.readouterr().out))
    assert again == shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "fill"], "there is no demo of the task 'fill'. Known: generate, translate"),
        (["--task", "generat"], "Did you mean 'generate'"),
        (
            ["--task", "generate", "--source", "en"],
            "--source has no meaning for the demo of the task 'generate'",
        ),
        (["--task", "generate", "--target", "klingon"], "unknown language: 'klingon'"),
    ],
)
def test_wrong_options_end_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("demo", "--out", tmp_path, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "demo-characters/model.safetensors").exists()
