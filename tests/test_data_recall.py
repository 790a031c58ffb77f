"""Recall and copying: what is asked and what counts, disjoint splits, batches by position."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qkv.data.examples import ExamplePlan, ScoredTokens, collate_examples
from qkv.data.generated.copying import CopyingData
from qkv.data.generated.examples import ExampleData, generate_examples
from qkv.data.generated.recall import RecallData
from qkv.errors import BadData

SIZES: dict[str, Any] = {"train": 50, "valid": 10, "test": 10}
CONFIGS = {
    "recall": RecallData(pairs=4, **SIZES),
    "recall with filler": RecallData(pairs=4, length=32, **SIZES),
    "recall with a power law": RecallData(pairs=4, length=32, gap_power=0.01, **SIZES),
    "copying": CopyingData(**SIZES),
    "reversal": CopyingData(reverse=True, **SIZES),
}


def words(data: ExampleData, symbols: np.ndarray) -> list[str]:
    names = data.list_symbols()
    return [names[number] for number in symbols.tolist()]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("recall")])
def test_every_key_is_asked_once_and_its_value_alone_counts(name: str) -> None:
    data: Any = CONFIGS[name]
    for example in generate_examples(data).train:
        row = words(data, example.symbols)
        assert len(row) == data.longest
        mapping = dict(zip(row[0:8:2], row[1:8:2], strict=True))
        assert len(mapping) == len(set(mapping.values())) == 4
        queries = np.flatnonzero(example.scored) - 1  # an answer is behind its query
        assert [i for i, word in enumerate(row) if word.startswith("k") and i >= 8] == queries.tolist()
        assert {row[i] for i in queries} == mapping.keys()
        asked = words(data, example.targets)
        assert all(asked[i + 1] == mapping[row[i]] for i in queries)


def test_answers_are_not_shown() -> None:
    data = RecallData(pairs=4, train=300, valid=1, test=1)
    examples = list(generate_examples(data).train)
    shown = [np.mean((example.symbols == example.targets)[example.scored]) for example in examples]
    assert np.mean(shown) < 4 / 64  # a random value is the answer once in 64
    assert all((e.symbols == e.targets)[~e.scored].all() for e in examples)


def test_mappings_and_orders_are_fresh_in_every_example() -> None:
    data = RecallData(pairs=4, keys=4, values=4, **SIZES)
    mappings, orders = set(), set()
    for example in generate_examples(data).train:
        row = words(data, example.symbols)
        mappings.add(frozenset(zip(row[0:8:2], row[1:8:2], strict=True)))
        orders.add(tuple(row[:8:2].index(key) for key in row[8::2]))
    assert len(mappings) > 15  # of 24
    assert len(orders) > 15  # of 24


def test_a_power_law_puts_queries_near_the_pairs() -> None:
    near, uniform = (
        RecallData(pairs=4, length=64, gap_power=power, train=300, valid=1, test=1) for power in (0.01, None)
    )
    means = [
        np.mean([np.flatnonzero(example.scored) for example in generate_examples(data).train])
        for data in (near, uniform)
    ]
    assert means[0] < 25
    assert means[1] == pytest.approx(8 + 28, abs=1.5)  # the middle of the places


@pytest.mark.parametrize("reverse", [False, True])
def test_copies_follow_the_separator_and_count_with_the_line_end(reverse: bool) -> None:
    data = CopyingData(symbols=5, min_length=2, max_length=6, reverse=reverse, **SIZES)
    lengths = set()
    for example in generate_examples(data).train:
        row = words(data, example.symbols)
        length = row.index("|")
        lengths.add(length)
        again = row[:length][::-1] if reverse else row[:length]
        assert row[length + 1 :] == [*again, "\n"]
        assert example.scored.tolist() == [i > length for i in range(len(row))]
    assert lengths == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("name", CONFIGS)
def test_examples_are_a_function_of_the_seed_and_their_number(name: str) -> None:
    data = CONFIGS[name]
    first, again = generate_examples(data).train, generate_examples(data).train
    assert all(np.array_equal(a.symbols, b.symbols) for a, b in zip(first, again, strict=True))
    other = generate_examples(data.model_copy(update={"seed": 5})).train
    assert any(not np.array_equal(a.symbols, b.symbols) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", ["copying", "recall"])
def test_no_example_is_in_two_splits(kind: str) -> None:
    """The spaces are so small that most examples would be in two splits by chance."""
    sizes: dict[str, Any] = {"train": 100, "valid": 20, "test": 20}
    copying = CopyingData(symbols=3, min_length=4, max_length=4, **sizes)  # 81 sequences
    data = copying if kind == "copying" else RecallData(pairs=2, keys=3, values=3, **sizes)  # 72 examples
    splits = generate_examples(data)
    train, valid, test = (
        {tuple(example.symbols.tolist()) for example in examples}
        for examples in (splits.train, splits.valid, splits.test)
    )
    assert len(train) > 30
    assert not train & valid
    assert not train & test
    assert not valid & test


def test_too_few_different_examples_are_refused() -> None:
    with pytest.raises(BadData, match="too few different ones"):
        _ = generate_examples(
            CopyingData(symbols=2, min_length=1, max_length=1, train=1, valid=50, test=1)
        ).test


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RecallData(pairs=65), "pairs=65 needs as many different keys and values"),
        (lambda: RecallData(length=31), "length=31 must be even and at least 32"),
        (lambda: RecallData(length=30), "length=30 must be even and at least 32"),
        (lambda: RecallData(gap_power=0), "gap_power"),
        (lambda: CopyingData(min_length=5, max_length=4), "min_length=5 is above max_length=4"),
        (lambda: CopyingData(symbols=27), "symbols"),
        (lambda: CopyingData(train=0), "train"),
    ],
)
def test_values_that_cannot_work(build: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build()


def rows(count: int) -> list[ScoredTokens]:
    """Examples of 2 to 4 tokens, of which the last one counts."""
    sizes = [2 + number % 3 for number in range(count)]
    return [
        ScoredTokens(np.arange(size) + 10 * i, np.arange(size) + 10 * i + 1, np.arange(size) == size - 1)
        for i, size in enumerate(sizes)
    ]


def test_batches_hold_every_example_once_per_epoch_in_an_order_of_their_own() -> None:
    plan = ExamplePlan(rows(10), 4, seed=3)
    assert plan.steps(0) == 3
    orders = []
    for epoch in (0, 1):
        batches = [plan.window(epoch, index, 0, 1)[0] for index in range(3)]
        assert [len(batch.inputs) for batch in batches] == [4, 4, 2]
        assert [plan.count(epoch, index) for index in range(3)] == [4, 4, 2]
        orders.append([first for batch in batches for first in batch.inputs[:, 0].tolist()])
        assert sorted(orders[-1]) == [10 * i for i in range(10)]
    assert orders[0] != orders[1]
    again = ExamplePlan(rows(10), 4, seed=3).window(1, 1, 0, 1)[0]
    assert torch.equal(again.inputs, plan.window(1, 1, 0, 1)[0].inputs)
    assert not torch.equal(ExamplePlan(rows(10), 4, seed=4).window(1, 1, 0, 1)[0].inputs, again.inputs)


def test_processes_share_the_rows_of_an_update() -> None:
    plan = ExamplePlan(rows(10), 4, seed=3)
    whole = plan.window(0, 2, 0, 1)[0].inputs[:, 0].tolist()
    shares = [plan.window(0, 2, rank, 3) for rank in range(3)]
    assert [batch.inputs[:, 0].tolist() for share in shares for batch in share] == [[whole[0]], [whole[1]]]
    assert shares[2] == []  # two rows for three processes


def test_a_batch_is_padded_and_padding_does_not_count() -> None:
    batch = collate_examples(rows(3))
    assert batch.inputs.tolist() == [[0, 1, 0, 0], [10, 11, 12, 0], [20, 21, 22, 23]]
    assert batch.targets.tolist() == [[1, 2, 0, 0], [11, 12, 13, 0], [21, 22, 23, 24]]
    assert batch.keep.sum(1).tolist() == [2, 3, 4]
    assert batch.scored.int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    with pytest.raises(BadData, match="0 examples"):
        ExamplePlan([], 4, seed=3)


def test_the_largest_power_puts_the_queries_at_the_end() -> None:
    data = RecallData(pairs=4, length=4096, gap_power=100)
    drawn = data.draw(np.random.RandomState(0))
    assert np.flatnonzero(drawn.scored).min() > 3500
