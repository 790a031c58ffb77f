"""docs/recipes.md: it is up to date, has every recipe and key once, and its tables are tables."""

from typing import Any

import pytest

from qkv.task.recipe import list_builtin_recipes
from qkv.task.recipe_keys import list_recipe_keys
from qkv.task.registry import TASKS
from script_loading import load_script


@pytest.fixture(scope="module")
def page() -> Any:
    """docs/make_recipes.py."""
    return load_script("docs", "make_recipes")


def test_the_page_is_up_to_date(page: Any) -> None:
    assert page.main(["--check"]) == 0


def test_a_stale_page_is_found(page: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "recipes.md")
    assert page.main(["--check"]) == 1
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
    page.PAGE.write_text(page.PAGE.read_text().replace("train.lr", "train.rate"))
    assert page.main(["--check"]) == 1


def test_every_recipe_and_every_key_is_listed(page: Any) -> None:
    text = page.render()
    common, *tasks = text.partition("## Keys of every recipe")[2].split("## Keys of task: ")
    for name in list_builtin_recipes():
        assert text.count(f"| `{name}` |") == 1
    assert [part.splitlines()[0] for part in tasks] == list(TASKS)
    for task, own in zip(TASKS.values(), tasks, strict=True):
        names = {key.name for key in list_recipe_keys(task.recipe) if "." in key.name}
        assert {name for name in names if f"| `{name}`" not in common and f"| `{name}`" not in own} == set()


def test_rows_have_as_many_cells_as_their_table(page: Any) -> None:
    rows = [line.replace("\\|", "") for line in page.render().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3, 5}


def test_common_keys_name_the_tasks_with_another_default(page: Any) -> None:
    assert "| `train.lr` | number > 0 | `0.001`; translate: (from the data) |" in page.render()
