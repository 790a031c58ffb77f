"""Contiguous text for language models, in segments of bounded length, read where it is stored."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from pydantic import PositiveInt
from torch import Tensor

from qkv.data.randomness import make_epoch_random
from qkv.errors import BadData
from qkv.strict import Strict
from qkv.symbols import PAD


class StreamConfig(Strict):
    """How a text is cut for training.

    Args:
        streams: B, segments per update over all processes.
        length: L, most tokens to predict in a segment.
        carry: the model carries its state from each segment to the next one of the same stream; otherwise
            segments are independent of each other, and shuffled.
    """

    streams: PositiveInt = 32
    length: PositiveInt = 128
    carry: bool = False


class Segment(NamedTuple):
    """The segments of one update on one process; rows that end early are padded on the right with PAD.

    Args:
        inputs: [B,L] token ids.
        targets: [B,L], the token that follows each input.
        keep: [B,L], True at real tokens.
        is_start: no state is carried into this segment; it starts from an empty one.
    """

    inputs: Int64[Tensor, "B L"]
    targets: Int64[Tensor, "B L"]
    keep: Bool[Tensor, "B L"]
    is_start: bool

    @property
    def scored(self) -> Bool[Tensor, "B L"]:
        """The targets that count: all real ones."""
        return self.keep


class _SegmentOrder(NamedTuple):
    """Independent segments: the end of the first one, and the order in which they are read."""

    epoch: int
    first_end: int
    order: np.ndarray


class StreamPlan:
    """The segments of every epoch of a text, a function of (seed, epoch) and of the position in the epoch.

    An epoch predicts every token of the text but the first exactly once; none is dropped.

    With `carry`, the text is cut into B contiguous streams whose lengths differ by at most one token. Update
    i has segment i of every stream, so that row b continues row b of the update before, on the same process.
    Every epoch is alike, and its first update says `is_start`. Only the last update is shorter: its rows may
    differ by one token. A carried state is not part of the plan: training that resumes within an epoch needs
    the position, from the plan's caller, and the state, from the model's.

    Without `carry`, the text is cut into segments of L tokens, the first and the last one shorter, at places
    drawn anew for every epoch; update i has the next B of them in random order, and says `is_start`.

    Rank r of n takes rows r, r + n, ... of every update, so the updates are the same for any number of
    processes.

    Args:
        ids: [N], token ids of any integer type, such as `numpy.memmap`; segments are read when asked for.
        config: how the text is cut.
        seed: decides the order of independent segments, together with the number of the epoch.

    Raises:
        BadData: the ids are no array of integers with one axis, or fewer than two for every stream.
    """

    def __init__(self, ids: Any, config: StreamConfig, seed: int) -> None:
        self.ids, self.config, self.seed = np.asarray(ids), config, seed
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise BadData(
                f"a text is one axis of integer token ids, got an array of shape {self.ids.shape} and type "
                f"{self.ids.dtype}: join the documents and encode them first"
            )
        needed = 2 * config.streams if config.carry else 2
        if len(self.ids) < needed:
            fix = ", or lower the number of streams" if config.carry else ""
            raise BadData(
                f"the text has {len(self.ids):,} tokens, expected at least {needed:,}: give more text{fix}"
            )
        self._order: _SegmentOrder | None = None

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        if self.config.carry:
            borders = self._find_stream_borders()
            return -(-int(np.diff(borders).max()) // self.config.length)
        return -(-len(self._order_segments(epoch).order) // self.config.streams)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Segment]:
        """The segment of one update on one process, as a list; empty where no row is left for it.

        Args:
            epoch: number of the epoch, from 0.
            index: number of the update in the epoch, from 0.
            rank: number of this process, from 0.
            world: number of processes.
        """
        starts, ends = (positions[rank::world] for positions in self._find_bounds(epoch, index))
        if not (ends > starts).any():
            return []
        return [self._read_segment(starts, ends, is_start=index == 0 or not self.config.carry)]

    def count(self, epoch: int, index: int) -> int:
        """How many tokens one update predicts, over all processes."""
        starts, ends = self._find_bounds(epoch, index)
        return int((ends - starts).sum())

    def _find_bounds(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The first input of every row of an update, and the end of its inputs, as positions in the text."""
        length, inputs = self.config.length, len(self.ids) - 1
        if self.config.carry:
            borders = self._find_stream_borders()
            starts = borders[:-1] + index * length
            return starts, np.minimum(starts + length, borders[1:])
        segments = self._order_segments(epoch)
        rows = segments.order[index * self.config.streams : (index + 1) * self.config.streams]
        ends = segments.first_end + rows * length
        return np.maximum(ends - length, 0), np.minimum(ends, inputs)

    def _find_stream_borders(self) -> np.ndarray:
        """Where the inputs of the streams begin and end: int64 [B+1]."""
        return np.arange(self.config.streams + 1) * (len(self.ids) - 1) // self.config.streams

    def _order_segments(self, epoch: int) -> _SegmentOrder:
        if self._order is None or self._order.epoch != epoch:
            random = make_epoch_random(self.seed, epoch)
            length, inputs = self.config.length, len(self.ids) - 1
            first_end = int(random.randint(1, length + 1))
            count = 1 + max(0, -(-(inputs - first_end) // length))
            self._order = _SegmentOrder(epoch, first_end, random.permutation(count))
        return self._order

    def _read_segment(self, starts: np.ndarray, ends: np.ndarray, is_start: bool) -> Segment:
        lengths = ends - starts
        keep = np.arange(lengths.max()) < lengths[:, None]
        inputs, targets = np.full(keep.shape, PAD, np.int64), np.full(keep.shape, PAD, np.int64)
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            tokens = self.ids[start : end + 1]
            inputs[row, : end - start], targets[row, : end - start] = tokens[:-1], tokens[1:]
        tensors = (torch.from_numpy(array) for array in (inputs, targets, keep))
        return Segment(*tensors, is_start=is_start)
