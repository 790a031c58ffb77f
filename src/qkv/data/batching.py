"""Batches of rows with any number of fields: bounded in size, a function of the seed and the epoch alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from pydantic import PositiveInt

from qkv.data.randomness import make_epoch_random
from qkv.errors import BadData
from qkv.strict import Strict

Batch = TypeVar("Batch")


class BatchConfig(Strict):
    """The size of an update.

    Args:
        batch_tokens: largest micro-batch over all processes, in positions: the number of rows × the positions
            of its longest row, special tokens and padding included.
        accumulate: micro-batches per update.
        pool: rows are sorted by length within pools of about this many batches; a larger pool pads less, a
            smaller one mixes lengths more.
        max_length: longest token sequence that is trained on, special tokens not counted.
    """

    batch_tokens: PositiveInt = 4096
    accumulate: PositiveInt = 1
    pool: PositiveInt = 50
    max_length: PositiveInt = 250


@runtime_checkable
class Column(Protocol):
    """One field of every row: a list, an array whose first axis counts the rows, or a `Ragged`."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The field of one row."""
        ...


class Ragged:
    """Token sequences of different lengths, stored in two arrays: 4 bytes per token and 16 per sequence.

    Args:
        sequences: lists or integer arrays of token ids.
    """

    def __init__(self, sequences: Sequence[Any]) -> None:
        count = len(sequences)
        self.lengths = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=count)
        self.ends = self.lengths.cumsum()
        self.flat = np.empty(self.lengths.sum(), dtype=np.int32)
        for sequence, length, end in zip(sequences, self.lengths, self.ends, strict=True):
            self.flat[end - length : end] = sequence

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> np.ndarray:
        """The token ids of one sequence, int32."""
        end = self.ends[index]
        return self.flat[end - self.lengths[index] : end]


class Dataset(Generic[Batch]):
    """Rows of one or more fields, and how some of them become a batch.

    Args:
        columns: the fields; each holds one value per row, such as token ids, a label or a picture's name.
        collate: makes the batch of some rows, called with one list of values per column.
        positions: [N], how many positions each row takes in a batch, special tokens included.
        counts: [N], how many terms of the loss each row adds, such as its tokens to predict; None: one each.
        tie_break: [N], orders rows that take equally many positions; None: they stay in the order drawn.
        row_name: what messages call a row, such as "pair".

    Raises:
        BadData: the columns, or the arrays, differ in their number of rows, or a row takes no position.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        collate: Callable[..., Batch],
        *,
        positions: np.ndarray,
        counts: np.ndarray | None = None,
        tie_break: np.ndarray | None = None,
        row_name: str = "row",
    ) -> None:
        self.columns, self.collate, self.positions, self.row_name = columns, collate, positions, row_name
        self.counts = np.ones_like(positions) if counts is None else counts
        self.sort_keys = (positions,) if tie_break is None else (tie_break, positions)
        sizes = [len(each) for each in (*columns, positions, self.counts, *self.sort_keys)]
        if len(set(sizes)) > 1:
            raise BadData(
                f"lengths differ: columns {', '.join(f'{len(column):,}' for column in columns)}; positions "
                f"{len(positions):,}; counts {len(self.counts):,}; tie_break {len(self.sort_keys[0]):,}: "
                f"give each one value per {row_name}"
            )
        if len(positions) and positions.min() < 1:
            raise BadData(
                f"{row_name} {int(positions.argmin()) + 1} takes {positions.min()} positions, expected one "
                "or more: leave empty rows out"
            )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.positions)

    def make_batch(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, in this order."""
        return self.collate(*([column[row] for row in rows] for column in self.columns))


class _EpochPlan(NamedTuple):
    """The rows of every micro-batch of every update of one epoch."""

    number: int
    updates: list[list[np.ndarray]]


class BatchPlan(Generic[Batch]):
    """The batches of every epoch, a function of (seed, epoch) alone: resuming needs no saved state.

    An epoch visits each row once. The rows are permuted and cut into pools, each pool is sorted by length
    and cut into batches within the token budget, and the batches are shuffled. `accumulate` consecutive
    batches make an update; the last update of an epoch may have fewer. Rank r of n takes rows r, r + n, ...
    of every batch, so the updates are the same for any number of processes.

    Args:
        dataset: the rows.
        config: the size of an update.
        seed: decides the order, together with the number of the epoch.

    Raises:
        BadData: there is no row, or a row alone exceeds the budget.
    """

    def __init__(self, dataset: Dataset[Batch], config: BatchConfig, seed: int) -> None:
        self.dataset, self.config, self.seed = dataset, config, seed
        name, positions = dataset.row_name, dataset.positions
        if not len(dataset):
            raise BadData(f"0 {name}s to make batches of: give at least one {name}")
        longest = int(positions.argmax())
        if positions[longest] > config.batch_tokens:
            raise BadData(
                f"{name} {longest + 1} takes {positions[longest]:,} positions, more than batch_tokens="
                f"{config.batch_tokens:,}; raise batch_tokens or lower max_length"
            )
        self._planned_epoch: _EpochPlan | None = None

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return len(self._plan_epoch(epoch))

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Batch]:
        """The micro-batches of one update on one process; those with no row for it are left out.

        Args:
            epoch: number of the epoch, from 0.
            index: number of the update in the epoch, from 0.
            rank: number of this process, from 0.
            world: number of processes.
        """
        shares = [rows[rank::world] for rows in self._plan_epoch(epoch)[index]]
        return [self.dataset.make_batch(rows.tolist()) for rows in shares if len(rows)]

    def count(self, epoch: int, index: int) -> int:
        """How many terms of the loss one update has, over all processes and micro-batches."""
        return sum(int(self.dataset.counts[rows].sum()) for rows in self._plan_epoch(epoch)[index])

    def _plan_epoch(self, epoch: int) -> list[list[np.ndarray]]:
        """The updates of an epoch; those of the latest one are kept."""
        if self._planned_epoch is None or self._planned_epoch.number != epoch:
            self._planned_epoch = _EpochPlan(epoch, self._plan_updates(epoch))
        return self._planned_epoch.updates

    def _plan_updates(self, epoch: int) -> list[list[np.ndarray]]:
        random = make_epoch_random(self.seed, epoch)
        order = random.permutation(len(self.dataset))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._count_pool_rows()):
            pool = order[start : start + self._count_pool_rows()]
            pool = pool[np.lexsort(tuple(key[pool] for key in self.dataset.sort_keys))]
            batches += _cut_batches(pool, self.dataset.positions, self.config.batch_tokens)
        batches = [batches[i] for i in random.permutation(len(batches))]
        step = self.config.accumulate
        return [batches[start : start + step] for start in range(0, len(batches), step)]

    def _count_pool_rows(self) -> int:
        """About how many rows make `pool` batches."""
        return max(1, int(self.config.pool * self.config.batch_tokens / self.dataset.positions.mean()))


def iterate_by_length(dataset: Dataset[Batch], batch_tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Every row once, longest first, in batches within a budget: for evaluation and decoding.

    Args:
        dataset: the rows; there may be none.
        batch_tokens: largest batch, in positions; a row that exceeds it is a batch of its own.

    Returns:
        An iterator of pairs: the numbers of the rows, and their batch.
    """
    order = np.argsort(dataset.positions, kind="stable")
    for rows in reversed(_cut_batches(order, dataset.positions, batch_tokens)):
        numbers = rows.tolist()
        yield numbers, dataset.make_batch(numbers)


def _cut_batches(order: np.ndarray, positions: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut rows, sorted by their positions, into batches within the budget; a row that exceeds it is alone."""
    batches, start = [], 0
    while start < len(order):
        candidates = positions[order[start : start + budget]]
        candidates = candidates[: budget // candidates[0]]
        sizes = candidates * np.arange(1, len(candidates) + 1)
        count = max(1, int(np.searchsorted(sizes, budget, side="right")))
        batches.append(order[start : start + count])
        start += count
    return batches
