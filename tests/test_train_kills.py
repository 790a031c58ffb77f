"""A training killed at any of its file operations resumes to the same bits, or starts clean."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kills

# together at least 300
FEWEST = {"fresh": 120, "resumed": 60, "initial": 120, "pair": 120, "shards": 120}
FEWEST |= dict.fromkeys(kills.OTHER_TASKS, 80)


def stops_of(folder: Path, kind: str, *options: int) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, kills.__file__, str(folder), kind, *map(str, options)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return int(ran.stdout)


@pytest.mark.skipif(os.name != "posix", reason="the stopped processes are forked")
def test_killed_at_some_operations(tmp_path: Path) -> None:
    assert stops_of(tmp_path, "fresh", 4, 60) >= 2


@pytest.mark.skipif(os.name != "posix", reason="the stopped processes are forked")
def test_killed_at_some_operations_of_a_training_from_another_run(tmp_path: Path) -> None:
    assert stops_of(tmp_path, "initial", 20, 40) >= 3


@pytest.mark.skipif(os.name != "posix", reason="the stopped processes are forked")
def test_killed_while_a_state_is_carried(tmp_path: Path) -> None:
    assert stops_of(tmp_path, "carry", 60, 45) >= 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(os.name != "posix", reason="the stopped processes are forked")
@pytest.mark.parametrize("kind", FEWEST)
def test_killed_at_every_operation(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stops = stops_of(tmp_path, kind)
    with capsys.disabled():
        print(f"\n{kind}: {stops} stops")
    assert stops >= FEWEST[kind]
