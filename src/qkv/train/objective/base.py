"""What the training loop asks of an objective: a loss for every batch, and optimizers for its parameters."""

from collections.abc import Callable, Sequence
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

    With `strategy: fsdp` a copy is trained.  So whatever `forward` changes must be a parameter or a buffer.

    Attributes:
        unit: what `Loss.count` counts, in the plural; progress and metrics.jsonl name it.
        progress_metrics: the metrics whose latest mean progress shows; "loss" is the mean of `Loss.total`.
    """

    unit: str = "tokens"
    progress_metrics: tuple[str, ...] = ("loss",)

    def optimizers(self, config: TrainConfig, device: str) -> dict[str, Any]:
        """The optimizers of this objective; the default is one AdamW.

        Args:
            config: the section `train` of the recipe.
            device: the kind of device that the parameters are on, such as "cpu".

        Returns:
            Name -> optimizer, Adam or AdamW, each over parameters of its own.
        """
        return {"adamw": make_adamw(self, config, device)}

    def saved_module(self) -> nn.Module:
        """The module whose weights model.safetensors holds; by default the objective itself."""
        return self

    def layers(self) -> Sequence[nn.Module]:
        """The modules whose weights `strategy: fsdp` gathers one after another; by default all at once.

        `forward` must call each of them as a module, `layer(x)`, must not change the output of that call in
        place, and must not read their weights itself.
        """
        return ()

    def layer_groups(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the model from its input to its output, for `train.layer_decay`.

        Returns:
            The embeddings, then the modules of every layer in their order.  What is in no group stands above
            them all; a module or parameter in several belongs to the first.  Empty, the default, where the
            model has no such order.
        """
        return ()

    def update_statistics(self, sum_over_processes_in_place: Callable[[Tensor], Tensor]) -> None:
        """Update running values, such as a baseline, after the batches of an update; by default nothing.

        Args:
            sum_over_processes_in_place: adds up a tensor over all processes, in place, and returns it.
        """

    def carried_state(self) -> Any:
        """What the next update starts from on this process alone, such as the states of its texts.

        Returns:
            Lists, dicts, tensors and plain values; None, the default, where nothing is carried.
        """
        return None

    def restore_carried_state(self, carried: Any) -> None:
        """Continue from what `carried_state` returned; by default there is nothing.

        Args:
            carried: a copy of it, on the CPU.

        Raises:
            ValueError: it does not fit this objective.
        """
