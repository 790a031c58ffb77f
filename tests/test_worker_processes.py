"""Work in several processes: every result comes once, and no process outlives its reason to run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from qkv.cost import worker_processes
from qkv.cost.worker_processes import run_in_processes
from qkv.errors import BadData, BadRun

PARENT = """
import sys
from test_worker_processes import wait
from qkv.cost.worker_processes import run_in_processes
if __name__ == "__main__":
    list(run_in_processes(wait, [(sys.argv[1], name) for name in "ab"], 2))
"""


def multiply(one: int, other: int) -> int:
    return one * other


def fail(folder: str, name: str) -> None:
    """The second call fails as soon as the first one runs."""
    if name == "b":
        _wait_for(Path(folder) / "a")
        raise BadData("no text")
    wait(folder, name)


def end(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(folder: str, name: str) -> None:
    """Wait as a training does: SIGTERM is answered by writing a file."""

    def save(*_: object) -> None:
        time.sleep(1)
        (Path(folder) / f"{name} saved").touch()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, save)
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(300)


def test_results_come_with_the_index_of_their_call() -> None:
    results = dict(run_in_processes(multiply, [(2, 3), (4, 5), (6, 7)], 2))
    assert results == {0: 6, 1: 20, 2: 42}


def test_the_error_of_a_call_is_raised_and_the_other_calls_are_told_to_stop(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no text"):
        list(run_in_processes(fail, [(str(tmp_path), name) for name in "abcdef"], 2))
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {"c", "c saved"} == {"a", "a saved"}  # c may have begun before the error of b was seen


def test_a_process_told_to_stop_before_its_first_call_begins_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "STOPPED", threading.Event())
    monkeypatch.setattr(os, "setsid", lambda: None)
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        worker_processes._start_process(threads)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            worker_processes._call(multiply, (2, 3))
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_killed_process_is_told() -> None:
    with pytest.raises(BadRun, match="killed, perhaps because memory ran out"):
        list(run_in_processes(end, [(0,)], 2))


@pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script, str(tmp_path)], env=environment)
    children = [int(_wait_for(tmp_path / name)) for name in "ab"]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(_is_running, children)):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.05)


def _wait_for(path: Path) -> str:
    """The text of a file, as soon as it has one."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)
    return path.read_text()


def _is_running(process: int) -> bool:
    """False too for a process that has ended and was not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
