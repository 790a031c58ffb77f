"""Freed memory: when it is given back, and that the system's functions are found."""

import sys

import pytest

from qkv.train.freed_memory import SETTLING, FreedMemory, find_trim, read_resident_bytes


def list_trims(sizes: list[int]) -> list[int]:
    """The numbers of the updates, from 1, after which memory was given back."""
    trims: list[int] = []
    remaining = iter(sizes)
    memory = FreedMemory(lambda _: trims.append(number) or 1, lambda: next(remaining))
    for number in range(1, len(sizes) + 1):  # noqa: B007 -- read by the lambda
        memory.give_back_if_grown()
    return trims


def test_a_process_of_a_constant_size_keeps_its_memory() -> None:
    assert list_trims([10] * 30) == []
    assert list_trims([1, 5, 7, 10, *[20] * 30]) == []


def test_a_process_that_grows_gives_memory_back() -> None:
    settling = [10] * SETTLING
    assert list_trims([*settling, 15, 20, 21, *settling, 20, 21]) == [SETTLING + 3, 2 * SETTLING + 5]


def test_nothing_happens_where_the_c_library_cannot() -> None:
    FreedMemory(None, lambda: 1 // 0).give_back_if_grown()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_the_functions_of_the_system() -> None:
    assert 10**7 < read_resident_bytes() < 10**12
    trim = find_trim()
    assert trim is None or trim(0) in (0, 1)
