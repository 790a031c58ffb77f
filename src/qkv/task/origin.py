"""What a training was started from.  Its state keeps this, so that resuming with anything else is refused."""

from pathlib import Path
from typing import Any

from qkv.errors import BadRun
from qkv.task.base import Recipe
from qkv.task.recipe import parse_recipe
from qkv.task.registry import find_task

SPLITS = {"train": "training", "valid": "held-out"}


def refuse_another_recipe(run: Path, before: Any, recipe: Recipe) -> None:
    """Raise BadRun, with the names of the keys, where a recipe differs from that of the training to resume in
    what may not change.
    """
    old = parse_recipe(before if isinstance(before, dict) else {}, str(run))
    changed = ["task"] if old.task != recipe.task else list(find_task(recipe.task).changed_keys(old, recipe))
    if changed:
        raise BadRun(
            f"{run} was trained with another {' and '.join(changed)}: resume it with its own recipe, "
            f"{run / 'recipe.yaml'}, or train into another directory"
        )


def refuse_other_data(run: Path, before: Any, data: Any, recipe: Recipe) -> None:
    """Raise BadRun, with the names of the files, where the data is not that of the training to resume."""
    task = find_task(recipe.task)
    now = task.fingerprint(data)
    before = before if isinstance(before, dict) else {}
    changed = [part for part in now if now[part] != before.get(part)]
    if not changed:
        return
    names = {task.data_name(part, recipe): _difference(before.get(part), now[part]) for part in changed}
    kinds = " and ".join(dict.fromkeys(SPLITS[part.partition(".")[0]] for part in changed))
    raise BadRun(
        f"the {kinds} data changed since {run} was started: "
        + "; ".join(f"{name} {difference}" for name, difference in names.items())
        + ". Put the data back, or train into another directory"
    )


def _difference(before: Any, now: dict[str, Any]) -> str:
    lines = before.get("lines") if isinstance(before, dict) else None
    if lines != now["lines"]:
        return f"has {now['lines']:,} lines, not {lines if not isinstance(lines, int) else f'{lines:,}'}"
    return "has other text, or its lines in another order"
