"""Memory of large results that is kept: never while anyone uses it, and never too much."""

import gc

import pytest
import torch

from qkv.kernel import pages


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGE", 4096)
    monkeypatch.setattr(pages, "MOST", 3 * 4096)
    monkeypatch.setattr(pages, "_waiting", [])


def test_a_large_result_has_its_shape_and_type_and_can_be_written() -> None:
    made = pages.empty((2, 3, 1024), torch.bfloat16)
    assert made.shape == (2, 3, 1024)
    assert made.dtype == torch.bfloat16
    assert made.is_contiguous()
    assert made.fill_(2).sum().item() == 2 * made.numel()


def test_memory_is_used_again_once_nobody_has_it() -> None:
    first = pages.empty((1024,), torch.float32)
    place = first.data_ptr()
    del first
    assert pages.empty((512, 2), torch.float32).data_ptr() == place


def test_memory_is_not_used_again_while_a_view_or_a_graph_has_it() -> None:
    first = pages.empty((1024,), torch.float32).fill_(1)
    part = first[1000:]
    weight = torch.ones(1024, requires_grad=True)
    product = weight * first
    del first
    gc.collect()
    pages.empty((1024,), torch.float32).fill_(7)
    assert part.tolist() == [1.0] * 24
    product.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0] * 1024


def test_no_more_is_kept_than_agreed() -> None:
    lent = [pages.empty((1024 * many,), torch.float32) for many in (1, 2, 1, 5, 1)]
    del lent
    kept = [len(block) for block in pages._waiting]
    assert sum(kept) <= 3 * 4096
    assert kept


def test_small_results_are_torchs_own() -> None:
    pages.empty((1023,), torch.float32)
    assert not pages._waiting
