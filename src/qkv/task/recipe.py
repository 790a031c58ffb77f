"""Recipes: read from files and built-in names, changed by `--set`, checked by the model of their task."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qkv.errors import BadRecipe, did_you_mean
from qkv.files import expand_home
from qkv.strict import describe_errors
from qkv.task.registry import DEFAULT, find_task
from qkv.yaml_input import load_yaml, read_yaml_text


def builtin_recipes() -> dict[str, str]:
    """name -> first line of description, of the recipes that ship with the package."""
    folder = files("qkv") / "recipes"
    recipes = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            raw = load_yaml(entry.read_text(encoding="utf-8"))
            recipes[entry.name.removesuffix(".yaml")] = str(raw.get("description", "")).partition("\n")[0]
    return recipes


def recipe_text(name: str) -> str:
    """The text of a built-in recipe, as its author wrote it.

    Raises BadRecipe, with the nearest known name, where there is none of that name.
    """
    known = builtin_recipes()
    if name not in known:
        raise BadRecipe(f"no built-in recipe {name!r}. {did_you_mean(name, known)}")
    return (files("qkv") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str | Path, changes: Sequence[str] = ()) -> Any:
    """The recipe in a file, or the built-in one of that name, with `a.b=value` changes applied; a string is
    one change.

    Raises BadRecipe: no such recipe, not YAML, an unknown key ("did you mean"), a value out of range.
    """
    text, where = _recipe_text(name)
    try:
        raw = load_yaml(text)
    except ValueError as error:
        raise BadRecipe(f"{where} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise BadRecipe(f"{where} must hold keys and values, such as `data:`, got {type(raw).__name__}")
    for change in [changes] if isinstance(changes, str) else changes:
        _apply(raw, change)
    return parse_recipe(raw, where)


def parse_recipe(raw: dict[str, Any], where: str) -> Any:
    """A recipe from plain data, of the model of its task; `where` is named in the error."""
    try:
        model = find_task(raw.get("task", DEFAULT)).recipe
    except BadRecipe as error:
        raise BadRecipe(f"{where}: {error}") from None
    try:
        return model(**raw)
    except ValidationError as error:
        raise BadRecipe(f"{where}: {describe_errors(error, model)}") from None
    except TypeError as error:
        raise BadRecipe(f"{where}: keys must be words ({error})") from None


def _recipe_text(name: str | Path) -> tuple[str, str]:
    path = expand_home(name)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        try:
            return read_yaml_text(path), str(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadRecipe(f"cannot read the recipe {path}: {reason}") from None
    known = builtin_recipes()
    if str(name) not in known:
        raise BadRecipe(f"no recipe {str(name)!r}, as a file or built in. {did_you_mean(str(name), known)}")
    return recipe_text(str(name)), f"recipe {name}"


def _apply(raw: dict[str, Any], change: str) -> None:
    path, equals, value = change.partition("=")
    if not equals or not path:
        raise BadRecipe(f"--set takes key.key=value, as in --set train.epochs=3, got {change!r}")
    *above, last = path.split(".")
    place = raw
    for key in above:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    try:
        place[last] = load_yaml(value)
    except ValueError as error:
        raise BadRecipe(f"--set {change[:200]}: {value[:100]!r} is not a YAML value: {error}") from None
