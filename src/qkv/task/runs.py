"""Run directories: what training leaves behind, enough to decode with."""

from pathlib import Path
from typing import Any

import yaml

from qkv.data import TokenizerPair
from qkv.errors import BadRun
from qkv.task.recipe import Recipe, parse_recipe
from qkv.task.translation import RECIPE, TOKENIZER, build_model
from qkv.train import WEIGHTS, load_weights


def recipe_of(run: Path) -> Recipe:
    """The recipe a run was trained with.  Raises BadRun where it is missing or damaged."""
    path = run / RECIPE
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRun(_not_a_run(run, f"{path.name}: {error.strerror}")) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadRun(f"{path} is damaged: it is not valid YAML") from None
    if not isinstance(told, dict):
        raise BadRun(f"{path} is damaged: it holds no keys and values")
    return parse_recipe(told, str(path))


def load(run: str | Path) -> Any:
    """A trained run, ready to use: it has `.translate`.

    Raises BadRun for a directory that is no run, or lacks a file, or holds a damaged one.
    """
    from qkv.task.translator import Translator

    folder = Path(run).expanduser()
    recipe = recipe_of(folder)
    for name in (TOKENIZER, WEIGHTS):
        if not (folder / name).exists():
            raise BadRun(_not_a_run(folder, f"{name} is missing"))
    tokens = TokenizerPair.load(folder / TOKENIZER)
    model = build_model(recipe.model, tokens)
    load_weights(model, folder / WEIGHTS)
    return Translator(recipe, tokens, model.eval())


def _not_a_run(run: Path, reason: str) -> str:
    if not run.exists():
        return f"no run directory {run}: train one with `qkv train RECIPE --out {run}`"
    return f"{run} is not a finished run ({reason}): finish it with `qkv train RECIPE --out {run} --resume`"
