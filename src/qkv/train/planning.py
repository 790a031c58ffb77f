"""Where updates come from, and how many a training will make."""

from typing import Any, Protocol, runtime_checkable

from qkv.errors import BadData
from qkv.train.config import TrainConfig

COUNTED_EPOCHS = 50  # planning an epoch takes up to seconds


@runtime_checkable
class Batches(Protocol):
    """Where updates come from: pure functions of the position, so only the position needs saving.

    `epoch` and `index` count from 0; `index` is the position of the update in its epoch.
    """

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        ...

    def window(self, epoch: int, index: int, rank: int, world: int) -> Any:
        """A list of this process's micro-batches in this update; it may be empty."""
        ...

    def count(self, epoch: int, index: int) -> int:
        """The sum of `Loss.count` over all processes and micro-batches of this update."""
        ...


def count_planned_updates(batches: Batches, config: TrainConfig) -> int:
    """The number of updates until `steps` or `epochs`, whichever is first.

    Epochs differ by a few updates; those after the first COUNTED_EPOCHS are assumed to be as long as they are
    on average.

    Args:
        batches: where updates come from.
        config: the section `train` of the recipe.

    Returns:
        The number of updates of the training, from its beginning.

    Raises:
        BadData: an epoch has no update.
    """
    limit = config.steps or 10**12
    if config.epochs is None:
        return limit
    total = 0
    for epoch in range(min(config.epochs, COUNTED_EPOCHS)):
        steps = batches.steps(epoch)
        if steps < 1:
            raise BadData(f"epoch {epoch} of the training data has no batch: add data, or allow longer rows")
        total += steps
        if total >= limit:
            return limit
    uncounted = max(0, config.epochs - COUNTED_EPOCHS)
    return min(limit, total + total * uncounted // COUNTED_EPOCHS)
