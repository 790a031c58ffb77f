"""Checks that a training is resumed with the recipe and the data that it was started with."""

from pathlib import Path
from typing import Any

from qkv.errors import BadRun
from qkv.task.base import Recipe
from qkv.task.recipe import parse_recipe
from qkv.task.registry import find_task

SPLIT_NAMES = {"train": "training", "valid": "held-out"}


def refuse_another_recipe(run: Path, before: Any, recipe: Recipe) -> None:
    """Check that the recipe differs from that of the training to resume only in what may change.

    Args:
        run: the run directory.
        before: the recipe of the training to resume, as plain data.
        recipe: the recipe to resume it with.

    Raises:
        BadRun: other keys differ; the message names them.
    """
    old = parse_recipe(before if isinstance(before, dict) else {}, str(run))
    task = find_task(recipe.task)
    changed = ["task"] if old.task != recipe.task else list(task.find_changed_keys(old, recipe))
    if changed:
        raise BadRun(
            f"{run} was trained with another {' and '.join(changed)}: resume it with its own recipe, "
            f"{run / 'recipe.yaml'}, or train into another directory"
        )


def refuse_other_data(run: Path, before: Any, data: Any, recipe: Recipe) -> None:
    """Check that the data is that of the training to resume.

    Args:
        run: the run directory.
        before: the fingerprint of the data of the training to resume.
        data: the data to resume it with.
        recipe: the recipe to resume it with.

    Raises:
        BadRun: the data differs; the message names the keys of the recipe and says how.
    """
    task = find_task(recipe.task)
    now = task.compute_fingerprint(data)
    before = before if isinstance(before, dict) else {}
    changed = [part for part in now if now[part] != before.get(part)]
    if not changed:
        return
    differences = {
        task.name_data_part(part, recipe): _describe_difference(before.get(part), now[part])
        for part in changed
    }
    kinds = " and ".join(dict.fromkeys(SPLIT_NAMES[part.partition(".")[0]] for part in changed))
    raise BadRun(
        f"the {kinds} data changed since {run} was started: "
        + "; ".join(f"{name} {difference}" for name, difference in differences.items())
        + ". Put the data back, or train into another directory"
    )


def _describe_difference(before: Any, now: dict[str, Any]) -> str:
    lines = before.get("lines") if isinstance(before, dict) else None
    unit = now.get("unit", "lines")
    if lines != now["lines"]:
        return f"has {now['lines']:,} {unit}, not {lines if not isinstance(lines, int) else f'{lines:,}'}"
    return f"has other {'text' if unit == 'lines' else unit}, or its {unit} in another order"
