"""Streams of text: every token is predicted once an epoch, alike for any number of processes."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qkv.data import PAD, StreamConfig, StreamPlan
from qkv.errors import BadData
from qkv.train import Batches, Loss, Objective, TrainConfig, fit


def plan_of(count, streams, length, carry=True, seed=0):
    """A text whose token at position i is 100 + i."""
    config = StreamConfig(streams=streams, length=length, carry=carry)
    return StreamPlan(np.arange(100, 100 + count), config, seed)


def epoch_of(plan, epoch=0, rank=0, world=1):
    return [plan.window(epoch, index, rank, world) for index in range(plan.steps(epoch))]


def naive_streams(ids, streams, length):
    """Updates of rows of (input, target), cut one token at a time."""
    pairs = list(itertools.pairwise(ids))
    borders = [b * len(pairs) // streams for b in range(streams + 1)]
    rows = [pairs[start:end] for start, end in itertools.pairwise(borders)]
    updates = []
    while any(rows):
        updates.append([row[:length] for row in rows])
        rows = [row[length:] for row in rows]
    return updates


def rows_of(segment):
    return [
        list(zip(inputs[keep].tolist(), targets[keep].tolist(), strict=True))
        for inputs, targets, keep in zip(segment.inputs, segment.targets, segment.keep, strict=True)
    ]


sizes = {
    "count": st.integers(2, 120),
    "streams": st.integers(1, 8),
    "length": st.integers(1, 12),
    "world": st.integers(1, 4),
}


@given(**sizes)
@settings(max_examples=60, deadline=None)
def test_streams_equal_a_loop_over_tokens(count, streams, length, world):
    count = max(count, 2 * streams)
    plan = plan_of(count, streams, length)
    expected = naive_streams(list(range(100, 100 + count)), streams, length)
    assert plan.steps(0) == len(expected)
    for index, rows in enumerate(expected):
        rows_by_stream = [None] * streams
        for rank in range(world):
            for segment in plan.window(0, index, rank, world):
                rows_by_stream[rank::world] = rows_of(segment)
                assert segment.is_start == (index == 0)
        assert [row or [] for row in rows_by_stream] == rows
        assert plan.count(0, index) == sum(map(len, rows))


@given(**sizes, epoch=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_independent_segments_predict_every_token_once(count, streams, length, world, epoch):
    plan = plan_of(count, streams, length, carry=False)
    predicted = []
    for index in range(plan.steps(epoch)):
        shares = [plan.window(epoch, index, rank, world) for rank in range(world)]
        rows = [row for share in shares for segment in share for row in rows_of(segment)]
        assert 1 <= len(rows) <= streams
        for row in rows:
            assert 1 <= len(row) <= length
            assert [target for _, target in row] == [token + 1 for token, _ in row]
            assert [token for token, _ in row] == list(range(row[0][0], row[0][0] + len(row)))
        assert all(segment.is_start for share in shares for segment in share)
        assert plan.count(epoch, index) == sum(map(len, rows))
        predicted += [target for row in rows for _, target in row]
    assert sorted(predicted) == list(range(101, 100 + count))


def test_streams_by_hand():
    [[first], [second]] = epoch_of(plan_of(10, 2, 3))
    assert first.inputs.tolist() == [[100, 101, 102], [104, 105, 106]]
    assert first.targets.tolist() == [[101, 102, 103], [105, 106, 107]]
    assert second.inputs.tolist() == [[103, PAD], [107, 108]]
    assert second.targets.tolist() == [[104, PAD], [108, 109]]
    assert second.keep.tolist() == [[True, False], [True, True]]
    assert first.inputs.dtype == torch.int64


def test_independent_segments_are_shuffled_by_seed_and_epoch():
    def starts_of(epoch, seed=0):
        plan = plan_of(400, 4, 8, carry=False, seed=seed)
        return [start for [segment] in epoch_of(plan, epoch) for start in segment.inputs[:, 0].tolist()]

    assert starts_of(0) == starts_of(0) != starts_of(1)
    assert starts_of(0) != starts_of(0, seed=1)
    assert starts_of(0) != sorted(starts_of(0))
    assert len({min(start for start in starts_of(epoch) if start > 100) for epoch in range(6)}) > 1


def test_any_position_can_be_asked_for_first():
    for carry in (True, False):
        plan, other = (plan_of(300, 3, 7, carry=carry) for _ in range(2))
        expected = [segment.inputs.tolist() for [segment] in epoch_of(plan, 1)]
        for index in reversed(range(other.steps(1))):
            other.window(0, 0, 0, 1)
            [segment] = other.window(1, index, 0, 1)
            assert segment.inputs.tolist() == expected[index]


def test_a_process_without_a_row_gets_no_segment():
    plan = plan_of(6, 2, 8)
    assert [len(plan.window(0, 0, rank, 3)) for rank in range(3)] == [1, 1, 0]


def test_text_on_disk_is_read_segment_by_segment(tmp_path):
    np.arange(50_000, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    plan = StreamPlan(ids, StreamConfig(streams=4, length=16, carry=True), 0)
    assert np.shares_memory(plan.ids, ids)
    [segment] = plan.window(0, 780, 0, 1)
    assert segment.targets[3, :3].tolist() == [49_980, 49_981, 49_982]
    assert isinstance(plan, Batches)


class Recurrent(Objective):
    """A language model that carries its state from segment to segment, in a buffer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(200, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.output = nn.Linear(4, 200)
        self.register_buffer("carried", torch.zeros(3, 4))

    def forward(self, batch):
        state = torch.zeros(len(batch.inputs), 4) if batch.is_start else self.carried.clone()
        hidden, last = self.gru(self.embedding(batch.inputs), state[None])
        if len(last[0]) == 3:
            self.carried = last[0].detach()
        labels = batch.targets[batch.keep]
        total = F.cross_entropy(self.output(hidden[batch.keep]), labels, reduction="sum")
        return Loss(total, len(labels), {})


@pytest.mark.parametrize("carry", [True, False])
def test_training_resumes_within_an_epoch(carry, tmp_path):
    def train(folder, steps, resume=False):
        torch.manual_seed(0)
        objective = Recurrent()
        config = TrainConfig(steps=steps, precision="32", device="cpu", lr=0.05, warmup=1)
        plan = plan_of(100, 3, 4, carry=carry)
        fit(objective, plan, config, run=tmp_path / folder, resume=resume, quiet=True)
        return objective.state_dict()

    expected = train("at once", 13)
    assert train("in parts", 4)["carried"].any()
    resumed = train("in parts", 13, resume=True)
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize(
    ("ids", "carry", "message"),
    [
        ([5] * 7, True, "the text has 7 tokens, expected at least 8: give more text, or lower"),
        ([5], False, "the text has 1 tokens, .* at least 2"),
        ([[5, 6], [7, 8]], True, r"got an array of shape \(2, 2\) and type int64: join the documents"),
        ([0.5] * 9, True, "type float64"),
        ([], True, "type float64"),
    ],
)
def test_texts_that_cannot_be_cut_are_refused(ids, carry, message):
    with pytest.raises(BadData, match=message):
        StreamPlan(np.array(ids), StreamConfig(streams=4, carry=carry), 0)
