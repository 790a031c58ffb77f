"""Hundreds of damaged runs: each is refused in one line, or does what the undamaged one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import damages

COUNT = 400


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(os.name != "posix", reason="the commands are forked")
def test_damaged_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, damages.__file__, str(tmp_path), str(COUNT)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    report = json.loads(ran.stdout)
    with capsys.disabled():
        print(f"\n{report['trials']} damaged runs: {report['ends']}")
    assert report["faults"] == []
    assert sum(report["ends"].values()) == COUNT
    assert all(f"{command}: refused" in report["ends"] for command in ("Translating", "Resuming"))
