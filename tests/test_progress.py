"""Progress: plain lines in a log, nothing when quiet."""

import pytest

from qkv.progress import LineProgress, NoProgress, show_progress


def test_plain_lines_tell_where_the_work_stands(capsys: pytest.CaptureFixture[str]) -> None:
    plain = LineProgress("train", 1000, interval=0.0)
    plain.update(100, "7 tokens/s")
    plain.update(1000, "7 tokens/s")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "train 100/1,000, 7 tokens/s"
    assert second == "train 1,000/1,000, 7 tokens/s, 0:00:00 left"


def test_plain_lines_are_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    plain = LineProgress("train", 10, interval=3600.0)
    for done in range(10):
        plain.update(done)
    assert not capsys.readouterr().err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("train", 3, quiet=True) as report:
        report.update(1)
        report.print_line("x")
    assert isinstance(report, NoProgress)
    assert not capsys.readouterr().err
