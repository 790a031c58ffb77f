"""The demo: small enough to run here from start to picture, and once, slowly, as users get it."""

from pathlib import Path

import pytest

from qkv.errors import BadRun
from qkv.task.translate import demo

SMALL = (
    "data.phrases.size=600",
    "data.phrases.dev=20",
    "data.phrases.test=20",
    "train.epochs=1",
    "tokens.vocab=400",
)


def exact_match(said: str, name: str) -> float:
    row = next(line for line in said.splitlines() if line.startswith(name) and line.count("%"))
    return float(row.split()[1])


def test_the_demo_ends_in_scores_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")

    demo.run_demo(tmp_path, "en", "de", SMALL)
    said = capsys.readouterr().out
    for name in demo.RUNS:
        assert 0 <= exact_match(said, name) <= 100
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"where it looked: {tmp_path / name}.png" in said
    demo.run_demo(tmp_path, "en", "de", SMALL)  # what is trained is not trained again
    assert "unseen phrases, en to de" in capsys.readouterr().out


def test_the_demo_says_why_it_cannot_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadRun, match="training demo-rnn and demo-rfa failed"):
        demo.run_demo(tmp_path, "en", "klingon")
    assert "unknown language: 'klingon'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_translates_phrases_it_has_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo(tmp_path, "en", "fr")
    said = capsys.readouterr().out
    for name in demo.RUNS:
        assert exact_match(said, name) >= 97
