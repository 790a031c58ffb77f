"""Every process holds a shard of the weights, gradients and optimizer states: `strategy: fsdp`.

torch's `fully_shard` (FSDP2) gathers the weights of one layer when its forward or backward pass begins, and
frees them afterwards.  Each backward pass sums the gradients over all processes and leaves every process its
shard.  So all processes must run the same number of passes: one that has fewer micro-batches repeats a batch
with a loss of zero.

A copy of the caller's objective is sharded.  The caller's own objective stays complete: the trained weights
are collected into it before it is validated or saved.  Files of a run are therefore the same as those of
other strategies, and a run can be resumed with another strategy or number of processes.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.train.config import TrainConfig
from qkv.train.objective.base import Objective
from qkv.train.optimizers import check_patterns_and_freeze_parameters
from qkv.train.replicated import broadcast_saved_buffers
from qkv.train.weights import collect_distinct_tensors

OLDEST_TORCH_ON_CPUS = Version("2.13")  # wrong with 2.7 and 2.8; those between were not tried
MESH_DIMENSION = "data_parallel"  # as Fabric names it


def make_sharding_strategy(world: int) -> Any:
    """Fabric's strategy that shards a module over all processes.

    Args:
        world: how many processes there are.
    """
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_shard_objective, data_parallel_size=world, tensor_parallel_size=1)


def is_sharding(fabric: Any) -> bool:
    """Whether `fabric` was launched with the strategy of `make_sharding_strategy`.

    Args:
        fabric: the launched Fabric.
    """
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


class Sharded:
    """A `Strategy` that trains a sharded copy of the caller's objective."""

    def __init__(self, fabric: Any, objective: Objective, config: TrainConfig) -> None:
        """Shard a copy of the objective, and make the optimizers of the copy.

        Args:
            fabric: Fabric, launched with the strategy of `make_sharding_strategy`.
            objective: the caller's objective; on the first process, which validates it, it moves to Fabric's
                device.
            config: the section `train` of the recipe.
        """
        refuse_wrong_gradients(fabric.device)
        check_patterns_and_freeze_parameters(objective, config)
        self.fabric, self.complete_objective, self.objective = fabric, objective, copy.deepcopy(objective)
        if fabric.is_global_zero:
            objective.to(fabric.device)
        self.gradient_scale = measure_fsdp_gradient_scale(fabric.strategy.device_mesh, fabric.device)
        self.module = fabric.setup_module(self.objective)
        self.optimizers = {
            name: fabric.setup_optimizers(optimizer)
            for name, optimizer in self.objective.optimizers(config, fabric.device.type).items()
        }

    def count_passes(self, local_micro_batches: int) -> int:
        """The largest number of micro-batches that a process has."""
        largest = torch.tensor(local_micro_batches, device=self.fabric.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)

    @contextmanager
    def make_pass_context(self) -> Iterator[None]:
        """A context for a pass, whose backward part sums gradients over the processes."""
        with warnings.catch_warnings():
            # advice about changing a layer's output in place, which `Objective.layers` forbids
            warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
            yield

    def compute_loss_divisor(self, global_count: int) -> int | float:
        """The count times what FSDP makes of a sum over the processes: their mean, or the sum itself."""
        return global_count * self.gradient_scale

    def complete_gradient_sums_and_fill_zeros(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give parameters without a gradient zeros; the others are summed already."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def copy_weights_from_sharded_copy_if_any(self) -> None:
        """Copy the trained weights and buffers into the caller's objective, on every process."""
        trained = self.objective.state_dict()
        with torch.no_grad():
            for name, value in collect_distinct_tensors(self.complete_objective).items():
                value.copy_(gather_if_sharded(trained[name]))

    def copy_weights_to_sharded_copy_if_any(self) -> None:
        """Copy the first process's weights and buffers of the caller's objective into the trained one."""
        trained = self.objective.state_dict()
        with torch.no_grad():
            for name, value in collect_distinct_tensors(self.complete_objective).items():
                trained[name].copy_(_shard_tensor_like(value, trained[name]))
        broadcast_saved_buffers(self.objective, self.fabric)

    def collect_complete_moments(self, optimizer: Any) -> dict[int, dict[str, Tensor]]:
        """The optimizer's state as complete tensors on the CPU; empty on all processes but the first."""
        moments: dict[int, dict[str, Tensor]] = {}
        for number, values in optimizer.state_dict()["state"].items():
            # every process takes part in gathering
            complete = {name: gather_if_sharded(value) for name, value in values.items()}
            if self.fabric.is_global_zero:
                moments[number] = {name: value.cpu() for name, value in complete.items()}
        return moments

    def copy_moment_like_parameter(self, value: Tensor, parameter: Tensor) -> Tensor:
        """This process's shard of a complete moment."""
        return _shard_tensor_like(value, parameter)


@contextmanager
def restore_buffers_after_block(module: nn.Module) -> Iterator[None]:
    """Give the module's buffers, at the end of the block, the values that they had at its beginning.

    Args:
        module: such as an objective whose batch statistics a repeated batch must not change.
    """
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def refuse_wrong_gradients(device: torch.device) -> None:
    """Check that torch shards correctly; old versions do not on CPUs, and raise no error.

    Args:
        device: the device of this process.

    Raises:
        BadRecipe: it would train other weights than one process does.
    """
    if device.type == "cpu" and Version(torch.__version__) < OLDEST_TORCH_ON_CPUS:
        raise BadRecipe(
            f"train.strategy=fsdp computes wrong gradients on CPUs with torch {torch.__version__}: install "
            f"torch {OLDEST_TORCH_ON_CPUS} or newer, or write train.strategy=ddp"
        )


def measure_fsdp_gradient_scale(mesh: Any, device: torch.device) -> float:
    """The gradient that `fully_shard` leaves, divided by the sum of the gradients of all processes.

    It is 1 / processes where gradients are averaged.  Some versions of torch add them up on CPUs instead,
    with no error, so it is measured with a layer whose gradient is known.

    Args:
        mesh: Fabric's device mesh.
        device: the device of this process.
    """
    from torch.distributed.fsdp import fully_shard

    data_mesh = mesh[MESH_DIMENSION]
    processes = data_mesh.size()
    layer = nn.Linear(1, processes, bias=False, device="meta").to_empty(device=device)
    fully_shard(layer, mesh=data_mesh)
    layer(torch.ones(1, 1, device=device)).sum().backward()  # the gradient of every weight is 1
    assert layer.weight.grad is not None
    return float(gather_if_sharded(layer.weight.grad)[0]) / processes


def gather_if_sharded(value: Tensor) -> Tensor:
    """The complete tensor of a shard, or a tensor that is not sharded as it is.

    Args:
        value: the same tensor on every process, for gathering is a collective operation.
    """
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def _shard_tensor_like(value: Tensor, like: Tensor) -> Tensor:
    """The first process's `value`, sharded as `like` where that is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.detach().to(like.device), like.device_mesh, like.placements)


def _shard_objective(objective: nn.Module, mesh: Any) -> nn.Module:
    """Shard an objective: each of its layers by itself, and what is left together."""
    from torch.distributed.fsdp import fully_shard

    for layer in _list_layers_without_shared_parameters(objective):
        fully_shard(layer, mesh=mesh[MESH_DIMENSION])
    fully_shard(objective, mesh=mesh[MESH_DIMENSION])
    return objective


def _list_layers_without_shared_parameters(objective: Any) -> list[nn.Module]:
    """The objective's layers that share no parameter; shared parameters must be gathered together."""
    names: dict[int, int] = {}
    for _, parameter in objective.named_parameters(remove_duplicate=False):
        names[id(parameter)] = names.get(id(parameter), 0) + 1
    return [layer for layer in objective.layers() if all(names[id(p)] == 1 for p in layer.parameters())]
