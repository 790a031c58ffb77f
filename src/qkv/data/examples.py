"""Independent token sequences of which only some tokens count, as batches for a language model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.randomness import make_epoch_random
from qkv.errors import BadData
from qkv.symbols import PAD


class ScoredTokens(NamedTuple):
    """One example.

    Args:
        inputs: [N] token ids.
        targets: [N], the token id to predict behind each input.
        scored: [N], True at the targets that count.
    """

    inputs: np.ndarray
    targets: np.ndarray
    scored: np.ndarray


class ExampleBatch(NamedTuple):
    """Examples of one update on one process, padded on the right with PAD.

    Args:
        inputs: [B,N] token ids.
        targets: [B,N], the token to predict behind each input.
        keep: [B,N], True at real tokens.
        scored: [B,N], True at the targets that count.
    """

    inputs: Int64[Tensor, "B N"]
    targets: Int64[Tensor, "B N"]
    keep: Bool[Tensor, "B N"]
    scored: Bool[Tensor, "B N"]

    @property
    def is_start(self) -> bool:
        """No state is carried into examples: True."""
        return True


class ExamplePlan:
    """The batches of every epoch, a function of (seed, epoch) and the position: resuming needs no state.

    An epoch visits each example once, in random order. Rank r of n takes rows r, r + n, ... of every update,
    so the updates are the same for any number of processes.

    Args:
        examples: the examples; they are read when an update needs them.
        rows: B, examples per update over all processes; the last update of an epoch may have fewer.
        seed: decides the order, together with the number of the epoch.

    Raises:
        BadData: there is no example.
    """

    def __init__(self, examples: Sequence[ScoredTokens], rows: int, seed: int) -> None:
        if not len(examples):
            raise BadData("0 examples to make batches of: give at least one")
        self.examples, self.rows, self.seed = examples, rows, seed
        self._order: tuple[int, np.ndarray] | None = None
        self._update: tuple[tuple[int, int], list[ScoredTokens]] | None = None

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return -(-len(self.examples) // self.rows)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[ExampleBatch]:
        """The batch of one update on one process, as a list; empty where no row is left for it.

        Args:
            epoch: number of the epoch, from 0.
            index: number of the update in the epoch, from 0.
            rank: number of this process, from 0.
            world: number of processes.
        """
        rows = self._read_update(epoch, index)[rank::world]
        return [collate_examples(rows)] if rows else []

    def count(self, epoch: int, index: int) -> int:
        """How many tokens of one update count, over all processes."""
        return sum(int(row.scored.sum()) for row in self._read_update(epoch, index))

    def _read_update(self, epoch: int, index: int) -> list[ScoredTokens]:
        """The examples of an update; those of the latest one are kept, for they may be generated."""
        if self._update is None or self._update[0] != (epoch, index):
            order = self._order_examples(epoch)[index * self.rows : (index + 1) * self.rows]
            self._update = (epoch, index), [self.examples[i] for i in order.tolist()]
        return self._update[1]

    def _order_examples(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, make_epoch_random(self.seed, epoch).permutation(len(self.examples))
        return self._order[1]


def collate_examples(rows: Sequence[ScoredTokens]) -> ExampleBatch:
    """The batch of some examples, in this order.

    Args:
        rows: at least one example.
    """
    lengths = np.array([len(row.scored) for row in rows])
    keep = np.arange(lengths.max()) < lengths[:, None]
    inputs, targets = np.full(keep.shape, PAD, np.int64), np.full(keep.shape, PAD, np.int64)
    scored = np.zeros(keep.shape, bool)
    for i, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        inputs[i, :length], targets[i, :length] = row.inputs, row.targets
        scored[i, :length] = row.scored
    return ExampleBatch(*(torch.from_numpy(array) for array in (inputs, targets, keep, scored)))
