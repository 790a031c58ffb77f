"""Run directories: what training leaves behind, enough to decode with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qkv.errors import BadRecipe, BadRun
from qkv.files import expand_home
from qkv.task.base import Recipe, Task
from qkv.task.devices import find_device
from qkv.task.digests import digest_of
from qkv.task.origin import refuse_another_recipe
from qkv.task.recipe import parse_recipe
from qkv.task.registry import TASKS, find_task
from qkv.train import STATE, WEIGHTS, load_weights, read_label, read_state
from qkv.train.checkpoint import refuse_started
from qkv.train.ranks import detect_ranks
from qkv.yaml_input import load_yaml, read_yaml_text

RECIPE = "recipe.yaml"


def recipe_of(run: Path) -> Any:
    """The recipe a run was trained with.  Raises BadRun where it is missing or damaged."""
    path = run / RECIPE
    try:
        raw = load_yaml(read_yaml_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadRun(_not_a_run(run, f"{path.name}: {error.strerror}")) from None
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadRun(f"{path} is damaged: it is not valid YAML ({error})") from None
    if not isinstance(raw, dict):
        raise BadRun(f"{path} is damaged: it holds no keys and values")
    task = TASKS.get(str(raw.get("task")))
    lacking = [name for name in (task.recipe.model_fields if task else ("task",)) if name not in raw]
    if lacking:
        raise BadRun(f"{path} is damaged: it lacks {', '.join(lacking)}, and a run's recipe is complete")
    return parse_recipe(raw, str(path))


def load(run: str | Path, *, device: Any = "cpu") -> Any:
    """A trained run, ready for its task: a translator has `.translate`.

    device: where to compute, as torch names it, or "auto": a GPU if there is one.
    Raises BadRun for a directory that is no run, or lacks a file, or holds a damaged one, or one of another
    run; UnknownName for a device that is not there.
    """
    place = find_device(device)
    folder = expand_home(run)
    recipe = recipe_of(folder)
    task = find_task(recipe.task)
    for name in (*task.files, str(WEIGHTS)):
        if not (folder / name).exists():
            raise BadRun(_not_a_run(folder, f"{name} is missing"))
    contents = {name: _read(folder / name) for name in task.files}
    _check_label(folder, recipe, contents, read_label(folder / WEIGHTS))
    parsed = task.parse_files(contents, folder)
    model = task.build_model(recipe, parsed)
    load_weights(model, folder / WEIGHTS)
    return task.runner(recipe, parsed, model.to(place).eval())


def leads() -> bool:
    """Whether this process is the only one, or the first of those that were started: it alone writes."""
    return detect_ranks().rank == 0


def label_of(task: Task, recipe: Recipe, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """What the weights of a run belong to: `load` compares it with the files beside them."""
    return {**task.label(recipe), **file_digests(contents)}


def file_digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """The digests of a task's files, by their names without suffix."""
    return {Path(name).stem: digest_of(content) for name, content in contents.items()}


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
    raw = read_state(run)["origin"].get("recipe")
    trained = parse_recipe(raw, str(run / STATE)) if raw else recipe_of(run)
    return recipe if trained.task != recipe.task else find_task(recipe.task).complete_as(recipe, trained)


def check_start(run: Path, recipe: Recipe, resume: bool) -> dict[str, Any]:
    """The origin of the training to resume, empty without `resume`; nothing is written.

    Raises BadRun where `run` cannot be started, or resumed, with this recipe.
    """
    if not resume:
        refuse_started(run, (RECIPE, *find_task(recipe.task).files))
        return {}
    refuse_unstarted(run)
    if (run / RECIPE).exists():
        recipe_of(run)  # which raises where it is damaged
    origin = read_state(run)["origin"]
    refuse_another_recipe(run, origin.get("recipe"), recipe)
    return origin


def contents_of(run: Path, recipe: Recipe, data: Any, resume: bool) -> dict[str, bytes]:
    """Name -> content of the task's files.  A resumed run keeps those that it has; the same data gives the
    same content.
    """
    task = find_task(recipe.task)
    if resume and all((run / name).exists() for name in task.files):
        return {name: _read(run / name) for name in task.files}
    return task.learn_files(recipe, data)


def refuse_other_files(run: Path, recipe: Recipe, before: Mapping[str, Any]) -> None:
    """Raise BadRun where the files beside a training to resume are not those it was started with."""
    for name in find_task(recipe.task).files:
        path = run / name
        if path.exists() and digest_of(_read(path)) != before.get(path.stem):
            raise BadRun(
                f"{path} is damaged, or that of another run. Restore it from a copy, or delete it: --resume "
                "learns it again from the same data"
            )


def _check_label(run: Path, recipe: Recipe, contents: Mapping[str, bytes], label: dict[str, Any]) -> None:
    """Raise BadRun where the files beside the weights are not those they were trained with.

    Weights of earlier versions have no label, and are taken as they are.
    """
    now = recipe.model_dump(mode="json")
    sections = {name: label[name] for name in find_task(recipe.task).label_sections if name in label}
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
    for name, content in contents.items():
        path = run / name
        if path.stem in label and digest_of(content) != label[path.stem]:
            raise BadRun(
                f"{path} is damaged, or not the one that {run / WEIGHTS} was trained with: restore both from "
                "a copy"
            )


def _differing(where: str, now: Any, before: Any) -> Iterator[str]:
    """The keys whose values differ, each with both values."""
    if isinstance(now, dict) and isinstance(before, dict):
        for key in sorted({*now, *before}):
            yield from _differing(f"{where}.{key}" if where else key, now.get(key), before.get(key))
    elif now != before:
        yield f"{where} = {now!r:.60}, but it was trained with {before!r:.60}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRun(f"{path}: cannot be read ({error.strerror})") from None


def _not_a_run(run: Path, reason: str) -> str:
    if not run.exists():
        return f"no run directory {run}: train one with `qkv train RECIPE --out {run}`"
    problem = f"{run} is not a finished run ({reason})"
    if (run / STATE).exists():
        recipe = run / RECIPE if (run / RECIPE).exists() else "RECIPE"
        return f"{problem}: finish it with `qkv train {recipe} --out {run} --resume`"
    if any((run / name).exists() for name in (RECIPE, WEIGHTS)):
        return f"{problem}, and cannot be finished, for {STATE} is missing too: copy it from where it came"
    return f"{problem}: train one with `qkv train RECIPE --out {run}`"
