"""What an installation can do, and whether its fast backends compute the same as torch in float64."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from qkv import requirements
from qkv.bench.machine import GIB, Machine, describe_machine
from qkv.kernel import KERNELS, native
from qkv.layer import Attention
from qkv.part import Part
from qkv.requirements import Unmet
from qkv.score import Additive
from qkv.torch_internals import missing_names

# float32 has 24 bits, of which the sums and the division of a short sequence lose a few.
LARGEST_ERROR = 1e-4
POSITIONS = 64


@dataclass(frozen=True)
class Check:
    """A comparison of attention in float32 by its fastest backend with torch in float64.

    Args:
        part: The name of the part.
        route: The backend that ran.
        error: The largest relative error.
    """

    part: str
    route: str
    error: float

    @property
    def ok(self) -> bool:
        """Whether the results agree; NaN is not ok."""
        return self.error <= LARGEST_ERROR


@dataclass(frozen=True)
class Health:
    """Everything that `qkv doctor` reports.

    Args:
        machine: The hardware and the versions.
        omp: The environment variable OMP_NUM_THREADS, or "".
        native: The native engine, as `native.describe_library()`.
        triton: The version of Triton, or "".
        native_declined: Why the native engine is not used although it may be built, or "".
        unmet: The requirements that are not met; None where qkv is imported without an installation.
        extras: The requirements of every optional extra that are not met.
        checks: The comparisons of backends.
    """

    machine: Machine
    omp: str
    native: dict[str, str | bool]
    triton: str
    native_declined: str
    unmet: list[Unmet] | None
    extras: dict[str, list[Unmet]]
    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """Whether every check is ok and no requirement is unmet."""
        return all(check.ok for check in self.checks) and not self.unmet

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to plain data for JSON.

        Returns:
            The fields by name, and "healthy".
        """
        checks = [{**asdict(check), "ok": check.ok} for check in self.checks]
        unmet = None if self.unmet is None else [entry._asdict() for entry in self.unmet]
        extras = {
            name: [requirement._asdict() for requirement in missing] for name, missing in self.extras.items()
        }
        return {**asdict(self), "unmet": unmet, "extras": extras, "checks": checks, "healthy": self.healthy}


def examine() -> Health:
    """Examine the installation and run the checks.

    Returns:
        The report.
    """
    parts = (*(kernel() for kernel in KERNELS.values()), Additive())
    return Health(
        machine=describe_machine(),
        omp=os.environ.get("OMP_NUM_THREADS", ""),
        native=native.describe_library(),
        triton=_version("triton"),
        native_declined=missing_names(),
        unmet=requirements.find_unmet() if requirements.is_installed() else None,
        extras={name: requirements.find_unmet(name) for name in requirements.list_extras()},
        checks=[_compare_with_float64(part) for part in parts],
    )


def report_lines(health: Health) -> Iterator[str]:
    """Format a report for the terminal.

    Args:
        health: The report.

    Yields:
        One line at a time.
    """
    machine = health.machine
    for name, text in (
        ("versions", f"qkv {machine.qkv}, Python {machine.python}, torch {machine.torch}"),
        ("packages", _describe_packages(health.unmet)),
        ("CPU", f"{machine.cpu}; {_describe_threads(health)}"),
        ("memory", f"{machine.memory / GIB:.1f} GiB, {machine.free / GIB:.1f} GiB free"),
        ("GPU", machine.gpu or "none that torch can use"),
        ("native", _describe_native(health)),
        ("Triton", _describe_triton(health)),
    ):
        yield f"{name:<10}{text}"
    for number, (extra, unmet) in enumerate(health.extras.items()):
        status = requirements.describe_fix(unmet) if unmet else "present"
        yield f"{'' if number else 'extras':<10}{extra:<7}{status}"
    for number, check in enumerate(health.checks):
        text = f"{check.part:<9}relative error {check.error:.1e}  {'ok' if check.ok else 'FAILED'}"
        yield f"{'' if number else 'check':<10}{text}  ({check.route} against float64)"


def _describe_packages(unmet: Sequence[Unmet] | None) -> str:
    if unmet is None:
        return "not compared: qkv is imported from a folder and not installed"
    return requirements.describe_fix(unmet) if unmet else "all that qkv requires, in versions that it accepts"


def _describe_threads(health: Health) -> str:
    machine = health.machine
    cores = f"{machine.cores} core{'s' * (machine.cores > 1)}"
    omp = f"OMP_NUM_THREADS={health.omp}" if health.omp else "OMP_NUM_THREADS is not set"
    return f"{cores}, torch uses {machine.threads} thread{'s' * (machine.threads > 1)}; {omp}"


def _describe_native(health: Health) -> str:
    about = health.native
    if not about["built"]:
        rebuild = requirements.format_rebuild_command() or "install qkv again from its source"
        effect = "feature maps and additive scores run through torch"
        return (
            f"not used, because {about['reason']}: {effect}. With a C++17 compiler this builds it: {rebuild}"
        )
    text = f"built, {about['instruction set']}, {about['compiler']}"
    if health.native_declined:
        return f"{text}: not used, because {health.native_declined}"
    return f"{text}: takes feature-map kernels and additive scores on the CPU"


def _describe_triton(health: Health) -> str:
    gpu = bool(health.machine.gpu)
    if not health.triton:
        effect = (
            "feature-map kernels on the GPU run through torch" if gpu else "nothing is lost without a GPU"
        )
        return f"not installed: {effect}"
    purpose = "torch.compile and feature-map kernels use it on an NVIDIA GPU of capability 8.0 or later"
    return f"{health.triton}: {purpose}{'' if gpu else '; there is none'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@torch.no_grad()
def _compare_with_float64(part: Part) -> Check:
    """Compare causal attention with this part on a short input in float32 with the same in float64."""
    rng_state = torch.get_rng_state()
    torch.manual_seed(0)
    options: dict[str, Any] = {part.axis: part}
    layer = Attention(32, heads=2, **options, causal=True).eval()
    x = torch.randn(2, POSITIONS, 32)
    torch.set_rng_state(rng_state)
    is_native = not native.explain_why_unsupported(x) and (
        part.axis == "score" or not layer.spec.kernel.forms_weights
    )
    out = layer(x)
    expected = layer.double().attend(x.double()).out
    error = (out - expected).abs().max() / expected.abs().max()
    return Check(part.name, "native engine" if is_native else "torch", error.item())
