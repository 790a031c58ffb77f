"""The command line: starting, help and wrong usage."""

import subprocess
import sys
from pathlib import Path

import pytest

import qkv
import tiny
from qkv.task.recipe import read_recipe


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("--version") == 0
    assert capsys.readouterr().out == f"qkv {qkv.__version__}\n"


def test_alone_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    tiny.call()
    out = capsys.readouterr()
    for name in ("demo", "train", "translate", "evaluate", "view", "recipes", "keys"):
        assert name in out.out + out.err


def test_recipes_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("demo-rnn ") and "additive attention" in line for line in lines)


def test_a_recipe_is_printed_to_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("recipes", "demo-rnn") == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert read_recipe(tmp_path / "mine.yaml") == read_recipe("demo-rnn")
    capsys.readouterr()
    assert tiny.call("recipes", "demo-rn") == 2
    assert "no built-in recipe 'demo-rn'. Did you mean 'demo-rnn'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "default"),
    [
        ("train", "runs/RECIPE"),
        ("translate", "stdin"),
        ("translate", "the recipe's"),
        ("evaluate", "the recipe's test data"),
        ("view", "TRACE.png"),
        ("view", "all in a page; in a picture the last cross-attention, else the last layer"),
        ("parts", "all"),
        ("recipes", "all"),
        ("keys", "all"),
        ("bench", "torch's"),
    ],
)
def test_help_shows_defaults_in_words(
    command: str, default: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    assert tiny.call(command, "--help") == 0
    assert f"[default: ({default})]" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "command",
    ["demo", "train", "translate", "evaluate", "view", "recipes", "keys", "parts", "bench", "doctor"],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call(command, "-h") == 0
    assert f"qkv {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        (
            "",
            ["on texts and pictures", "Label texts or pictures", "fill the blanks of a text or of a picture"],
        ),
        ("generate", ["--fill photo.png --output filled.png", "--count 64", "TEXT|PICTURE"]),
        ("classify", ["a.png b.png", "label<tab>probability<tab>file", "or picture files"]),
        ("evaluate", ["generated pictures the Fréchet distance"]),
        ("demo", ["Train small text models"]),
    ],
)
def test_help_says_that_pictures_are_read_and_written(
    command: str, texts: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    assert tiny.call(*command.split(), "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert [text for text in texts if text not in printed] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command"),
        (["train"], "Missing argument"),
        (["translate"], "Missing argument"),
        (["train", "demo-rnn", "--epochs", "3"], "No such option"),
        (["translate", "run", "--beam", "0"], "--beam"),
        (["translate", "run", "--n-best", "0"], "--n-best"),
        (["translate", "run", "--beam", "two"], "--beam"),
        (["evaluate", "run", "--beam", "-1"], "--beam"),
        (["view", "t.npz", "--example", "0"], "--example"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_help_is_fast_because_it_imports_no_torch() -> None:
    program = (
        "import os, sys\n"
        "from qkv.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'tokenizers', 'sacrebleu'} & sys.modules.keys()\n"
        "print(sorted(heavy), os.times().user, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy, seconds = done.stderr.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert float(seconds) < 0.4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told() -> None:
    command = [sys.executable, "-c", "from qkv.cli import main; main()", "--version"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "qkv: output: No space left on device\n")
