"""Which pairs go together, and in which order: batches of bounded size, a function of (seed, epoch)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from pydantic import PositiveInt
from torch import Tensor

from qkv.data.pairs import Pairs, collate, collate_source
from qkv.errors import BadData
from qkv.strict import Strict
from qkv.symbols import EOS


class BatchConfig(Strict):
    """The size of an update.

    batch_tokens: most positions in a micro-batch over all ranks: rows × the longest source or target in it,
    BOS, EOS and padding included.
    accumulate: micro-batches per update.
    pool: sentences are sorted by length within pools of about this many batches; a larger pool pads less,
    a smaller one mixes lengths more.
    max_length: longest side, in tokens, that is trained on.
    """

    batch_tokens: PositiveInt = 4096
    accumulate: PositiveInt = 1
    pool: PositiveInt = 50
    max_length: PositiveInt = 250


class Ragged:
    """Many lists of ids in two arrays: 4 bytes an id and 8 a list."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        self.ends = self.lengths.cumsum()
        self.flat = np.empty(self.lengths.sum(), dtype=np.int32)
        for row, length, end in zip(rows, self.lengths, self.ends, strict=True):
            self.flat[end - length : end] = row

    def __len__(self) -> int:
        """The number of lists."""
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """The ids of one list, int32."""
        end = self.ends[number]
        return self.flat[end - self.lengths[number] : end]


class _Epoch(NamedTuple):
    number: int
    windows: list[list[np.ndarray]]


class BatchPlan:
    """The batches of every epoch, a function of (seed, epoch) alone: resuming needs no saved state.

    An epoch visits each pair once: the pairs are permuted and cut into pools, each pool is sorted by length
    and cut into batches under the token budget, and the batches are shuffled.  `accumulate` batches in a row
    make an update; the last update of an epoch may have fewer.  Rank r of n takes rows r, r + n, ... of every
    batch, so the updates are the same for any number of ranks.
    """

    def __init__(
        self, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], config: BatchConfig, seed: int
    ) -> None:
        """Take pair i from `source[i]` and `target[i]`, ids without BOS and EOS.

        Raises BadData where there is no pair, the sides differ in number, or a pair alone exceeds the budget.
        """
        if len(source) != len(target) or not len(source):
            raise BadData(
                f"{len(source):,} source and {len(target):,} target lines: give as many of each, at least one"
            )
        self.source, self.target, self.config, self.seed = Ragged(source), Ragged(target), config, seed
        self.widths = _widths(self.source, self.target)
        longest = int(self.widths.argmax())
        if self.widths[longest] > config.batch_tokens:
            raise BadData(
                f"pair {longest + 1} takes {self.widths[longest]:,} positions, more than batch_tokens="
                f"{config.batch_tokens:,}; raise batch_tokens or lower max_length"
            )
        self._planned: _Epoch | None = None

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return len(self._plan(epoch))

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Pairs]:
        """This rank's micro-batches of one update; those with no row for this rank are left out."""
        shares = [rows[rank::world] for rows in self._plan(epoch)[index]]
        return [
            collate([(self.source[i], self.target[i]) for i in rows.tolist()]) for rows in shares if len(rows)
        ]

    def tokens(self, epoch: int, index: int) -> int:
        """Target tokens to predict in one update, EOS included, over all ranks and micro-batches."""
        return sum(int(self.target.lengths[rows].sum()) + len(rows) for rows in self._plan(epoch)[index])

    def counts(self, vocab: int) -> np.ndarray:
        """How often every symbol of the target is to be predicted in an epoch, EOS included: int64 [V]."""
        found = np.bincount(self.target.flat, minlength=vocab)
        found[EOS] += len(self.target)
        return found

    def _plan(self, epoch: int) -> list[list[np.ndarray]]:
        if self._planned is None or self._planned.number != epoch:
            self._planned = _Epoch(epoch, self._windows(epoch))
        return self._planned.windows

    def _windows(self, epoch: int) -> list[list[np.ndarray]]:
        # RandomState's stream, unlike Generator's, is promised never to change between versions of numpy.
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self.seed, epoch])))
        order = random.permutation(len(self.source))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._pool_rows()):
            pool = order[start : start + self._pool_rows()]
            pool = pool[np.lexsort((self.source.lengths[pool], self.widths[pool]))]
            batches += _cut(pool, self.widths, self.config.batch_tokens)
        batches = [batches[i] for i in random.permutation(len(batches))]
        step = self.config.accumulate
        return [batches[start : start + step] for start in range(0, len(batches), step)]

    def _pool_rows(self) -> int:
        return max(1, int(self.config.pool * self.config.batch_tokens / self.widths.mean()))


def _widths(source: Ragged, target: Ragged) -> np.ndarray:
    """Positions that each pair takes in a batch: source + EOS, or BOS + target + EOS."""
    return np.maximum(source.lengths + 1, target.lengths + 2)


def _cut(order: np.ndarray, widths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut rows, sorted by width, so that rows × widest is within budget; a row wider than that is alone."""
    batches, start = [], 0
    while start < len(order):
        near = widths[order[start : start + budget]]
        near = near[: budget // near[0]]
        fits = int(np.searchsorted(near * np.arange(1, len(near) + 1), budget, side="right"))
        batches.append(order[start : start + max(1, fits)])
        start += max(1, fits)
    return batches


def evaluation_batches(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[list[int], Pairs]]:
    """Every pair once, longest first, in batches under the budget: (row numbers, batch)."""
    for rows in _longest_first(_widths(Ragged(source), Ragged(target)), batch_tokens):
        yield rows, collate([(source[i], target[i]) for i in rows])


def decoding_batches(
    source: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[list[int], Int64[Tensor, "B S"], Bool[Tensor, "B S"]]]:
    """Every source once, longest first, in batches under the budget: (row numbers, source, keep)."""
    widths = np.array([len(ids) + 1 for ids in source], dtype=np.int64)
    for rows in _longest_first(widths, batch_tokens):
        yield (rows, *collate_source([source[i] for i in rows]))


def _longest_first(widths: np.ndarray, budget: int) -> Iterator[list[int]]:
    order = np.argsort(widths, kind="stable")
    return (rows.tolist() for rows in reversed(_cut(order, widths, budget)))
