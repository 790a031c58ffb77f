"""Where queries and keys stand: counted over real keys, in the whole sequence as in steps."""

import pytest
import torch

from qkv.places import Places, from_first, in_line


def read(at: Places) -> tuple[list, list, list]:
    return at.queries.tolist(), at.keys.tolist(), at.count.tolist()


@pytest.mark.parametrize(
    ("queries", "expected"),
    [(4, [0, 1, 2, 3]), (2, [2, 3]), (6, [-2, -1, 0, 1, 2, 3]), (0, [])],
)
def test_in_line_the_last_query_stands_at_the_last_key(queries: int, expected: list[int]) -> None:
    assert read(in_line(queries, 4, None)) == ([expected], [[0, 1, 2, 3]], [[4]])


def test_in_line_counts_real_keys_alone() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    keys = [[-1, 0, 1, 1, 2], [0, 1, 2, 2, 2], [-1] * 5]
    assert read(in_line(5, 5, keep)) == (keys, keys, [[3], [3], [0]])
    assert read(in_line(2, 5, keep))[0] == [[1, 2], [2, 2], [-1, -1]]


def test_in_line_step_by_step_is_in_line_at_once() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 0, 1, 1, 0, 0]]).bool()
    whole = in_line(6, 6, keep)
    for seen in range(1, 7):
        step = in_line(1, seen, keep[:, :seen])
        assert step.queries.equal(whole.queries[:, seen - 1 : seen])
        assert step.keys.equal(whole.keys[:, :seen])


@pytest.mark.parametrize(("first", "expected"), [(0, [0, 1, 2]), (2, [2, 3, 3]), (7, [3, 3, 3])])
def test_queries_to_a_memory_count_from_the_first_and_stop_at_its_end(first: int, expected: list) -> None:
    assert read(from_first(3, 4, None, first)) == ([expected], [[0, 1, 2, 3]], [[4]])


def test_queries_to_a_padded_memory_stop_at_its_last_real_key() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    at = from_first(4, 5, keep)
    assert at.queries.tolist() == [[0, 1, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert at.keys.tolist() == [[-1, 0, 1, 1, 2], [0, 1, 1, 1, 1], [-1] * 5]
    assert at.count.tolist() == [[3], [2], [0]]
