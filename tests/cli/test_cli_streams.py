"""The command line: standard streams closed, broken or not UTF-8; pipes and odd names as inputs; signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import tiny
from qkv.cli import error_messages

PROGRAM = [sys.executable, "-m", "qkv"]


def shell(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `qkv` stands for the program, and $1, $2 ... for the arguments."""
    line = f'qkv() {{ {sys.executable} -m qkv "$@"; }}; {command}'
    words = ["bash", "-c", line, "bash", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)


def test_a_closed_stdin_or_stdout_that_is_needed_is_a_mistake(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    done = shell(
        "qkv translate $1 <&-; echo $?; qkv translate $1 $2 >&-; echo $? >&2", run, tmp_path / "in.txt"
    )
    assert done.stdout == "2\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "qkv: stdin is closed: name a file, or pipe lines in"
    assert lines[1].startswith("qkv: stdout is closed, and the output would be lost")
    assert lines[2:] == ["2"]


def test_streams_that_are_not_needed_may_be_closed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    done = shell("qkv translate $1 $2 -o $3 <&- >&- 2>&-", run, tmp_path / "in.txt", tmp_path / "out.txt")
    assert done.returncode == 0
    assert (tmp_path / "out.txt").read_text() == "un\n"


def test_training_goes_on_without_any_stream(tmp_path: Path) -> None:
    recipe = tiny.recipe_in(tmp_path)
    assert (
        shell("qkv train $1 --out $2 --set train.steps=2 <&- >&- 2>&-", recipe, tmp_path / "run").returncode
        == 0
    )
    assert (tmp_path / "run/model.safetensors").exists()


def test_output_is_utf_8_whatever_the_locale_says(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "é"
    folder.mkdir()
    (folder / "in.txt").write_text("one\n")
    done = subprocess.run(
        [*PROGRAM, "view", folder / "none.npz"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        f"qkv: {folder}/none.npz: there is no such file: check the path, or write a "
        "trace with --trace FILE (qkv translate, generate, classify or caption)\n".encode(),
    )


def test_the_reader_of_the_output_may_go() -> None:
    done = shell("qkv parts | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout.splitlines()[1] in ("0", "1")
    assert done.stderr == ""


def feed(pipe: Path, content: bytes) -> None:
    threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()


def test_pipes_are_read(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feed(pipe, b"one two\n")
    assert tiny.call("translate", run, pipe) == 0
    assert capsys.readouterr().out == "un deux\n"
    feed(pipe, (run.parent / "tiny.yaml").read_bytes())
    assert tiny.call("train", pipe, "--out", tmp_path / "run", "--set", "train.steps=1", "--quiet") == 0
    assert tiny.call("translate", run, "--trace", tmp_path / "t.npz", "-q", stdin=b"one two\n") == 0
    feed(pipe, (tmp_path / "t.npz").read_bytes())
    assert tiny.call("view", pipe, "--png", tmp_path / "t.svg") == 0


def test_a_dash_is_stdin_and_stdout(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny.call("translate", run, "-", "-o", "-", stdin=b"one two\n") == 0
    assert capsys.readouterr().out == "un deux\n"
    assert tiny.tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["price$us.txt", "~draft.txt", "$HOME", "a[1] é.txt", "bad\udcff.txt"])
def test_names_are_taken_literally_where_there_is_such_a_file(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("one two\n")
    assert tiny.call("translate", run, name, "-o", f"{name}.out", "--trace", f"{name}.npz", "-q") == 0
    assert Path(f"{name}.out").read_text() == "un deux\n"
    assert tiny.call("view", f"{name}.npz") == 0


@pytest.mark.parametrize("name", ["~nobody-here", "n\udcff"])
def test_runs_with_odd_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.recipe_in(tmp_path).rename(f"{name}.yaml")
    assert tiny.call("train", f"{name}.yaml", "--out", name, "--quiet", "--set", "train.steps=2") == 0
    assert tiny.call("translate", name, stdin=b"one two\n") == 0
    assert tiny.call("evaluate", name, "-q", "--json", f"{name}.json") == 0


@pytest.mark.parametrize(
    "place", ["recipe", "source", "trace", "run", "output", "trace output", "json", "png"]
)
def test_a_folder_where_a_file_is_expected(
    place: str, run: Path, tmp_path: Path, refused: tiny.Refused
) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    commands = {
        "recipe": ("train", folder),
        "source": ("translate", run, folder),
        "trace": ("view", folder),
        "run": ("translate", folder),
        "output": ("translate", run, "-o", folder),
        "trace output": ("translate", run, "--trace", folder),
        "json": ("evaluate", run, "--json", folder),
        "png": ("view", folder, "--png", folder),
    }
    if place in ("trace", "png"):
        assert tiny.call(*commands[place]) == 2
    else:
        assert "folder" in refused(*commands[place], stdin=b"one\n")


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("qkv.cli.commands.recipes.list_builtin_recipes", fail)
    return tiny.call("recipes")


def test_what_nobody_foresaw_is_one_line_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert fail_with(monkeypatch, ZeroDivisionError("a\nb")) == error_messages.UNEXPECTED == 70
    out, err = capsys.readouterr()
    (log,) = tmp_path.iterdir()
    assert (out, err) == (
        "",
        f"qkv: unexpected ZeroDivisionError: a b; the traceback is in {log}; "
        "please report it with that file\n",
    )
    assert "Traceback" in log.read_text()
    assert "list_builtin_recipes" in log.read_text()


def test_without_a_place_for_the_log_the_line_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert fail_with(monkeypatch, ZeroDivisionError()) == 70
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("std::bad_alloc"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(monkeypatch, error) == 2
    err = capsys.readouterr().err
    assert err.startswith("qkv: out of memory")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Denied", "x")]
)
def test_errors_of_the_system_are_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail_with(monkeypatch, error) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail_with(monkeypatch, KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_file(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out.txt"
    heed = partial(signal.signal, number, signal.SIG_DFL)  # nohup ignores SIGHUP
    command = [*PROGRAM, "translate", run, "-o", output]
    with subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=heed) as child:
        for _ in range(600):
            if list(tmp_path.iterdir()):
                break
            time.sleep(0.1)
        (draft,) = tmp_path.iterdir()
        child.send_signal(number)
        assert child.wait(60) == 128 + number
    assert draft != output
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    tiny.call("--version")
    assert signal.getsignal(signal.SIGTERM) is before
