"""`qkv bench`: what it prints and writes, what it refuses, and how it stops."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from qkv.bench import Cell
from qkv.cli.commands import bench as benching

SMALL = ("--width", 32, "--heads", 4, "--repeats", 1, "--quiet")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_prints_tables_and_writes_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    specs = ("sdpa", "r={kernel: {name: rfa, features: 8}}", "--lengths", "32,64", "--lengths", 16)
    outputs = ("--what", "all", "--threads", 1, "--json", json_file, "--plot", picture)
    assert tiny.call("bench", *specs, *outputs, *SMALL) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head = out.splitlines()[:3]
    assert "1 thread, qkv" in head[0]
    assert head[1] == "core, causal, batch 1, width 32, 4 heads, fp32, cpu, median of 1 in turn"
    assert head[2] == "  r     {kernel: {name: rfa, features: 8}}"
    starts = [line.split(":")[0] for line in out.splitlines() if "as fast as sdpa" in line]
    assert starts == ["forward", "backward", "decode"]
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")][2:5] == ["16", "32", "64"]
    cells = json.loads(json_file.read_text())["cells"]
    assert len(cells) == 3 * 3 * 2
    assert all(cell["seconds"] > 0 for cell in cells)
    assert picture.read_text().startswith("<?xml")
    assert out.endswith(f"{picture}\n")


def test_a_length_that_is_too_much_leaves_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("bench", "location", "--lengths", "64,65", *SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("– forward, location, 65 tokens: Location(length=64) scores at most 64 keys")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rfaa"], "rfaa: there is no such attention. Did you mean 'rfa'?"),
        (["sdpa", "sdpa"], "two specs have the label 'sdpa'"),
        (["predictive"], "predictive: this attention cannot be built:"),
        (["rfa", "--lengths", "9" * 5000], "--lengths takes numbers of tokens"),
        (["rfa", "--lengths", "12,x"], "--lengths takes numbers of tokens like 512 or 1k,4k,16k, up to"),
        (["rfa", "--lengths", "0"], "got '0'"),
        (["rfa", "--width", "30"], "d_model=30 cannot be split into heads=8"),
        (["rfa", "--device", "cpuu"], "--device cpuu: "),
        (["rfa", "--plot", "p.gif"], "pictures are written as .png, .svg, .pdf, not as 'p.gif'"),
    ],
)
def test_a_mistake_is_one_line(refused: tiny.Refused, arguments: list[str], message: str) -> None:
    assert message in refused("bench", *arguments)


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_where_nothing_can_be_written_nothing_is_measured(
    refused: tiny.Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("qkv.cli.commands.bench.measure", lambda *_: pytest.fail("measured first"))
    folder, file = tmp_path / "taken.png", tmp_path / "file"
    folder.mkdir()
    file.touch()
    assert f"cannot write {folder}: it is a folder" in refused("bench", "rfa", option, folder)
    assert "cannot write" in refused("bench", "rfa", option, file / "bench.png")
    assert sorted(tmp_path.iterdir()) == [file, folder]


@pytest.mark.parametrize("arguments", [["--what", "sideways"], ["--dtype", "fp8"], ["--repeats", "0"], []])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("bench", *(["rfa"] if arguments else []), *arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_prints_and_writes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> Iterator[Cell]:
        yield Cell("forward", "sdpa", 8, 1e-3)
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "measure", stopped)
    json_file = tmp_path / "bench.json"
    assert tiny.call("bench", "sdpa", "rfa", "--lengths", "8,16", "--json", json_file, *SMALL) == 130
    out, err = capsys.readouterr()
    assert "       8   1.00" in out
    assert err == "stopped; the tables show what was measured until then\n"
    assert [cell["label"] for cell in json.loads(json_file.read_text())["cells"]] == ["sdpa"]


def test_stopped_before_anything_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> Iterator[Cell]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(benching, "measure", stopped)
    assert tiny.call("bench", "sdpa", "--plot", "never.png", *SMALL) == 130
    assert "never.png" not in capsys.readouterr().out


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("bench", "-h") == 0
    out = capsys.readouterr().out
    for option in ("--lengths", "--what", "--memory", "--plot", "--threads", "--core", "--causal"):
        assert option in out
