"""Models and recipes that the tests of the task `caption` share."""

from pathlib import Path
from typing import Any

from qkv.task.recipe import parse_recipe
from tiny_pictures import caption_recipe

PATCHES = {
    "kind": "patches",
    "patch": 4,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "feedforward": 8,
    "dropout": 0.0,
}
TRANSFORMER = {
    "kind": "transformer",
    "encoder": PATCHES,
    "layers": 1,
    "width": 8,
    "heads": 2,
    "feedforward": 8,
    "dropout": 0.1,
}
HARD = {"attention": {"score": "additive", "select": {"name": "hard"}}}
LEARN = {"steps": 80, "lr": 0.02, "validate_every": 40}


def recipe_in(folder: Path, model: Any = None, **sections: Any) -> Any:
    """The tiny recipe with changes of its model, or with a model of another kind in place of its own."""
    if model and "kind" in model:
        raw = {**caption_recipe(folder, **sections).model_dump(mode="json"), "model": model}
        return parse_recipe(raw, "the recipe")
    return caption_recipe(folder, **sections, **({"model": model} if model else {}))
