"""Compares the files of a run with the label that its weights were saved with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qkv.errors import BadRecipe, BadRun
from qkv.task.base import Recipe
from qkv.task.checksums import digest_bytes
from qkv.task.recipe import parse_recipe
from qkv.task.registry import find_task
from qkv.train import WEIGHTS


def refuse_other_label(
    run: Path, recipe: Recipe, contents: Mapping[str, bytes], label: dict[str, Any]
) -> None:
    """Raise BadRun if the files beside the weights are not those that the weights were trained with.

    Weights of earlier versions have no label and are not checked.

    Args:
        run: the run directory.
        recipe: the recipe in it.
        contents: name -> content of the task's files.
        label: what is saved with the weights.
    """
    now = recipe.model_dump(mode="json")
    sections = {name: label[name] for name in find_task(recipe.task).label_sections if name in label}
    if isinstance(sections.get("train"), dict):
        sections["train"] = {**now["train"], **sections["train"]}
    try:
        trained = parse_recipe({**now, **sections}, str(run / WEIGHTS))
    except BadRecipe as error:
        raise BadRun(f"{run / WEIGHTS} is damaged: {error}. Restore it from a copy") from None
    changed = [
        f"{key} = {value!r:.60}, but it was trained with {before!r:.60}"
        for key, value, before in list_differences(now, trained.model_dump(mode="json"))
    ]
    if changed:
        raise BadRun(
            f"{run / WEIGHTS} belongs to another model: {run / 'recipe.yaml'} says {'; '.join(changed[:3])}. "
            "Put the recipe back, or restore both from a copy"
        )
    for name, content in contents.items():
        path = run / name
        if path.stem in label and digest_bytes(content) != label[path.stem]:
            raise BadRun(
                f"{path} is damaged, or not the one that {run / WEIGHTS} was trained with: restore both from "
                "a copy"
            )


def list_differences(now: Any, before: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys whose values differ between two recipes as plain data, each with both values.

    Args:
        now: the one recipe.
        before: the other one.
        path: the key of the section that both are; empty for complete recipes.
    """
    if isinstance(now, dict) and isinstance(before, dict):
        for key in sorted({*now, *before}):
            name = f"{path}.{key}" if path else key
            yield from list_differences(now.get(key), before.get(key), name)
    elif now != before:
        yield path, now, before
