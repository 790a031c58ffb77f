"""What the training loop asks of an objective: a loss for every batch, and optimizers for its parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from qkv.train.config import TrainConfig
from qkv.train.optimizers import make_adamw


class Loss(NamedTuple):
    """What an objective returns for one batch.

    Args:
        total: scalar, the differentiable sum over what the objective counts: tokens, documents or images.
        count: how many of them the sum is over.
        metrics: name -> detached scalar sum over the same; reports divide it by the count.
    """

    total: Tensor
    count: int
    metrics: dict[str, Tensor]


class Objective(nn.Module):
    """Base class of objectives: `objective(batch)` returns a `Loss`.

    An objective with several optimizers is called once for each of them in every update, in their order, as
    `objective(batch, name)`.  The gradient of that loss moves the parameters of that optimizer alone.

    Attributes:
        unit: what `Loss.count` counts, in the plural; progress and metrics.jsonl name it.
    """

    unit: str = "tokens"

    def optimizers(self, config: TrainConfig, device: str) -> dict[str, Any]:
        """Name -> optimizer, Adam or AdamW, each over parameters of its own.  The default is one AdamW.

        Args:
            config: the section `train` of the recipe.
            device: the kind of device that the parameters are on, such as "cpu".
        """
        return {"adamw": make_adamw(self.named_parameters(), config, device)}

    def saved_module(self) -> nn.Module:
        """The module whose weights model.safetensors holds; by default the objective itself."""
        return self

    def follow(self, sum_over_processes: Callable[[Tensor], Tensor]) -> None:
        """Update running values, such as a baseline, at the end of an update's batches.

        Args:
            sum_over_processes: adds up a tensor over all processes, in place.
        """
