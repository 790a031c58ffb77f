"""Peak memory of one call, in a process of its own; and a bound, so that a call too large fails where it
would have the process killed.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qkv.bench.calls import draw, ready
from qkv.bench.machine import memory_bytes
from qkv.bench.specs import Contender, Setting
from qkv.errors import QKVError
from qkv.spec import AttentionSpec

FULL = "out of memory"
MARKS = ("can't allocate memory", "out of memory", "bad_alloc", "had no memory")
# Of what is free, one process may take so much; the rest is for what the system needs meanwhile.
SHARE = 0.9
# Before measuring, a short call loads code and starts threads.
SHORT = 64


class Unmeasured(Exception):
    """A measurement that did not come about; the message says why."""


def reason(error: BaseException) -> str:
    """What was in the way, on one line."""
    told = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(mark in told for mark in MARKS):
        return FULL
    return told or type(error).__name__


@contextmanager
def bounded(device: str) -> Iterator[None]:
    """On Linux and a CPU: let an allocation fail that takes more than what is free now."""
    _, free = memory_bytes()
    if sys.platform != "linux" or torch.device(device).type != "cpu" or not free:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _status("VmData") + int(SHARE * free)
    hard = before[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def peak(what: str, contender: Contender, length: int, setting: Setting) -> int:
    """What one call takes, in a fresh process: bytes beyond inputs and weights (see `taken`).

    Raises Unmeasured.
    """
    task = {
        "what": what,
        "length": length,
        "threads": torch.get_num_threads(),
        "setting": asdict(setting),
        "contender": {**asdict(contender), "spec": contender.spec.to_dict()},
    }
    command = [sys.executable, "-c", "from qkv.bench.memory import answer; answer()"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise Unmeasured(f"the process was killed by signal {-done.returncode}, as for a lack of memory")
    if done.returncode:
        raise Unmeasured((done.stderr.strip().splitlines() or ["the process failed"])[-1])
    told = json.loads(done.stdout)
    if "why" in told:
        raise Unmeasured(told["why"])
    return told["peak"]


def answer() -> None:
    """In the process of its own: read a task from stdin, write what it took to stdout."""
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    setting = Setting(**task["setting"])
    spec = AttentionSpec.from_dict(task["contender"].pop("spec"))
    contender = Contender(spec=spec, **task["contender"])
    try:
        with bounded(setting.device):
            told: dict[str, Any] = {"peak": _taken(task["what"], contender, task["length"], setting)}
    except (QKVError, RuntimeError, MemoryError) as error:
        told = {"why": reason(error)}
    print(json.dumps(told))


def taken(call: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that a call takes beyond what is there before it; only the first call of a process counts all.

    On a CPU what the process occupies, on CUDA what torch allocates.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    before = _highest(from_now=True)
    call()
    return max(_highest() - before, 0)


def _taken(what: str, contender: Contender, length: int, setting: Setting) -> int:
    ready(what, contender, draw(min(length, SHORT), setting), setting).call()
    return taken(ready(what, contender, draw(length, setting), setting).call, setting.device)


def _highest(from_now: bool = False) -> int:
    """The most memory this process has occupied, in bytes; `from_now` first forgets what was before.

    A child's ru_maxrss begins with that of the process that started it, so Linux is asked for its own.
    """
    if from_now:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    if found := _status("VmHWM"):
        return found
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
