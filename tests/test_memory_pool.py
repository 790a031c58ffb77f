"""The memory pool never reuses memory that is in use, and never holds too much."""

import gc
import multiprocessing
import threading

import pytest
import torch

from qkv.kernel import memory_pool

BLOCK = 4096


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_pool.raise_malloc_threshold()
    monkeypatch.setattr(memory_pool, "MAX_MALLOC_BYTES", BLOCK - 1)
    monkeypatch.setattr(memory_pool, "MAX_FREE_BYTES", 3 * BLOCK)
    monkeypatch.setattr(memory_pool, "_free_blocks", type(memory_pool._free_blocks)())


def test_a_large_result_has_its_shape_and_type_and_can_be_written() -> None:
    result = memory_pool.allocate_pooled_empty((2, 3, 1024), torch.bfloat16)
    assert result.shape == (2, 3, 1024)
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous()
    assert result.fill_(2).sum().item() == 2 * result.numel()


def test_memory_is_used_again_once_nobody_has_it() -> None:
    first = memory_pool.allocate_pooled_empty((1024,), torch.float32)
    place = first.data_ptr()
    del first
    assert memory_pool.allocate_pooled_empty((512, 2), torch.float32).data_ptr() == place


def test_lengths_that_differ_a_little_find_the_same_memory() -> None:
    first = memory_pool.allocate_pooled_empty((1100,), torch.float32)
    place = first.data_ptr()
    del first
    assert memory_pool.allocate_pooled_empty((1130,), torch.float32).data_ptr() == place


def test_memory_is_not_used_again_while_a_view_or_a_graph_has_it() -> None:
    first = memory_pool.allocate_pooled_empty((1024,), torch.float32).fill_(1)
    part = first[1000:]
    weight = torch.ones(1024, requires_grad=True)
    product = weight * first
    del first
    gc.collect()
    memory_pool.allocate_pooled_empty((1024,), torch.float32).fill_(7)
    assert part.tolist() == [1.0] * 24
    product.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0] * 1024


def test_no_more_is_kept_than_agreed() -> None:
    lent = [memory_pool.allocate_pooled_empty((1024 * many,), torch.float32) for many in (1, 2, 1, 1)]
    del lent
    assert 0 < sum(map(len, memory_pool._free_blocks)) <= 3 * BLOCK


def test_what_is_larger_than_all_that_may_be_kept_drives_nothing_out() -> None:
    small, large = (
        memory_pool.allocate_pooled_empty((1024,), torch.float32),
        memory_pool.allocate_pooled_empty((4 * 1024,), torch.float32),
    )
    del small, large
    assert [len(block) for block in memory_pool._free_blocks] == [BLOCK]


def test_small_results_are_torchs_own() -> None:
    memory_pool.allocate_pooled_empty((1023,), torch.float32)
    assert not memory_pool._free_blocks


def test_a_default_device_changes_nothing() -> None:
    with torch.device("meta"):
        assert memory_pool.allocate_pooled_empty((3,), torch.float32).device.type == "cpu"
        assert memory_pool.allocate_pooled_empty((2048,), torch.float32).device.type == "cpu"


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(MemoryError, match="use shorter or fewer sequences"):
        memory_pool.allocate_pooled_empty((1 << 55,), torch.float32)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_fork_has_its_own() -> None:
    mine, waits = (
        memory_pool.allocate_pooled_empty((1024,), torch.float32).fill_(1),
        memory_pool.allocate_pooled_empty((1024,), torch.float32),
    )
    del waits

    def child() -> None:
        mine.fill_(7)
        memory_pool.allocate_pooled_empty((1024,), torch.float32).fill_(7)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    again = memory_pool.allocate_pooled_empty((1024,), torch.float32).fill_(2)
    process.join()
    assert process.exitcode == 0
    assert mine.tolist() == [1.0] * 1024
    assert again.tolist() == [2.0] * 1024


def test_threads_take_and_bring_at_once() -> None:
    wrong: list[object] = []

    def use(number: int) -> None:
        try:
            for i in range(300):
                result = memory_pool.allocate_pooled_empty((1024 * (1 + i % 3),), torch.float32).fill_(number)
                if not bool((result == number).all()):
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
