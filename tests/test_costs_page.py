"""docs/costs.md: it is up to date, and its numbers are those that are computed today."""

from typing import Any

import pytest

from qkv.cost.workload import build_workload
from script_loading import load_script


@pytest.fixture(scope="module")
def page() -> Any:
    """docs/make_costs.py."""
    return load_script("docs", "make_costs")


def test_the_page_is_up_to_date(page: Any) -> None:
    assert page.main(["--check"]) == 0


def test_published_models_have_the_parameters_of_the_page(page: Any) -> None:
    data = page.json.loads(page.DATA.read_text())["published"]
    assert list(data) == [model.name for model in page.PUBLISHED]
    for model in page.PUBLISHED:
        built = build_workload(model.config, model.sizes).model
        assert sum(weight.numel() for weight in built.parameters()) == data[model.name]["parameters"]
        assert data[model.name]["parameters"] == pytest.approx(model.parameters, rel=0.07)


@pytest.mark.slow
def test_the_operations_of_all_published_models_are_those_of_the_page(page: Any) -> None:
    data = page.json.loads(page.DATA.read_text())["published"]
    for model in page.PUBLISHED:
        assert page.compute_row(model) == data[model.name]
