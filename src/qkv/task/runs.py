"""Run directories: what training leaves behind, enough to decode with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from qkv.data import TokenizerPair, train_tokenizers
from qkv.errors import BadRun
from qkv.task.devices import find_device
from qkv.task.files import write_text
from qkv.task.pairs import Lines
from qkv.task.recipe import Recipe, parse_recipe
from qkv.task.translation import build_model
from qkv.train import METRICS, STATE, WEIGHTS, load_weights
from qkv.train.checkpoint import refuse_started
from qkv.train.config import changed_keys

RECIPE, TOKENIZER = "recipe.yaml", "tokenizer.json"
FIXED = ("data", "tokens", "batch", "model")


def recipe_of(run: Path) -> Recipe:
    """The recipe a run was trained with.  Raises BadRun where it is missing or damaged."""
    path = run / RECIPE
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRun(_not_a_run(run, f"{path.name}: {error.strerror}")) from None
    except (yaml.YAMLError, ValueError):
        raise BadRun(f"{path} is damaged: it is not valid YAML") from None
    if not isinstance(told, dict):
        raise BadRun(f"{path} is damaged: it holds no keys and values")
    lacking = [name for name in Recipe.model_fields if name not in told]
    if lacking:
        raise BadRun(f"{path} is damaged: it lacks {', '.join(lacking)}, and a run's recipe is complete")
    return parse_recipe(told, str(path))


def load(run: str | Path, *, device: Any = "cpu") -> Any:
    """A trained run, ready to use: it has `.translate`.

    device: where to compute, as torch names it, or "auto": a GPU if there is one.
    Raises BadRun for a directory that is no run, or lacks a file, or holds a damaged one; UnknownName for a
    device that is not there.
    """
    from qkv.task.translator import Translator

    place = find_device(device)
    folder = Path(run).expanduser()
    recipe = recipe_of(folder)
    for name in (TOKENIZER, WEIGHTS):
        if not (folder / name).exists():
            raise BadRun(_not_a_run(folder, f"{name} is missing"))
    tokens = TokenizerPair.load(folder / TOKENIZER)
    model = build_model(recipe.model, tokens)
    load_weights(model, folder / WEIGHTS)
    return Translator(recipe, tokens, model.to(place).eval())


def leads() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started: it alone writes."""
    return os.environ.get("RANK", "0") == "0"


def check_start(run: Path, recipe: Recipe, resume: bool) -> None:
    """Raise BadRun where `run` cannot be started, or resumed, with this recipe; nothing is written."""
    if not leads():
        return
    if not resume:
        refuse_started(run)
        if (run / RECIPE).exists() and not (run / TOKENIZER).exists():
            raise BadRun(
                f"{run / RECIPE} is not that of a run, and would be overwritten: choose another --out"
            )
        return
    if not (run / STATE).is_file():
        raise BadRun(
            f"there is no training to resume in {run}: {run / STATE} is missing. "
            "Leave out --resume to start one."
        )
    old, new = recipe_of(run).model_dump(mode="json"), recipe.model_dump(mode="json")
    changed = [key for key in FIXED if old[key] != new[key]]
    changed += [f"train.{key}" for key in changed_keys(recipe.train, old["train"])]
    if old["validation"]["monitor"] != new["validation"]["monitor"]:
        changed.append("validation.monitor")
    if changed:
        raise BadRun(
            f"{run} was trained with another {' and '.join(changed)}: resume it with its own recipe, "
            f"{run / RECIPE}, or train into another directory"
        )


def prepare(run: Path, recipe: Recipe, pairs: Lines, resume: bool) -> TokenizerPair:
    """The run's directory with its recipe and tokenizer; a resumed run keeps the tokenizer.

    Raises BadRun where the directory cannot be written.
    """
    tokens = TokenizerPair.load(run / TOKENIZER) if resume else train_tokenizers(pairs, recipe.tokens)
    if not leads():
        return tokens
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not resume:
            tokens.save(run / TOKENIZER)
    except OSError as error:
        raise BadRun(
            f"cannot write the run directory {run}: {error.strerror}; choose another --out"
        ) from None
    write_text(run / RECIPE, recipe.to_yaml())
    return tokens


@contextmanager
def nothing_halfway(run: Path) -> Iterator[None]:
    """Where training fails before its first save, remove what was begun, so that it can be begun again."""
    paths = [run / name for name in (RECIPE, TOKENIZER, METRICS, STATE.parent, "")] if leads() else []
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except BaseException:
        for path in () if (run / STATE).exists() else new:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _not_a_run(run: Path, reason: str) -> str:
    if not run.exists():
        return f"no run directory {run}: train one with `qkv train RECIPE --out {run}`"
    return f"{run} is not a finished run ({reason}): finish it with `qkv train RECIPE --out {run} --resume`"
