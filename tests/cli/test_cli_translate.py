"""The command line: a line in, a line out, and nothing half-written."""

import sys
from pathlib import Path

import pytest

import tiny
from qkv.trace import Trace
from tiny import Refused, full_after


def test_a_line_in_a_line_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, wanted = "one two\n\nthree\n \t\nfour", "un deux\n\ntrois\n\nquatre\n"
    assert tiny.call("translate", run, stdin=lines.encode()) == 0
    assert capsys.readouterr().out == wanted
    (tmp_path / "in.txt").write_text(lines)
    assert tiny.call("translate", run, tmp_path / "in.txt", "-o", tmp_path / "deep/out.txt", "--beam", 1) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "deep/out.txt").read_text() == wanted
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.txt"]


def test_windows_lines_and_byte_order_marks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, stdin=b"\xef\xbb\xbfone two\r\nthree\r\n") == 0
    assert capsys.readouterr().out == "un deux\ntrois\n"


def test_no_input_gives_no_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, stdin=b"") == 0
    assert capsys.readouterr().out == ""


def test_n_best_names_the_line_and_the_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, "--n-best", 3, stdin=b"one two\n\nthree\n") == 0
    rows = [line.split(" ||| ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "1", "2", "3", "3", "3"]
    assert [rows[0][1], rows[3][1], rows[4][1]] == ["un deux", "", "trois"]
    scores = [float(row[2]) for row in rows]
    assert scores[0] >= scores[1] >= scores[2]


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (b"one\n\xff\n", (), "stdin, line 2: 0xff at position 0 is not UTF-8"),
        (b"one\n" + b"one " * 13 + b"\n", ("--strict",), "line 2 has 13 tokens, more than the 12"),
        ("one\n\n你好\n".encode(), ("--strict",), "line 3 holds nothing this model knows"),
        (b"one\n", ("--beam", 2, "--n-best", 3), "3 answers need a beam of at least 3, got 2"),
        (b"one\n" * 101, ("--trace", "t.npz"), "at most 100 lines, got 101"),
        (b"\n", ("--trace", "t.npz"), "nothing to trace"),
        ("你好\n".encode(), ("--trace", "t.npz", "--strict"), "line 1 holds nothing this model knows"),
        (b"one\n", ("--device", "gpu"), "no device 'gpu': use cpu, cuda, cuda:1, mps or auto"),
        (b"one\n", ("--trace", "."), "cannot write"),
        (b"one\n", ("--output", "."), "cannot write"),
    ],
)
def test_translate_refuses_and_writes_nothing(
    lines: bytes,
    options: tuple[object, ...],
    said: str,
    run: Path,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    where = () if "--output" in options else ("--output", "out.txt")
    assert said in refused("translate", run, *where, *options, stdin=lines)
    assert tiny.tree(tmp_path) == {}


def test_a_file_that_cannot_be_read(run: Path, tmp_path: Path, refused: Refused) -> None:
    assert "no such file" in refused("translate", run, tmp_path / "none.txt")
    (tmp_path / "in.txt").write_bytes(b"one\ntwo \xe9\n")
    said = refused("translate", run, tmp_path / "in.txt", "--output", tmp_path / "out.txt")
    assert "in.txt, line 2: 0xe9 at position 4 is not UTF-8" in said
    assert not (tmp_path / "out.txt").exists()


def test_a_failure_leaves_the_old_output(run: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "out.txt").write_text("old")
    refused("translate", run, "--output", tmp_path / "out.txt", stdin=b"one\n\xff\n")
    assert tiny.tree(tmp_path) == {"out.txt": b"old"}


@pytest.mark.parametrize("option", ["--output", "--trace"])
def test_a_full_disk_leaves_no_output(
    option: str, run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 0)
    said = refused("translate", run, option, tmp_path / "out", stdin=b"one\n")
    assert "cannot write" in said
    assert str(tmp_path / "out") in said
    assert "No space left on device" in said
    assert tiny.tree(tmp_path) == {}


def test_on_a_terminal_every_line_is_answered_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered: list[str] = []

    from qkv.cli.commands.translate import translate_lines

    class Lines:
        def __iter__(self):
            for line in (b"one\n", b"two\n"):
                answered.append(capsys.readouterr().out)
                yield line

    class Stdin:
        buffer = Lines()

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Stdin())
    translate_lines(run, None, None, None, 1, None, False)
    assert answered == ["", "un\n"]
    assert capsys.readouterr() == ("deux\n", "")


BAD_LINES = "one two\n你好\n" + "one " * 13 + "\n\nfive\n"
WARNINGS = [
    "qkv: line 2 holds nothing this model knows, '你好': its translation is left empty",
    "qkv: line 3 has 13 tokens, more than the 12 tokens this model was trained for (batch.max_length): only "
    "the first 12 tokens are translated",
    "qkv: 2 of 5 lines could not be translated as they are: 1 too long, so cut, 1 unknown to the model, so "
    "left empty",
]


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_a_bad_line_is_reported_and_does_not_stop_the_others(
    options: tuple[str, ...], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.npz"
    assert tiny.call("translate", run, "--trace", trace, *options, stdin=BAD_LINES.encode()) == 0
    out, err = capsys.readouterr()
    lines = out.split("\n")
    assert len(lines) == 6
    assert (lines[0], lines[1], lines[3], lines[4]) == ("un deux", "", "", "cinq")
    assert lines[2].startswith("un un un")
    assert err.splitlines() == WARNINGS
    assert [example.meta["line"] for example in Trace.load(trace).examples] == [1, 3, 5]


def test_a_file_in_another_language_does_not_fill_the_terminal(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("translate", run, "--quiet", stdin="你好\n".encode() * 30) == 0
    out, err = capsys.readouterr()
    assert out == "\n" * 30
    assert len(err.splitlines()) == 22
    assert "qkv: 30 of 30 lines could not be translated" in err


def test_n_best_of_a_line_without_translation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, "--n-best", 2, "-q", stdin="你好\none\n".encode()) == 0
    assert capsys.readouterr().out.startswith("1 |||  ||| 0.0000\n2 ||| un ||| ")
