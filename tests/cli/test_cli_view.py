"""The command line: traces and their pictures."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import tiny
from qkv.trace import Example, Grid, Trace, WeightAxes


@pytest.fixture(scope="module")
def trace(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    assert tiny.call("translate", run, "--trace", path, "-q", stdin=b"one two three\nfour\n") == 0
    return path


def test_a_trace_can_be_loaded(trace: Path) -> None:
    examples = Trace.load(trace).examples
    assert [example.target[:-1] for example in examples] == [("un", "deux", "trois"), ("quatre",)]
    assert examples[0].weights["cross.0"].shape == (1, 4, 4)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="view draws with matplotlib")
def test_view_draws_a_picture(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.png"
    assert tiny.call("view", trace, "--png", picture, "--example", 2) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="view draws with matplotlib")
def test_view_draws_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = {"text": ("a", "dog"), "image": Grid(2, 2, "dog.jpg")}
    weights = {"cross.0": np.full((1, 2, 4), 1 / 4)}
    example = Example(axes, weights, {"cross.0": WeightAxes("text", "image")})
    Trace((example,), "caption").save(tmp_path / "t.npz")
    assert tiny.call("view", tmp_path / "t.npz") == 0
    said, written = capsys.readouterr().out.splitlines()
    assert said == "dog.jpg is not in the picture: there is no such file beside the trace or in this folder"
    assert written == str(tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--example", 3), "no example 3"),
        (("--heads", "first"), "--heads takes mean, all or the number of a head from 0, got 'first'"),
        (("--heads", 7), "7"),
        (("--heads", "9" * 5000), "--heads takes mean, all or the number of a head"),
        (("--layers", "cros"), "Did you mean 'cross"),
        (("--png", "picture.bmpp"), "picture.bmpp"),
    ],
)
def test_view_refuses(
    options: tuple[object, ...],
    message: str,
    trace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    where = () if "--png" in options else ("--png", "p.png")
    assert tiny.call("view", trace, *where, *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("qkv: ")
    assert err.count("\n") == 1
    assert message in err
    assert tiny.tree(tmp_path) == {}


def test_view_refuses_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.npz").write_text("words")
    for name in ("t.npz", "none.npz"):
        assert tiny.call("view", tmp_path / name) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"qkv: {tmp_path / name}")
        assert err.count("\n") == 1


def test_occlusion_is_added_to_a_trace(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: tiny.Refused
) -> None:
    path = tmp_path / "t.npz"
    options = ("translate", run, "--occlude", "-q")
    assert tiny.call(*options, "--trace", path, stdin=b"one two three\n") == 0
    effects = Trace.load(path).examples[0].weights["occlusion.source"]
    assert effects.shape == (1, 4, 4)
    assert effects[0, 0].argmax() == 0  # "un" needs "one" most
    assert "--occlude adds to a trace: pass --trace FILE too" in refused(*options, stdin=b"one\n")
