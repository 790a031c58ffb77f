"""Batches: every pair once an epoch, in the order of (seed, epoch), within budget, shared among ranks."""

import hashlib
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qkv.data import (
    BOS,
    EOS,
    PAD,
    BatchConfig,
    BatchPlan,
    Dataset,
    Ragged,
    collate_pairs,
    collate_source,
    count_predicted_tokens,
    iterate_by_length,
    make_pair_dataset,
    make_source_dataset,
)
from qkv.errors import BadData


def corpus(count, longest=12, seed=0):
    """Pairs to tell apart: the first source token of pair i is 100 + i, the first target token 10_000 + i."""
    random = np.random.default_rng(seed)
    source = [[100 + i, *[7] * int(random.integers(0, longest))] for i in range(count)]
    target = [[10_000 + i, *[8] * int(random.integers(0, longest))] for i in range(count)]
    return source, target


def plan(count=97, seed=3, **config):
    source, target = corpus(count)
    return BatchPlan(
        make_pair_dataset(source, target), BatchConfig(**{"batch_tokens": 100, "pool": 3, **config}), seed
    )


def rows_of(pairs):
    return (pairs.source[:, 0] - 100).tolist()


def epoch_of(batches, epoch, rank=0, world=1):
    return [
        [rows_of(pairs) for pairs in batches.window(epoch, index, rank, world)]
        for index in range(batches.steps(epoch))
    ]


def flat(windows):
    return [row for window in windows for batch in window for row in batch]


def test_collate_by_hand():
    pairs = collate_pairs([[5, 6, 7], np.array([9], dtype=np.int32)], [[8], []])
    assert pairs.source.tolist() == [[5, 6, 7, EOS], [9, EOS, PAD, PAD]]
    assert pairs.source_keep.tolist() == [[True] * 4, [True, True, False, False]]
    assert pairs.target.tolist() == [[BOS, 8, EOS], [BOS, EOS, PAD]]
    assert pairs.target_keep.tolist() == [[True] * 3, [True, True, False]]
    assert pairs.source.dtype == pairs.target.dtype == torch.int64


def test_collate_source_marks_the_end_also_of_an_empty_line():
    source, keep = collate_source([[5, 6], []])
    assert source.tolist() == [[5, 6, EOS], [EOS, PAD, PAD]]
    assert keep.tolist() == [[True] * 3, [True, False, False]]


@given(
    count=st.integers(1, 60),
    tokens=st.integers(14, 200),
    accumulate=st.integers(1, 4),
    pool=st.integers(1, 5),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_ranks_share_every_pair_once_within_the_budget(count, tokens, accumulate, pool, world, epoch):
    batches = plan(count, batch_tokens=tokens, accumulate=accumulate, pool=pool)
    visited = []
    for index in range(batches.steps(epoch)):
        batches_of_all = batches.window(epoch, index, 0, 1)
        ranks = [batches.window(epoch, index, rank, world) for rank in range(world)]
        assert 1 <= len(batches_of_all) <= accumulate
        assert all(
            len(pairs.source) * max(pairs.source.shape[1], pairs.target.shape[1]) <= tokens
            for pairs in batches_of_all
        )
        expected = sorted(row for pairs in batches_of_all for row in rows_of(pairs))
        assert sorted(row for window in ranks for pairs in window for row in rows_of(pairs)) == expected
        predicted = sum(
            int(pairs.target_keep.sum()) - len(pairs.target) for window in ranks for pairs in window
        )
        assert batches.count(epoch, index) == predicted
        visited += expected
    assert sorted(visited) == list(range(count))


def test_rows_keep_their_tokens():
    source, target = corpus(97)
    batches = plan()
    for index in range(batches.steps(0)):
        for pairs in batches.window(0, index, 0, 1):
            for row, (ids, keep) in zip(
                rows_of(pairs), zip(pairs.source, pairs.source_keep, strict=True), strict=True
            ):
                assert ids[keep].tolist() == [*source[row], EOS]
            for row, (ids, keep) in zip(
                rows_of(pairs), zip(pairs.target, pairs.target_keep, strict=True), strict=True
            ):
                assert ids[keep].tolist() == [BOS, *target[row], EOS]


def test_a_rank_takes_every_nth_row():
    batches = plan()
    (all_rows,) = epoch_of(batches, 0)[4]
    assert len(all_rows) > 3
    for rank in range(3):
        (pairs,) = batches.window(0, 4, rank, 3)
        assert rows_of(pairs) == all_rows[rank::3]


def test_a_rank_without_rows_gets_no_batch():
    batches = plan(2, batch_tokens=1000)
    assert batches.steps(0) == 1
    assert [len(batches.window(0, 0, rank, 3)) for rank in range(3)] == [1, 1, 0]


def test_order_is_decided_by_seed_and_epoch_alone():
    first = plan()
    forwards, backwards = [epoch_of(first, e) for e in (0, 1, 2)], [epoch_of(first, e) for e in (2, 1, 0)]
    assert backwards[::-1] == forwards
    assert [epoch_of(plan(), e) for e in (0, 1, 2)] == forwards
    assert forwards[0] != forwards[1] != forwards[2]
    assert epoch_of(plan(seed=4), 0) != forwards[0]


def test_order_stays_what_it_was_when_runs_were_saved():
    assert flat(epoch_of(plan(12), 5)) == [0, 11, 7, 2, 8, 6, 5, 4, 1, 3, 10, 9]


def test_only_the_last_update_is_short():
    batches = plan(accumulate=4)
    sizes = [len(window) for window in epoch_of(batches, 1)]
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= 4


def test_batches_come_shuffled_but_hold_like_lengths():
    batches = plan(600, batch_tokens=200, pool=100)
    widths, waste = [], []
    for index in range(batches.steps(0)):
        (pairs,) = batches.window(0, index, 0, 1)
        lengths = torch.maximum(pairs.source_keep.sum(1), pairs.target_keep.sum(1))
        widths.append(int(lengths.max()))
        waste.append(int(lengths.max() - lengths.min()))
    assert widths != sorted(widths)
    assert np.mean(waste) < 1


def test_pairs_of_one_length_meet_others_every_epoch():
    source = [[100 + i] for i in range(64)]
    batches = BatchPlan(make_pair_dataset(source, source), BatchConfig(batch_tokens=12), 0)
    assert [len(batch) for window in epoch_of(batches, 0) for batch in window] == [4] * 16
    together = [{frozenset(batch) for window in epoch_of(batches, e) for batch in window} for e in (0, 1)]
    assert len(together[0] & together[1]) < 4


def test_a_pair_beyond_the_budget_is_named():
    with pytest.raises(
        BadData, match=r"pair 2 takes 7 positions, more than batch_tokens=6; raise batch_tokens"
    ):
        BatchPlan(make_pair_dataset([[5], [5] * 6, [5]], [[6], [6], [6]]), BatchConfig(batch_tokens=6), 0)
    with pytest.raises(BadData, match=r"pair 1 takes 8 positions"):
        BatchPlan(make_pair_dataset([[5]], [[6] * 6]), BatchConfig(batch_tokens=7), 0)


@pytest.mark.parametrize(("source", "target"), [([], []), ([[5]], []), ([[5]], [[6], [6]])])
def test_sides_must_match_and_hold_something(source, target):
    with pytest.raises(
        BadData, match=rf"{len(source)} source and {len(target)} target lines: give as many of each"
    ):
        make_pair_dataset(source, target)


@pytest.mark.parametrize("field", ["batch_tokens", "accumulate", "pool", "max_length"])
def test_sizes_are_positive(field):
    with pytest.raises(ValidationError, match=f"{field}\n.*greater than 0"):
        BatchConfig(**{field: 0})


def test_evaluation_visits_everything_once_longest_first():
    source, target = corpus(50)
    source[7] = [107] * 300
    visited, widths = [], []
    for rows, pairs in iterate_by_length(make_pair_dataset(source, target), 100):
        assert rows == rows_of(pairs)
        width = max(pairs.source.shape[1], pairs.target.shape[1])
        assert len(rows) * width <= 100 or rows == [7]
        visited += rows
        widths.append(width)
    assert sorted(visited) == list(range(50))
    assert widths == sorted(widths, reverse=True)
    assert next(rows for rows, _ in iterate_by_length(make_pair_dataset(source, target), 100)) == [7]


def test_decoding_visits_everything_once_also_empty_lines():
    source = [[5], [], [5] * 9, [5, 6]]
    batches = [
        (rows, ids.shape[1], keep.sum(1).tolist())
        for rows, (ids, keep) in iterate_by_length(make_source_dataset(source), 6)
    ]
    assert batches == [([2], 10, [10]), ([3], 3, [3]), ([1, 0], 2, [1, 2])]
    assert list(iterate_by_length(make_source_dataset([]), 6)) == []


def test_planning_thousands_of_pairs_is_fast():
    source, target = corpus(29_000, longest=30)
    batches = BatchPlan(make_pair_dataset(source, target), BatchConfig(), 0)
    start = time.perf_counter()
    assert batches.steps(0) > 50
    assert time.perf_counter() - start < 0.2


def test_counts_are_what_an_epoch_predicts():
    batches = BatchPlan(make_pair_dataset([[5], [6, 7]], [[8, 9, 8], []]), BatchConfig(), 0)
    counts = count_predicted_tokens(Ragged([[8, 9, 8], []]), 11)
    assert counts.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 2, 1, 0]
    assert counts.sum() == sum(batches.count(0, index) for index in range(batches.steps(0)))


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def test_one_field_of_text():
    texts = Ragged([[5 + i] * (1 + i % 7) for i in range(40)])
    dataset = Dataset((texts,), padded, positions=texts.lengths, counts=texts.lengths - 1)
    plan = BatchPlan(dataset, BatchConfig(batch_tokens=24), seed=1)
    windows = [plan.window(0, index, 0, 1) for index in range(plan.steps(0))]
    assert sorted(row for window in windows for batch in window for row in batch[:, 0].tolist()) == [
        *range(5, 45)
    ]
    for index, [batch] in enumerate(windows):
        assert batch.numel() <= 24
        assert plan.count(0, index) == int((batch != 0).sum()) - len(batch)


def test_text_with_a_label_counts_documents():
    texts = Ragged([[i + 1] * (1 + i % 5) for i in range(30)])
    labels = np.arange(30) % 3
    dataset = Dataset(
        (texts, labels), lambda ids, classes: (padded(ids), torch.tensor(classes)), positions=texts.lengths
    )
    plan = BatchPlan(dataset, BatchConfig(batch_tokens=20, accumulate=2), seed=0)
    for index in range(plan.steps(1)):
        shares = [plan.window(1, index, rank, 2) for rank in range(2)]
        batches = [batch for share in shares for batch in share]
        assert plan.count(1, index) == sum(len(classes) for _, classes in batches)
        for ids, classes in batches:
            assert torch.equal((ids[:, 0] - 1) % 3, classes)


def test_pictures_by_name_are_opened_for_their_batch_alone():
    names, captions = [f"{i}.png" for i in range(9)], Ragged([[i + 1] * (1 + i % 3) for i in range(9)])
    opened = []

    def collate(pictures, ids):
        opened.extend(pictures)
        return pictures, padded(ids)

    plan = BatchPlan(
        Dataset((names, captions), collate, positions=captions.lengths + 2), BatchConfig(batch_tokens=10), 0
    )
    [(pictures, ids)] = plan.window(0, 0, 0, 1)
    assert opened == pictures == [f"{number - 1}.png" for number in ids[:, 0].tolist()]


def test_columns_of_different_lengths_are_refused():
    texts = Ragged([[5], [6]])
    with pytest.raises(BadData, match=r"columns 2, 3; positions 2.*: give each one value per document"):
        Dataset((texts, [0, 1, 1]), padded, positions=texts.lengths, row_name="document")
    empty = Ragged([[5], []])
    with pytest.raises(BadData, match="document 2 takes 0 positions, expected one or more"):
        Dataset((empty,), padded, positions=empty.lengths, row_name="document")
    with pytest.raises(BadData, match="0 documents to make batches of"):
        BatchPlan(
            Dataset((), padded, positions=np.zeros(0, dtype=np.int64), row_name="document"), BatchConfig(), 0
        )


def digest_of(batches, epochs, world):
    """A digest of every tensor of every micro-batch, in order, of all ranks."""
    digest = hashlib.sha256()
    for epoch in range(epochs):
        for index in range(batches.steps(epoch)):
            digest.update(f"{epoch} {index} {batches.count(epoch, index)}".encode())
            for rank in range(world):
                for pairs in batches.window(epoch, index, rank, world):
                    for part in pairs:
                        digest.update(f"{tuple(part.shape)} {part.dtype}".encode() + part.numpy().tobytes())
    return digest.hexdigest()[:16]


def test_batches_equal_the_recorded_digest():
    assert digest_of(plan(accumulate=2), epochs=3, world=2) == "8435618ab1ead627"
