"""Peak memory of one call, measured in a fresh process, and a limit that turns an allocation that is too
large into an error instead of a killed process.
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

from qkv.bench.calls import draw_inputs, prepare_call
from qkv.bench.machine import read_memory_sizes
from qkv.bench.specs import Contender, Setting
from qkv.errors import QKVError
from qkv.spec import AttentionSpec

OUT_OF_MEMORY = "out of memory"
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "bad_alloc", "had no memory")
# One process may take this fraction of the free memory; the rest is left to the system.
FREE_FRACTION = 0.9
# A short call before the measurement loads code and starts threads.
WARM_UP_LENGTH = 64


class MeasurementFailed(Exception):
    """A measurement that has no result; the message says why."""


def describe_failure(error: BaseException) -> str:
    """The reason of a failed call on one line; `OUT_OF_MEMORY` for every kind of failed allocation."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(text in message for text in OUT_OF_MEMORY_TEXTS):
        return OUT_OF_MEMORY
    return message or type(error).__name__


@contextmanager
def limit_memory(device: str) -> Iterator[None]:
    """Make allocations beyond the free memory fail, on Linux and for the CPU only."""
    _, free = read_memory_sizes()
    if sys.platform != "linux" or torch.device(device).type != "cpu" or not free:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _read_status("VmData") + int(FREE_FRACTION * free)
    hard = before[1]
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def measure_peak(mode: str, contender: Contender, length: int, setting: Setting) -> int:
    """Peak memory of one call in a fresh process.

    Args:
        mode: a key of `qkv.bench.calls.MODES`.
        contender: the attention.
        length: tokens.
        setting: what all contenders share.

    Returns:
        Bytes beyond inputs and weights, as `measure_memory` counts them.

    Raises:
        MeasurementFailed: if the call or its process fails.
    """
    job = {
        "mode": mode,
        "length": length,
        "threads": torch.get_num_threads(),
        "setting": asdict(setting),
        "contender": {**asdict(contender), "spec": contender.spec.to_dict()},
    }
    command = [sys.executable, "-c", "from qkv.bench.memory import run_job; run_job()"]
    process = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if process.returncode < 0:
        signal = -process.returncode
        raise MeasurementFailed(
            f"the measuring process was killed by signal {signal}, probably for lack of memory: measure a "
            "shorter length, or free memory"
        )
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        silent = "the measuring process failed without a message: measure a shorter length"
        raise MeasurementFailed(lines[-1] if lines else silent)
    result = json.loads(process.stdout)
    if "failure" in result:
        raise MeasurementFailed(result["failure"])
    return result["peak"]


def run_job() -> None:
    """Run in the fresh process: read a job from stdin, write its peak or its failure to stdout."""
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    setting = Setting(**job["setting"])
    spec = AttentionSpec.from_dict(job["contender"].pop("spec"))
    contender = Contender(spec=spec, **job["contender"])
    try:
        with limit_memory(setting.device):
            result: dict[str, Any] = {"peak": _measure_call(job["mode"], contender, job["length"], setting)}
    except (QKVError, RuntimeError, MemoryError) as error:
        result = {"failure": describe_failure(error)}
    print(json.dumps(result))


def measure_memory(call: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes that a call takes beyond the memory in use before it.

    Only the first call of a process counts in full, because later ones reuse memory that was freed.

    Args:
        call: the function.
        device: on a CPU the memory of the process counts, on CUDA what torch allocates.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    before = _read_process_peak(reset=True)
    call()
    return max(_read_process_peak() - before, 0)


def _measure_call(mode: str, contender: Contender, length: int, setting: Setting) -> int:
    prepare_call(mode, contender, draw_inputs(min(length, WARM_UP_LENGTH), setting), setting).call()
    call = prepare_call(mode, contender, draw_inputs(length, setting), setting).call
    return measure_memory(call, setting.device)


def _read_process_peak(reset: bool = False) -> int:
    """The peak memory of this process in bytes; `reset` starts a new peak first, where the system can.

    Linux reports it in /proc. `ru_maxrss` of a child process would start from its parent's value.
    """
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    if peak := _read_status("VmHWM"):
        return peak
    import resource

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else 1024 * maximum


def _read_status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
