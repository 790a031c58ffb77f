"""ListOps: labels by an evaluator of its own, brackets, lengths, determinism and disjoint splits."""

import statistics
from collections import Counter

import numpy as np
import pytest

from qkv.data.generated.listops import SYMBOLS, Expression, ListOpsData, draw_expression, generate_listops
from qkv.errors import BadData

SMALL = ListOpsData(min_length=10, max_length=60, depth=6, arguments=5, train=200, valid=40, test=40)

# An operator and two digits: 400 different expressions.
SHORT = ListOpsData(min_length=4, max_length=4, depth=2, arguments=2, train=1, valid=1, test=1)


def evaluate(text: str) -> int:
    """The value of an expression by a stack machine that shares no code with the generator."""
    stack: list[list[int]] = [[]]
    operators: list[str] = []
    for token in text.split():
        if token.startswith("["):
            operators.append(token[1:])
            stack.append([])
        elif token == "]":
            stack[-2].append(apply_operator(operators.pop(), stack.pop()))
        else:
            stack[-1].append(int(token))
    assert not operators
    ((value,),) = stack
    return value


def apply_operator(name: str, arguments: list[int]) -> int:
    results = {
        "MIN": lambda: min(arguments),
        "MAX": lambda: max(arguments),
        "MED": lambda: int(statistics.median(arguments)),
        "SM": lambda: int(np.sum(arguments)) % 10,
    }
    return results[name]()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[SM 9 9 9 ]", 7),
        ("[MED 1 2 8 ]", 2),
        ("[MED 1 2 5 8 ]", 3),  # 3.5 is rounded down
        ("[MIN [SM 5 5 ] 3 ]", 0),
    ],
)
def test_the_evaluator_itself(text: str, value: int) -> None:
    assert evaluate(text) == value


def test_labels_are_the_values_of_the_expressions() -> None:
    splits = generate_listops(SMALL)
    for item in (*splits.train, *splits.valid, *splits.test):
        assert evaluate(item.text) == item.value, item.text


def test_published_sizes_and_labels_of_long_expressions() -> None:
    data = ListOpsData(train=20, valid=1, test=1)
    for item in generate_listops(data).train:
        tokens = item.text.split()
        assert 500 <= len(tokens) <= 2000
        assert evaluate(item.text) == item.value


def measure_tree(text: str) -> tuple[int, set[int]]:
    """The number of levels, and how many arguments the operations have."""
    deepest, counts, open_counts = 1, set(), [0]
    for token in text.split():
        if token == "]":
            counts.add(open_counts.pop())
            continue
        open_counts[-1] += 1
        if token.startswith("["):
            open_counts.append(0)
        deepest = max(deepest, len(open_counts))
    return deepest, counts


def test_every_operator_has_its_closing_bracket_and_the_tree_keeps_its_limits() -> None:
    symbols: Counter[str] = Counter()
    levels, counts = set(), set()
    for item in generate_listops(SMALL).train:
        tokens = item.text.split()
        assert sum(token.startswith("[") for token in tokens) == tokens.count("]")
        assert 10 <= len(tokens) <= 60
        symbols.update(tokens)
        depth, arguments = measure_tree(item.text)
        levels.add(depth)
        counts |= arguments
    assert set(symbols) == set(SYMBOLS)
    assert max(levels) == 6
    assert counts == {2, 3, 4, 5}


def test_the_same_seed_gives_the_same_expressions_and_another_one_others() -> None:
    few = SMALL.model_copy(update={"train": 20})
    texts = [[item.text for item in generate_listops(few).train] for _ in range(2)]
    assert texts[0] == texts[1]
    assert generate_listops(few).train[7].text == texts[0][7]  # without those before it
    other = few.model_copy(update={"seed": 2})
    assert generate_listops(other).train[0].text != texts[0][0]


def test_an_expression_stays_what_it_was() -> None:
    """Runs are resumed and tested with the same data in later versions."""
    data = ListOpsData(min_length=4, max_length=12, train=1, valid=1, test=1)
    assert draw_expression(np.random.RandomState(0), data) == Expression("[SM 0 2 3 8 1 3 3 3 ]", 3)


def test_no_expression_is_in_two_splits() -> None:
    """There are so few short expressions that most of them would be in two splits by chance."""
    data = SHORT.model_copy(update={"train": 400, "valid": 100, "test": 100})
    splits = generate_listops(data)
    train, valid, test = (
        {item.text for item in items} for items in (splits.train, splits.valid, splits.test)
    )
    assert not train & valid
    assert not train & test
    assert not valid & test


def test_lengths_that_no_tree_has_are_refused() -> None:
    with pytest.raises(BadData, match=r"depth=2 .* has 500 to 2,000 tokens: widen the range"):
        generate_listops(ListOpsData(depth=2, train=1, valid=1, test=1))
