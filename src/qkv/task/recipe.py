"""Reads recipes: from files or by built-in names, changed by `--set`, checked by the model of their task."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qkv.errors import BadRecipe, did_you_mean
from qkv.files import expand_home
from qkv.strict import describe_errors
from qkv.task.registry import find_task_of_recipe
from qkv.yaml_input import load_yaml, read_yaml_text


def list_builtin_recipes() -> dict[str, str]:
    """Name -> first line of the description of every recipe that ships with the package."""
    recipes = {}
    for name, file in _find_builtin_files().items():
        raw = load_yaml(file.read_text(encoding="utf-8"))
        recipes[name] = str(raw.get("description", "")).partition("\n")[0]
    return recipes


def read_builtin_text(name: str) -> str:
    """The text of a built-in recipe, comments included.

    Args:
        name: the name of the recipe.

    Raises:
        BadRecipe: there is no such recipe; the message offers the nearest name.
    """
    recipes = _find_builtin_files()
    if name not in recipes:
        raise BadRecipe(f"no built-in recipe {name!r}. {did_you_mean(name, recipes)}")
    return recipes[name].read_text(encoding="utf-8")


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> Any:
    """Read a recipe, apply changes and check it.

    Args:
        name: the path of a file, or the name of a built-in recipe.
        changes: `key.key=value`, as `--set` takes it; a string is one change.

    Raises:
        BadRecipe: there is no such recipe, it is not YAML, a key is unknown, or a value is out of range.
    """
    text, origin = _read_text(name)
    try:
        raw = load_yaml(text)
    except ValueError as error:
        raise BadRecipe(f"{origin} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadRecipe(f"{origin} must hold keys and values, such as `data:`, got {type(raw).__name__}")
    for change in [changes] if isinstance(changes, str) else changes:
        _apply_change(raw, change)
    return parse_recipe(raw, origin)


def parse_recipe(raw: dict[str, Any], origin: str) -> Any:
    """Check plain data against the recipe model of its task.

    Args:
        raw: the recipe as plain data.
        origin: where it comes from, for error messages.

    Raises:
        BadRecipe: the task or a key is unknown, a required key is missing, or a value is out of range.
    """
    try:
        task = find_task_of_recipe(raw)
    except BadRecipe as error:
        raise BadRecipe(f"{origin}: {error}") from None
    try:
        return task.recipe(**{**raw, "task": task.name})
    except ValidationError as error:
        raise BadRecipe(f"{origin}: {describe_errors(error, task.recipe)}") from None
    except TypeError as error:
        raise BadRecipe(
            f"{origin}: keys must be words ({error}); rename the keys that are numbers or lists"
        ) from None


def _read_text(name: str | Path) -> tuple[str, str]:
    """The text of a recipe, and where it comes from."""
    path = expand_home(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        try:
            return read_yaml_text(path), str(path)
        except OSError as error:
            reason = error.strerror or error
            raise BadRecipe(
                f"cannot read the recipe {path}: {reason}; check the path and its permissions"
            ) from None
        except ValueError as error:
            raise BadRecipe(f"cannot read the recipe {path}: {error}") from None
    recipes = _find_builtin_files()
    if str(name) not in recipes:
        raise BadRecipe(
            f"no recipe {str(name)!r}, as a file or built in (`qkv recipes` lists these). "
            f"{did_you_mean(str(name), recipes)}"
        )
    return recipes[str(name)].read_text(encoding="utf-8"), f"recipe {name}"


def _find_builtin_files() -> dict[str, Traversable]:
    """Name -> file of every recipe that ships with the package."""
    entries = sorted((files("qkv") / "recipes").iterdir(), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry for entry in entries if entry.name.endswith(".yaml")}


def _apply_change(raw: dict[str, Any], change: str) -> None:
    """Set one key of a recipe; sections on the way are created."""
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise BadRecipe(f"--set takes key.key=value, as in --set train.epochs=3, got {change!r}")
    *sections, last = path.split(".")
    section = raw
    for key in sections:
        if not isinstance(section.get(key), dict):
            section[key] = {}
        section = section[key]
    try:
        section[last] = load_yaml(value)
    except ValueError as error:
        raise BadRecipe(f"--set {change[:200]}: {value[:100]!r} is not a YAML value: {error}") from None
