"""Where queries and keys stand: counted over real keys, in the whole sequence as in steps."""

import pytest
import torch

from qkv.token_positions import TokenPositions, build_memory_positions, build_self_positions


def as_lists(positions: TokenPositions) -> tuple[list, list, list]:
    return positions.queries.tolist(), positions.keys.tolist(), positions.key_counts.tolist()


@pytest.mark.parametrize(
    ("queries", "expected"),
    [(4, [0, 1, 2, 3]), (2, [2, 3]), (6, [-2, -1, 0, 1, 2, 3]), (0, [])],
)
def test_in_self_attention_the_last_query_is_at_the_last_key(queries: int, expected: list[int]) -> None:
    assert as_lists(build_self_positions(queries, 4, None)) == ([expected], [[0, 1, 2, 3]], [[4]])


def test_in_self_attention_only_real_keys_count() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    keys = [[-1, 0, 1, 1, 2], [0, 1, 2, 2, 2], [-1] * 5]
    assert as_lists(build_self_positions(5, 5, keep)) == (keys, keys, [[3], [3], [0]])
    assert as_lists(build_self_positions(2, 5, keep))[0] == [[1, 2], [2, 2], [-1, -1]]


def test_in_self_attention_steps_equal_all_at_once() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 0, 1, 1, 0, 0]]).bool()
    whole = build_self_positions(6, 6, keep)
    for seen in range(1, 7):
        step = build_self_positions(1, seen, keep[:, :seen])
        assert step.queries.equal(whole.queries[:, seen - 1 : seen])
        assert step.keys.equal(whole.keys[:, :seen])


@pytest.mark.parametrize(("first", "expected"), [(0, [0, 1, 2]), (2, [2, 3, 3]), (7, [3, 3, 3])])
def test_queries_to_a_memory_count_from_the_first_and_stop_at_its_end(first: int, expected: list) -> None:
    assert as_lists(build_memory_positions(3, 4, None, first)) == ([expected], [[0, 1, 2, 3]], [[4]])


def test_queries_to_a_padded_memory_stop_at_its_last_real_key() -> None:
    keep = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    at = build_memory_positions(4, 5, keep)
    assert at.queries.tolist() == [[0, 1, 2, 2], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert at.keys.tolist() == [[-1, 0, 1, 1, 2], [0, 1, 1, 1, 1], [-1] * 5]
    assert at.key_counts.tolist() == [[3], [2], [0]]
