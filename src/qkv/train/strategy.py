"""What a strategy for several processes provides, and which one a training uses."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from qkv.train.config import TrainConfig
from qkv.train.objective.base import Objective
from qkv.train.replicated import Replicated
from qkv.train.sharded import Sharded, is_sharding


@runtime_checkable
class Strategy(Protocol):
    """How the weights, gradients and optimizer states of a training are spread over processes.

    Attributes:
        objective: the objective that is trained: the caller's, or a copy of it whose weights are shards.
        module: the objective as Fabric calls it.
        optimizers: name -> optimizer, as Fabric wraps it.
    """

    objective: Objective
    module: Any
    optimizers: dict[str, Any]

    def count_passes(self, local_micro_batches: int) -> int:
        """How many forward and backward passes this process, which has this many micro-batches, must run."""
        ...

    def make_pass_context(self) -> AbstractContextManager[None]:
        """A context for the forward and backward pass of a micro-batch."""
        ...

    def compute_loss_divisor(self, global_count: int) -> int | float:
        """What to divide a loss by, so that the summed gradients are those of the mean over the count."""
        ...

    def complete_gradient_sums_and_fill_zeros(self, parameters: Iterable[nn.Parameter]) -> None:
        """Complete the sum of the gradients over all processes; a parameter without gradient gets zeros."""
        ...

    def copy_weights_from_sharded_copy_if_any(self) -> None:
        """Copy the trained weights and buffers into the caller's objective, on every process."""
        ...

    def copy_weights_to_sharded_copy_if_any(self) -> None:
        """Copy the weights and buffers of the caller's objective into the trained one."""
        ...

    def collect_complete_moments(self, optimizer: Any) -> dict[int, dict[str, Tensor]]:
        """The optimizer's state by parameter number, as complete tensors; on the first process at least."""
        ...

    def copy_moment_like_parameter(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A copy of a moment that is laid out as its parameter."""
        ...


def make_strategy(fabric: Any, objective: Objective, config: TrainConfig) -> Strategy:
    """Set up the objective and its optimizers for the processes that `fabric` was launched with.

    Args:
        fabric: the launched Fabric.
        objective: the caller's objective.
        config: the section `train` of the recipe.

    Returns:
        `Sharded` for `strategy: fsdp` with several processes, otherwise `Replicated`.

    Raises:
        BadRecipe: a pattern of `config` names no parameter.
    """
    return (Sharded if is_sharding(fabric) else Replicated)(fabric, objective, config)
