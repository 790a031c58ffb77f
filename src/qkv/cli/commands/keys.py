"""`qkv keys`: explains the keys of a task's recipes, for any width of terminal."""

import shutil
import textwrap
from collections.abc import Iterator

from qkv.task.attention_keys import list_attention_keys
from qkv.task.recipe_keys import RecipeKey, list_recipe_keys, select_keys
from qkv.task.registry import DEFAULT_TASK, TASKS, find_task

MIN_WIDTH = 40
INDENT = "    "


def list_keys(section: str | None, task: str | None) -> None:
    """Print every key, or those of a section.  Raises a QKVError if there is no such task, section or key."""
    recipe_task = find_task(task or DEFAULT_TASK)
    keys = list_recipe_keys(recipe_task.recipe, recipe_task.keys_from_data)
    selected = keys if section is None else _select_keys(keys, section)
    width = max(shutil.get_terminal_size().columns, MIN_WIDTH)
    if section is None:
        print(f"keys of a recipe with task: {recipe_task.name} (tasks: {', '.join(TASKS)})\n")
    for key in selected:
        for line in format_key(key, width):
            print(line)
    if section is None:
        print("\nOne section: qkv keys train    Set a key: qkv train RECIPE --set train.epochs=3")
        print("Inside an attention: qkv keys model.encoder    What it can be made of: qkv parts")


def _select_keys(keys: list[RecipeKey], section: str) -> list[RecipeKey]:
    """The keys of a section, those inside an attention included."""
    for name, *_, default, _ in [key for key in keys if key.type.startswith("attention")]:
        if section == name or section.startswith(f"{name}."):
            inside = list_attention_keys(name, "causal: true" in default)
            return [*select_keys(keys, name), *inside] if section == name else select_keys(inside, section)
    return select_keys(keys, section)


def format_key(key: RecipeKey, width: int) -> Iterator[str]:
    """The lines of a key: its name, type and default, then its meaning."""
    kind = f" (kind: {key.kind})" if key.kind else ""
    default = f" = {key.default}" if key.default else ""
    yield f"{key.name}{default}   {key.type}{kind}"
    yield from textwrap.wrap(
        key.meaning, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
    )
