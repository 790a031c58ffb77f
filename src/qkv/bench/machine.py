"""The machine on which numbers are measured."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from qkv import __version__
from qkv.cores import count_cores
from qkv.kernel import native

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The hardware and the versions that belong to every measured number.

    Args:
        cpu: the name of the processor.
        cores: cores that this process may use.
        threads: threads that torch uses.
        memory: main memory, in bytes.
        free: main memory that a program may still take, in bytes.
        gpu: name and memory of the first GPU; "" without one.
        native: instruction set of the native engine; "" where it is not built.
        qkv: version of this package.
        torch: version of torch.
        python: version of Python.
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
        facts = [self.cpu, f"{self.cores} core{'s' * (self.cores > 1)}", f"{self.memory / GIB:.0f} GiB"]
        facts += [self.gpu] * bool(self.gpu)
        facts += [
            f"{self.threads} thread{'s' * (self.threads > 1)}",
            f"qkv {self.qkv}",
            f"torch {self.torch}",
        ]
        return ", ".join([*facts, engine])


def describe_machine() -> Machine:
    """The facts of this machine, with the number of threads that torch uses at the moment."""
    memory, free = read_memory_sizes()
    return Machine(
        cpu=_read_cpu_name(),
        cores=count_cores(),
        threads=torch.get_num_threads(),
        memory=memory,
        free=free,
        gpu=_describe_gpu(),
        native=str(native.describe_library()["instruction set"]),
        qkv=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
    )


def read_memory_sizes() -> tuple[int, int]:
    """Main memory, and the part that a program may still take, in bytes.

    A limit of the control group (a container) counts if it is lower. A size that the system does not report
    is 0.
    """
    total = _pages_in_bytes("SC_PHYS_PAGES")
    free = _read_available() or _pages_in_bytes("SC_AVPHYS_PAGES")
    limit, used = (_read_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and limit < total:
        total, free = limit, min(free, limit - used + _read_file_cache())
    return total, max(free, 0)


def _read_file_cache() -> int:
    """Bytes of cached files in the control group, which the system releases on demand."""
    try:
        fields = Path("/sys/fs/cgroup/memory.stat").read_text().split()
    except OSError:
        return 0
    sizes = dict(zip(fields[::2], fields[1::2], strict=False))
    return int(sizes.get("inactive_file", 0))


def _read_cpu_name() -> str:
    cpus = Path("/proc/cpuinfo")
    for line in cpus.read_text().splitlines() if cpus.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _describe_gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)"


def _pages_in_bytes(name: str) -> int:
    try:
        return max(os.sysconf(name), 0) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _read_available() -> int:
    """Free memory on Linux, cached files included; 0 on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def _read_number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
