"""Every process holds all weights: one process, or several with `strategy: ddp`.

Gradients are summed by one all-reduce after the last micro-batch, not by DDP's hooks.  The hooks need every
process to run a forward pass and to use every parameter in it.  The sum needs neither, so a process without
rows takes part with zeros, and processes may have different numbers of micro-batches.
"""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from qkv.train.config import TrainConfig
from qkv.train.objective.base import Objective
from qkv.train.optimizers import check_patterns_and_freeze_parameters


class Replicated:
    """A `Strategy` whose trained objective is the caller's."""

    def __init__(self, fabric: Any, objective: Objective, config: TrainConfig) -> None:
        """Freeze parameters, make the optimizers, and let Fabric set both up.

        Args:
            fabric: the launched Fabric.
            objective: the objective to train; it moves to Fabric's device.
            config: the section `train` of the recipe.
        """
        check_patterns_and_freeze_parameters(objective, config)
        self.fabric, self.objective = fabric, objective
        optimizers = objective.optimizers(config, fabric.device.type)
        with warnings.catch_warnings():
            # torch is renaming the option; the new name still broadcasts once, the old one works in all
            # versions
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            self.module, *wrapped = fabric.setup(objective, *optimizers.values())
        self.optimizers = dict(zip(optimizers, wrapped, strict=True))

    def count_passes(self, local_micro_batches: int) -> int:
        """As many as the process has micro-batches."""
        return local_micro_batches

    def make_pass_context(self) -> AbstractContextManager[None]:
        """A context in which a backward pass does not communicate."""
        return self.fabric.no_backward_sync(self.module)

    def compute_loss_divisor(self, global_count: int) -> int | float:
        """The count itself: `complete_gradient_sums_and_fill_zeros` adds up."""
        return global_count

    def complete_gradient_sums_and_fill_zeros(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes in place; where a parameter has none it counts as zero."""
        for group in _group_trainable_by_dtype(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            if self.fabric.world_size > 1:
                flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
                torch.distributed.all_reduce(flat)
                parts = flat.split([gradient.numel() for gradient in gradients])
                gradients = [part.view_as(p) for part, p in zip(parts, group, strict=True)]
            for parameter, gradient in zip(group, gradients, strict=True):
                parameter.grad = gradient

    def copy_weights_from_sharded_copy_if_any(self) -> None:
        """Do nothing: the caller's objective is the trained one."""

    def copy_weights_to_sharded_copy_if_any(self) -> None:
        """Do nothing: the caller's objective is the trained one."""

    def collect_complete_moments(self, optimizer: Any) -> dict[int, dict[str, Tensor]]:
        """The optimizer's own state, without a copy."""
        return optimizer.state_dict()["state"]

    def copy_moment_like_parameter(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A copy in memory of its own, laid out as the parameter: the fused step relies on it."""
        return torch.zeros_like(parameter).copy_(value)


def broadcast_saved_buffers(objective: nn.Module, fabric: Any) -> None:
    """Give the buffers that are saved, such as batch statistics, the values of the first process everywhere.

    The first process has rows in every update.  Copies, unlike means, leave equal values equal to the bit.

    Args:
        objective: the trained objective.
        fabric: the launched Fabric.
    """
    if fabric.world_size == 1:
        return
    saved = objective.state_dict(keep_vars=True)
    parameters = {id(parameter) for parameter in objective.parameters()}
    for buffer in {id(value): value for value in saved.values() if id(value) not in parameters}.values():
        torch.distributed.broadcast(buffer, src=0)


def _group_trainable_by_dtype(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters that require a gradient, in one list per dtype."""
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(parameter.dtype, []).append(parameter)
    return list(groups.values())
