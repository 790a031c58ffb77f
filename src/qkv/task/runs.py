"""Run directories: what training leaves behind, enough to decode with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qkv.data import TokenizerPair, longest_text, train_tokenizers
from qkv.errors import BadRecipe, BadRun
from qkv.files import expand_home
from qkv.task.defaults import take_defaults
from qkv.task.devices import find_device
from qkv.task.origin import digest_of, refuse_another_recipe
from qkv.task.pairs import Lines
from qkv.task.recipe import Recipe, parse_recipe
from qkv.task.translation import build_model
from qkv.train import STATE, WEIGHTS, load_weights, read_label, read_state
from qkv.train.checkpoint import refuse_started
from qkv.train.config import MAY_CHANGE
from qkv.train.ranks import launched
from qkv.yaml_input import load_yaml, read_yaml_text

RECIPE, TOKENIZER = "recipe.yaml", "tokenizer.json"
FILES = (RECIPE, TOKENIZER)
LABELLED = ("model", "tokens", "objective", "train")  # sections of the recipe that make the weights


def recipe_of(run: Path) -> Recipe:
    """The recipe a run was trained with.  Raises BadRun where it is missing or damaged."""
    path = run / RECIPE
    try:
        told = load_yaml(read_yaml_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadRun(_not_a_run(run, f"{path.name}: {error.strerror}")) from None
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadRun(f"{path} is damaged: it is not valid YAML ({error})") from None
    if not isinstance(told, dict):
        raise BadRun(f"{path} is damaged: it holds no keys and values")
    lacking = [name for name in Recipe.model_fields if name not in told]
    if lacking:
        raise BadRun(f"{path} is damaged: it lacks {', '.join(lacking)}, and a run's recipe is complete")
    return parse_recipe(told, str(path))


def load(run: str | Path, *, device: Any = "cpu") -> Any:
    """A trained run, ready to use: it has `.translate`.

    device: where to compute, as torch names it, or "auto": a GPU if there is one.
    Raises BadRun for a directory that is no run, or lacks a file, or holds a damaged one, or one of another
    run; UnknownName for a device that is not there.
    """
    from qkv.task.translator import Translator

    place = find_device(device)
    folder = expand_home(run)
    recipe = recipe_of(folder)
    for name in (TOKENIZER, WEIGHTS):
        if not (folder / name).exists():
            raise BadRun(_not_a_run(folder, f"{name} is missing"))
    _check_label(folder, recipe, read_label(folder / WEIGHTS))
    tokens = TokenizerPair.load(folder / TOKENIZER)
    model = build_model(recipe.model, tokens)
    load_weights(model, folder / WEIGHTS)
    return Translator(recipe, tokens, model.to(place).eval())


def leads() -> bool:
    """Whether this process is the only one, or the first of those that were started: it alone writes."""
    return launched().rank == 0


def label_of(recipe: Recipe, tokenizer: bytes) -> dict[str, Any]:
    """What the weights of a run belong to: `load` compares it with the files beside them."""
    sections = recipe.model_dump(mode="json", include=set(LABELLED))
    sections["train"] = {key: value for key, value in sections["train"].items() if key not in MAY_CHANGE}
    return {**sections, "tokenizer": digest_of(tokenizer)}


def refuse_unstarted(run: Path) -> None:
    """Raise BadRun where there is no training to resume; nothing is written."""
    if not (run / STATE).exists():
        raise BadRun(
            f"there is no training to resume in {run}: {run / STATE} is missing. "
            "Leave out --resume to start one."
        )


def complete_as_trained(run: Path, recipe: Recipe) -> Recipe:
    """The recipe with the keys that it leaves out as the training to resume in `run` has them, if any."""
    if not (run / STATE).is_file():
        return recipe
    trained = read_state(run)["origin"].get("recipe")
    return take_defaults(recipe, parse_recipe(trained, str(run / STATE)) if trained else recipe_of(run))


def check_start(run: Path, recipe: Recipe, resume: bool) -> dict[str, Any]:
    """The origin of the training to resume, empty without `resume`; nothing is written.

    Raises BadRun where `run` cannot be started, or resumed, with this recipe.
    """
    if not resume:
        refuse_started(run, FILES)
        return {}
    refuse_unstarted(run)
    if (run / RECIPE).exists():
        recipe_of(run)  # which raises where it is damaged
    origin = read_state(run)["origin"]
    refuse_another_recipe(run, origin.get("recipe"), recipe)
    return origin


def tokenizers_of(run: Path, recipe: Recipe, pairs: Lines, resume: bool) -> tuple[TokenizerPair, bytes]:
    """The tokenizers, and the content of their file.  A resumed run keeps the file where it has one; the same
    text gives the same file.
    """
    path = run / TOKENIZER
    if resume and path.exists():
        return TokenizerPair.load(path), path.read_bytes()
    tokens = train_tokenizers(pairs, recipe.tokens, longest_text(recipe.batch.max_length))
    return tokens, tokens.to_json().encode()


def refuse_another_tokenizer(run: Path, before: Any) -> None:
    """Raise BadRun where the tokenizers beside a training to resume are not those it was started with."""
    path = run / TOKENIZER
    if path.exists() and _digest_of_file(path) != before:
        raise BadRun(
            f"{path} is damaged, or that of another run. Restore it from a copy, or delete it: --resume "
            "learns it again from the same data"
        )


def _check_label(run: Path, recipe: Recipe, label: dict[str, Any]) -> None:
    """Raise BadRun where the files beside the weights are not those they were trained with.

    Weights of earlier versions have no label, and are taken as they are.
    """
    now = recipe.model_dump(mode="json")
    sections = {name: label[name] for name in LABELLED if name in label}
    if isinstance(sections.get("train"), dict):
        sections["train"] = {**now["train"], **sections["train"]}
    try:
        trained = parse_recipe({**now, **sections}, str(run / WEIGHTS))
    except BadRecipe as error:
        raise BadRun(f"{run / WEIGHTS} is damaged: {error}") from None
    changed = list(_differing("", now, trained.model_dump(mode="json")))
    if changed:
        raise BadRun(
            f"{run / WEIGHTS} belongs to another model: {run / RECIPE} says {'; '.join(changed[:3])}. Put "
            "the recipe back, or restore both from a copy"
        )
    if "tokenizer" in label and _digest_of_file(run / TOKENIZER) != label["tokenizer"]:
        raise BadRun(
            f"{run / TOKENIZER} is damaged, or not the one that {run / WEIGHTS} was trained with: restore "
            "both from a copy"
        )


def _differing(where: str, now: Any, before: Any) -> Iterator[str]:
    """The keys whose values differ, each with both values."""
    if isinstance(now, dict) and isinstance(before, dict):
        for key in sorted({*now, *before}):
            yield from _differing(f"{where}.{key}" if where else key, now.get(key), before.get(key))
    elif now != before:
        yield f"{where} = {now!r:.60}, but it was trained with {before!r:.60}"


def _digest_of_file(path: Path) -> str:
    try:
        return digest_of(path.read_bytes())
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror})") from None


def _not_a_run(run: Path, reason: str) -> str:
    if not run.exists():
        return f"no run directory {run}: train one with `qkv train RECIPE --out {run}`"
    problem = f"{run} is not a finished run ({reason})"
    if (run / STATE).exists():
        recipe = run / RECIPE if (run / RECIPE).exists() else "RECIPE"
        return f"{problem}: finish it with `qkv train {recipe} --out {run} --resume`"
    if any((run / name).exists() for name in (*FILES, WEIGHTS)):
        return f"{problem}, and cannot be finished, for {STATE} is missing too: copy it from where it came"
    return f"{problem}: train one with `qkv train RECIPE --out {run}`"
