"""The largest batch and length that fit into a memory, found with few traces."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qkv.cost import fitting
from qkv.cost.workload import Sizes
from qkv.errors import BadRecipe

LIMIT = 16 * 10**9


@pytest.mark.parametrize(
    ("measure", "largest", "most_traces"),
    [
        (lambda n: 10**8 + 3 * 10**6 * n, 5300, 7),  # in proportion, beside the weights
        (lambda n: 10**8 + 10**6 * n + 10**3 * n * n, 3519, 14),  # all pairs are stored
        (lambda n: 10**8 + 10**9 * n, 15, 9),  # less than the size that is asked about
        (lambda n: 2 * LIMIT, 0, 8),
        (lambda n: 1000, fitting.MOST, 16),
    ],
)
def test_the_largest_batch_fits_and_two_percent_more_do_not(
    monkeypatch: pytest.MonkeyPatch, measure: Callable[[int], int], largest: int, most_traces: int
) -> None:
    batches = []

    def estimate(_: Any, sizes: Sizes) -> Any:
        batches.append(sizes.batch)
        return SimpleNamespace(memory=SimpleNamespace(peak=measure(sizes.batch)))

    monkeypatch.setattr(fitting, "estimate_cost", estimate)
    fit = fitting.find_largest_sizes(None, Sizes(batch=80), LIMIT, reads_text=False)
    assert fit.length is None
    assert fit.batch <= largest <= max(fit.batch * fitting.TOLERANCE, fit.batch)
    assert len(batches) <= most_traces


def test_lengths_that_the_model_cannot_read_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(_: Any, sizes: Sizes) -> Any:
        if sizes.length > 100:
            raise BadRecipe("too long")
        return SimpleNamespace(memory=SimpleNamespace(peak=sizes.batch * sizes.length * 10**6))

    monkeypatch.setattr(fitting, "estimate_cost", estimate)
    fit = fitting.find_largest_sizes(None, Sizes(batch=4, length=32), LIMIT, reads_text=True)
    assert fit.length is not None
    assert 98 <= fit.length <= 100
