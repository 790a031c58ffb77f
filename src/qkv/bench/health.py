"""What an installation can do, and whether its fast routes compute what torch computes in float64."""

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from qkv.bench.machine import GIB, Machine, this_machine
from qkv.kernel import KERNELS, native
from qkv.layer import Attention
from qkv.part import Part
from qkv.score import Additive

BUILD = "pip install --force-reinstall --no-cache-dir qkv, where there is a C++17 compiler and CMake"
# float32 has 24 bits; the sums and the division of a short sequence lose a few of them.
LARGEST_ERROR = 1e-4
POSITIONS = 64


@dataclass(frozen=True)
class Check:
    """An attention in float32 by its fast route against torch in float64, as the largest relative error."""

    part: str
    route: str
    error: float

    @property
    def ok(self) -> bool:
        """Whether they agree; an error that is no number does not."""
        return self.error <= LARGEST_ERROR


@dataclass(frozen=True)
class Health:
    """All that `qkv doctor` tells.

    native: as `native.about()`.  triton: its version, or "".
    extras: of every optional extra the packages that are missing.
    """

    machine: Machine
    omp: str
    native: dict[str, str | bool]
    triton: str
    extras: dict[str, list[str]]
    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether every check is ok."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        checks = [{**asdict(check), "ok": check.ok} for check in self.checks]
        return {**asdict(self), "checks": checks, "healthy": self.healthy}


def examine() -> Health:
    """Look at the installation and run the checks."""
    return Health(
        machine=this_machine(),
        omp=os.environ.get("OMP_NUM_THREADS", ""),
        native=native.about(),
        triton=_version("triton"),
        extras=_extras(),
        checks=[_checked(part) for part in (*(kernel() for kernel in KERNELS.values()), Additive())],
    )


def lines_of(found: Health) -> Iterator[str]:
    """The same for people."""
    machine = found.machine
    for name, told in (
        ("versions", f"qkv {machine.qkv}, Python {machine.python}, torch {machine.torch}"),
        ("CPU", f"{machine.cpu}; {_threads(found)}"),
        ("memory", f"{machine.memory / GIB:.1f} GiB, {machine.free / GIB:.1f} GiB free"),
        ("GPU", machine.gpu or "none that torch can use"),
        ("native", _native(found.native)),
        ("Triton", _triton(found)),
    ):
        yield f"{name:<10}{told}"
    for number, (extra, missing) in enumerate(found.extras.items()):
        told = f"missing {', '.join(missing)}: pip install 'qkv[{extra}]'" if missing else "present"
        yield f"{'' if number else 'extras':<10}{extra:<7}{told}"
    for number, check in enumerate(found.checks):
        told = f"{check.part:<9}relative error {check.error:.1e}  {'ok' if check.ok else 'FAILED'}"
        yield f"{'' if number else 'check':<10}{told}  ({check.route} against float64)"


def _threads(found: Health) -> str:
    machine = found.machine
    cores = f"{machine.cores} core{'s' * (machine.cores > 1)}"
    omp = f"OMP_NUM_THREADS={found.omp}" if found.omp else "OMP_NUM_THREADS is not set"
    return f"{cores}, torch uses {machine.threads} thread{'s' * (machine.threads > 1)}; {omp}"


def _native(about: dict[str, str | bool]) -> str:
    if not about["built"]:
        return f"not built: feature maps and additive scores run through torch. To get it: {BUILD}"
    told = f"built, {about['instruction set']}, {about['compiler']}"
    return f"{told}: takes feature-map kernels and additive scores on the CPU"


def _triton(found: Health) -> str:
    gpu = bool(found.machine.gpu)
    if not found.triton:
        lost = "feature-map kernels on the GPU run through torch" if gpu else "nothing is lost without a GPU"
        return f"not installed: {lost}"
    ours = "torch.compile and feature-map kernels use it on an NVIDIA GPU of capability 8.0 or later"
    return f"{found.triton}: {ours}{'' if gpu else '; there is none'}"


def _extras() -> dict[str, list[str]]:
    """Of every optional extra of the installed package, the packages that are missing."""
    try:
        about = metadata.metadata("qkv")
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, list[str]] = {name: [] for name in about.get_all("Provides-Extra", [])}
    for required in about.get_all("Requires-Dist", []):
        found = re.match(r"""([\w.-]+).*\bextra\s*==\s*["']([\w-]+)["']""", required)
        if found and found[1] != "qkv" and not _version(found[1]):
            extras[found[2]].append(found[1])
    return extras


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@torch.no_grad()
def _checked(part: Part) -> Check:
    """Causal attention with this part on a short input in float32, against the same in float64."""
    rng_state = torch.get_rng_state()
    torch.manual_seed(0)
    chosen: dict[str, Any] = {part.axis: part}
    layer = Attention(32, heads=2, **chosen, causal=True).eval()
    x = torch.randn(2, POSITIONS, 32)
    torch.set_rng_state(rng_state)
    engine = native.available() and (part.axis == "score" or not layer.spec.kernel.forms_weights)
    out = layer(x)
    expected = layer.double().attend(x.double()).out
    error = (out - expected).abs().max() / expected.abs().max()
    return Check(part.name, "native engine" if engine else "torch", error.item())
