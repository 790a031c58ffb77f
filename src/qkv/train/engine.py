"""What updates run on: Lightning Fabric for devices, precision and processes, and sums over processes.

Gradients are summed by one all-reduce after the last micro-batch, not by DDP's hooks.  The hooks need every
process to run a forward pass and to use every parameter in it.  The sum needs neither, so a process without
rows takes part with zeros, and processes may have different numbers of micro-batches.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qkv.errors import BadRecipe
from qkv.train.config import TrainConfig
from qkv.train.objective.base import Objective
from qkv.train.optimizers import freeze
from qkv.train.ranks import Ranks, launched

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def start_engine(config: TrainConfig) -> Any:
    """A launched Fabric on this process's device; one of many where torchrun started them.

    Raises BadRecipe where the device is not there, or not once for each process; BadRun for an environment
    that describes the processes wrongly.
    """
    ranks = launched()
    device = choose_device(config.device)
    _check_device_count(device, ranks)
    with warnings.catch_warnings(), _without_overrides():
        # advice to users of Lightning (idle devices, SLURM) and its own deprecations
        warnings.simplefilter("ignore")
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        several = ranks.world > 1
        fabric = Fabric(
            accelerator=device,
            devices=ranks.local_world,
            num_nodes=ranks.machines,
            # no broadcasts in forward: a process without rows would miss them
            strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
            precision=choose_precision(config.precision, device),
            # named, so that Fabric does not look for schedulers in the environment by itself
            plugins=TorchElasticEnvironment() if several else LightningEnvironment(),
        )
        fabric.launch()
    return fabric


@contextmanager
def _without_overrides() -> Iterator[None]:
    """Hide the options of `fabric run`, which Fabric would compare with ours and refuse."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("LT_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _check_device_count(device: str, ranks: Ranks) -> None:
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, ranks.local_world)
    if ranks.local_world > available:
        raise BadRecipe(
            f"torchrun started {ranks.local_world} processes on this machine, which has {available} {device} "
            "device(s): start as many processes, or set train.device to 'cpu'"
        )


def set_up(fabric: Any, objective: Objective, config: TrainConfig) -> tuple[Any, dict[str, Any]]:
    """The objective and its optimizers as `fabric` runs them: device, precision, processes."""
    freeze(objective, config)
    optimizers = objective.optimizers(config, fabric.device.type)
    with warnings.catch_warnings():
        # torch is renaming the option; the new name still broadcasts once, the old one works in all versions
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
        module, *wrapped = fabric.setup(objective, *optimizers.values())
    return module, dict(zip(optimizers, wrapped, strict=True))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads in the block; None leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(wanted: str) -> str:
    """The kind of device to train on.  Raises BadRecipe where the wanted one is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there[wanted]:
        raise BadRecipe(
            f"train.device is '{wanted}', but torch finds no such device here. Use 'auto' or 'cpu'."
        )
    return wanted


def choose_precision(wanted: str, device: str) -> Any:
    """Fabric's name of the number format; `auto` is bf16 where the device multiplies it in hardware."""
    if wanted == "auto":
        wanted = "bf16" if multiplies_bf16(device) else "32"
    if wanted == "16" and device != "cuda":
        raise BadRecipe(
            f"train.precision '16' needs a CUDA device, and this is '{device}'. Use 'bf16', '32' or 'auto'."
        )
    return PRECISIONS[wanted]


def multiplies_bf16(device: str) -> bool:
    """Whether this kind of device, as it is here, has instructions for bfloat16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(_cpu_features().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpu_features() -> dict[str, Any]:
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is not None:
        return dict(probe())
    try:
        with open("/proc/cpuinfo") as file:  # torch before 2.11 or so has no public probe
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return {}
    return dict.fromkeys(line.split(), True)


def reseed(seed: int, step: int, rank: int) -> None:
    """Make torch's randomness in this update a function of (seed, step, rank): nothing to save."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def sum_over_processes(numbers: torch.Tensor, fabric: Any) -> torch.Tensor:
    """The sums of these numbers over all processes."""
    if fabric.world_size > 1:
        torch.distributed.all_reduce(numbers)
    return numbers


def sum_gradients(parameters: Iterable[nn.Parameter], fabric: Any) -> None:
    """Sum gradients over all processes in place; where a parameter has none it counts as zero."""
    for group in _by_dtype(parameters):
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        if fabric.world_size > 1:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            torch.distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            gradients = [part.view_as(p) for part, p in zip(parts, group, strict=True)]
        for parameter, gradient in zip(group, gradients, strict=True):
            parameter.grad = gradient


def synchronise_buffers(objective: nn.Module, fabric: Any) -> None:
    """Give the buffers that are saved, such as batch statistics, the values of the first process everywhere.

    The first process has rows in every update.  Copies, unlike means, leave equal values equal to the bit.
    """
    if fabric.world_size == 1:
        return
    saved = objective.state_dict(keep_vars=True)
    parameters = {id(parameter) for parameter in objective.parameters()}
    for buffer in {id(value): value for value in saved.values() if id(value) not in parameters}.values():
        torch.distributed.broadcast(buffer, src=0)


def agree(fabric: Any, flags: list[bool]) -> list[bool]:
    """Each flag is true on every process as soon as it is true on one."""
    if fabric.world_size == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32, device=fabric.device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def _by_dtype(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())
