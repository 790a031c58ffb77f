"""Where updates come from, and how many there will be."""

from typing import Any, Protocol, runtime_checkable

from qkv.errors import BadData
from qkv.train.config import TrainConfig

COUNTED_EPOCHS = 50  # planning one takes up to seconds


@runtime_checkable
class Batches(Protocol):
    """Where updates come from: pure functions of the position, so only the position needs saving."""

    def steps(self, epoch: int) -> int:
        """Updates in this epoch."""
        ...

    def window(self, epoch: int, index: int, rank: int, world: int) -> Any:
        """A list of this process's micro-batches in this update; it may be empty."""
        ...

    def count(self, epoch: int, index: int) -> int:
        """The sum of `Loss.count` over all processes and micro-batches of this update."""
        ...


def planned_steps(batches: Batches, config: TrainConfig) -> int:
    """Updates until `steps` or `epochs`, whichever is first.  Raises BadData where an epoch has none.

    Epochs differ by a few updates; those beyond COUNTED_EPOCHS are taken to be as long as those before.
    """
    limit = config.steps or 10**12
    if config.epochs is None:
        return limit
    total = 0
    for epoch in range(min(config.epochs, COUNTED_EPOCHS)):
        steps = batches.steps(epoch)
        if steps < 1:
            raise BadData("the training data gives no batch at all")
        total += steps
        if total >= limit:
            return limit
    further = max(0, config.epochs - COUNTED_EPOCHS)
    return min(limit, total + total * further // COUNTED_EPOCHS)
