"""A training that is killed and resumed ends as if nothing had happened, to the last bit."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import test_train_toy
from qkv.errors import BadRun
from qkv.train import fit
from qkv.train.checkpoint import STATE, load_state
from test_train_toy import ToyBatches, config_of, scores_of, toy

STEPS = 120
COMMAND = [sys.executable, test_train_toy.__file__]
OPTIONS = ["--steps", str(STEPS), "--dropout", "0.3", "--save-every-seconds", "0.05"]


def kill_after(lines: int, run: Path, *options: str) -> int:
    """Start the toy training, kill -9 it once metrics.jsonl has so many lines; the updates in its state."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, str(run), *OPTIONS, *options], env=environment)
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9, "the training ended before it could be killed"
    return load_state(run)["standing"]["step"]


def lines_without_times(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "tokens_per_second")} for line in lines]


def finish(run: Path, resume: bool) -> None:
    objective = toy(dropout=0.3)
    config = config_of(steps=STEPS, validate_every=7, average=3, save_every_seconds=0.05)
    fit(
        objective,
        ToyBatches(),
        config,
        run=run,
        validate=lambda: scores_of(objective),
        resume=resume,
        quiet=True,
    )


def assert_same(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "metrics_bytes"}:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert isinstance(other, list)
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_killed_twice_and_resumed_is_bit_identical(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        finish(tmp_path / "undisturbed", resume=False)
        first = kill_after(10, tmp_path / "killed")
        second = kill_after(25, tmp_path / "killed", "--resume")
        assert 0 < first < second < STEPS
        finish(tmp_path / "killed", resume=True)
    finally:
        torch.set_num_threads(threads)
    assert_same(load_state(tmp_path / "undisturbed"), load_state(tmp_path / "killed"))
    assert lines_without_times(tmp_path / "undisturbed") == lines_without_times(tmp_path / "killed")
    assert (tmp_path / "undisturbed/model.safetensors").read_bytes() == (
        tmp_path / "killed/model.safetensors"
    ).read_bytes()


def test_killed_before_the_first_update_can_be_resumed(tmp_path):
    class Killed(ToyBatches):
        def window(self, epoch, index, rank, world):
            raise SystemExit

    with pytest.raises(SystemExit):
        fit(toy(), Killed(), config_of(), run=tmp_path, quiet=True)
    result = fit(toy(), ToyBatches(), config_of(), run=tmp_path, resume=True, quiet=True)
    assert result.steps == 20


def test_lines_after_the_last_save_are_written_once(tmp_path):
    fit(toy(), ToyBatches(), config_of(steps=8), run=tmp_path, quiet=True)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 12}\n{"kind": "tra')
    fit(toy(), ToyBatches(), config_of(steps=16), run=tmp_path, resume=True, quiet=True)
    assert [line["step"] for line in lines_without_times(tmp_path)] == [4, 8, 12, 16]


def test_damaged_state_is_named(tmp_path):
    fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadRun, match=r"training/state\.pt is damaged"):
        fit(toy(), ToyBatches(), config_of(), run=tmp_path, resume=True, quiet=True)
