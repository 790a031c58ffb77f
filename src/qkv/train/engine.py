"""Lightning Fabric, launched for one process or for many, and what all processes of a training share."""

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from qkv.errors import BadRecipe
from qkv.train.config import TrainConfig
from qkv.train.devices import check_each_process_has_a_device, choose_device, choose_fabric_precision
from qkv.train.ranks import detect_ranks
from qkv.train.sharded import make_sharding_strategy


def start_fabric(config: TrainConfig) -> Any:
    """Launch Fabric on this process's device; it is one of many where torchrun started them.

    Args:
        config: the section `train` of the recipe: strategy, device and precision.

    Returns:
        The launched Fabric.

    Raises:
        BadRecipe: the device is not available, or not once for each process, or the strategy does not support
            the precision.
        BadRun: the environment describes the processes wrongly.
    """
    ranks = detect_ranks()
    device = choose_device(config.device)
    check_each_process_has_a_device(device, ranks)
    is_parallel, is_sharded = ranks.world > 1, ranks.world > 1 and config.strategy == "fsdp"
    if is_sharded and config.precision == "16":
        raise BadRecipe(
            "train.precision '16' does not work with train.strategy 'fsdp': set the precision to 'bf16' or "
            "'32', or the strategy to 'ddp'"
        )
    with warnings.catch_warnings(), _hide_fabric_environment_variables():
        # advice to users of Lightning (idle devices, SLURM) and its own deprecations
        warnings.simplefilter("ignore")
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # no broadcasts in forward: a process without rows would miss them
        replicated = DDPStrategy(broadcast_buffers=False) if is_parallel else "auto"
        fabric = Fabric(
            accelerator=device,
            devices=ranks.local_world,
            num_nodes=ranks.machine_count,
            strategy=make_sharding_strategy(ranks.world) if is_sharded else replicated,
            precision=choose_fabric_precision(config.precision, device),
            # named, so that Fabric does not look for schedulers in the environment by itself
            plugins=TorchElasticEnvironment() if is_parallel else LightningEnvironment(),
        )
        fabric.launch()
    return fabric


@contextmanager
def _hide_fabric_environment_variables() -> Iterator[None]:
    """Hide the options of `fabric run`, which Fabric would compare with ours and refuse."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("LT_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def seed_torch_for_update(seed: int, step: int, rank: int) -> None:
    """Seed torch for one update with a hash of (seed, step, rank), so that no generator needs saving.

    Args:
        seed: `train.seed` of the recipe.
        step: the number of the update, from 1.
        rank: the number of this process.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def sum_over_processes_in_place(numbers: torch.Tensor, fabric: Any) -> torch.Tensor:
    """Sum a tensor over all processes, in place.

    Args:
        numbers: a tensor of the same shape on every process.
        fabric: the launched Fabric.

    Returns:
        The same tensor.
    """
    if fabric.world_size > 1:
        torch.distributed.all_reduce(numbers)
    return numbers


def or_flags_over_processes(flags: list[bool], fabric: Any) -> list[bool]:
    """For each flag, whether it is True on any process.

    Args:
        flags: as many on every process.
        fabric: the launched Fabric.

    Returns:
        The same list on every process.
    """
    if fabric.world_size == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32, device=fabric.device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]
