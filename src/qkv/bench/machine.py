"""The machine that numbers were measured on."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from qkv import __version__
from qkv.kernel import native

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What a number means nothing without.

    cores: that this process may use.  threads: that torch uses.  memory, free: bytes.  gpu: its name and its
    memory, or "".  native: the instruction set of the native engine, or "" where it is not built.
    """

    cpu: str
    cores: int
    threads: int
    memory: int
    free: int
    gpu: str
    native: str
    qkv: str
    torch: str
    python: str

    def __str__(self) -> str:
        engine = f"native engine {self.native}" if self.native else "without the native engine"
        told = [self.cpu, f"{self.cores} core{'s' * (self.cores > 1)}", f"{self.memory / GIB:.0f} GiB"]
        told += [self.gpu] * bool(self.gpu)
        told += [f"{self.threads} thread{'s' * (self.threads > 1)}", f"qkv {self.qkv}", f"torch {self.torch}"]
        return ", ".join([*told, engine])


def this_machine() -> Machine:
    """Look at the machine, and at the threads that torch uses now."""
    memory, free = memory_bytes()
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        memory=memory,
        free=free,
        gpu=_gpu(),
        native=str(native.about()["instruction set"]),
        qkv=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
    )


def memory_bytes() -> tuple[int, int]:
    """Main memory, and how much of it a program may still take; 0 where the system does not say."""
    whole = _pages("SC_PHYS_PAGES")
    free = _available() or _pages("SC_AVPHYS_PAGES")
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and limit < whole:
        whole, free = limit, min(free, limit - used + _files_held())
    return whole, max(free, 0)


def _files_held() -> int:
    """Bytes of files that the system holds in memory and gives back when asked."""
    try:
        told = Path("/sys/fs/cgroup/memory.stat").read_text().split()
    except OSError:
        return 0
    found = dict(zip(told[::2], told[1::2], strict=False))
    return int(found.get("inactive_file", 0))


def _cpu() -> str:
    cpus = Path("/proc/cpuinfo")
    for line in cpus.read_text().splitlines() if cpus.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    found = torch.cuda.get_device_properties(0)
    return f"{found.name} ({found.total_memory / GIB:.0f} GiB)"


def _pages(name: str) -> int:
    try:
        return max(os.sysconf(name), 0) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _available() -> int:
    """Linux counts as free what only caches files."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
