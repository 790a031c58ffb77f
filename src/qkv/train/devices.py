"""Where and in which number format to train: devices, precision, CPU threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from qkv.errors import BadRecipe
from qkv.train.ranks import Ranks

FabricPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
PRECISIONS: dict[str, FabricPrecision] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def choose_device(device: str) -> str:
    """The kind of device to train on.

    Args:
        device: "cpu", "cuda", "mps", or "auto" for the first of cuda, mps and cpu that is available.

    Returns:
        "cpu", "cuda" or "mps".

    Raises:
        BadRecipe: torch finds no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[device]:
        raise BadRecipe(
            f"train.device is '{device}', but torch finds no such device here. Use 'auto' or 'cpu'."
        )
    return device


def check_each_process_has_a_device(device: str, ranks: Ranks) -> None:
    """Check that every process on this machine has a device of its own; processes may share a CPU.

    Args:
        device: the kind of device, as `choose_device` returns it.
        ranks: the processes that were started.

    Raises:
        BadRecipe: there are more processes on this machine than devices.
    """
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, ranks.local_world)
    if ranks.local_world > available:
        raise BadRecipe(
            f"torchrun started {ranks.local_world} processes on this machine, which has {available} {device} "
            "device(s): start at most as many processes, or set train.device to 'cpu'"
        )


def choose_fabric_precision(precision: str, device: str) -> FabricPrecision:
    """Fabric's name of the number format of matrix products.

    Args:
        precision: "32", "bf16", "16", or "auto": bf16 where the device multiplies it in hardware, else 32.
        device: the kind of device, as `choose_device` returns it.

    Returns:
        A name such as "bf16-mixed".

    Raises:
        BadRecipe: the device does not support the format.
    """
    if precision == "auto":
        precision = "bf16" if can_multiply_bf16_in_hardware(device) else "32"
    if precision == "16" and device != "cuda":
        raise BadRecipe(
            f"train.precision '16' needs a CUDA device, and this is '{device}'. Use 'bf16', '32' or 'auto'."
        )
    return PRECISIONS[precision]


def can_multiply_bf16_in_hardware(device: str) -> bool:
    """Whether this kind of device, on this machine, has instructions for bfloat16.

    Args:
        device: "cpu", "cuda" or "mps".
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(
        _read_cpu_instruction_sets().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )


def _read_cpu_instruction_sets() -> dict[str, Any]:
    """The names of the CPU's instruction sets, each with True."""
    read_capabilities = getattr(torch.cpu, "get_capabilities", None)
    if read_capabilities is not None:
        return dict(read_capabilities())
    try:
        with open("/proc/cpuinfo") as file:  # torch before 2.11 or so has no public function
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return {}
    return dict.fromkeys(line.split(), True)


@contextmanager
def limit_cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads inside the block.

    Args:
        count: the number of threads; None leaves it as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
