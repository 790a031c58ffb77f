"""Train a recipe into a run directory."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import BadRun
from qkv.files import expand_home
from qkv.progress import progress
from qkv.task.base import Recipe, Training
from qkv.task.lock import hold
from qkv.task.origin import refuse_other_data
from qkv.task.recipe import read_recipe
from qkv.task.registry import find_task
from qkv.task.runs import (
    RECIPE,
    check_start,
    complete_as_trained,
    contents_of,
    file_digests,
    label_of,
    leads,
    refuse_other_files,
    refuse_unstarted,
)
from qkv.train import Result, RunDirectory
from qkv.train import fit as train


def fit(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    changes: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Train `recipe` (a value, a file or a built-in name, with `a.b=value` changes) into the run directory
    `out`.

    Keys that the recipe leaves out follow from the data: each is printed with its reason, and the recipe in
    `out` holds them all.

    `resume` goes on where an interrupted training stopped, and ends with the same weights. Raises a QKVError
    for bad recipes, data and run directories; KeyboardInterrupt after Ctrl-C, with all saved.
    """
    leading = leads()
    chosen: Recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, changes)
    run = expand_home(out)
    if leading and resume:
        refuse_unstarted(run)
    with hold(run) if leading else nullcontext():
        if resume:
            chosen = complete_as_trained(run, chosen)
        before = check_start(run, chosen, resume) if leading else {}
        quiet = quiet or not leading
        prepared = _prepare(run, chosen, before, resume, quiet)
        training = prepared.training
        return train(
            training.objective,
            training.batches,
            prepared.recipe.train,
            run=prepared.directory,
            validate=training.validate,
            monitor=training.monitor,
            resume=resume,
            quiet=quiet,
        )


class _Prepared(NamedTuple):
    recipe: Recipe
    directory: RunDirectory
    training: Training


def _prepare(run: Path, recipe: Recipe, before: dict[str, Any], resume: bool, quiet: bool) -> _Prepared:
    """Read the data, complete the recipe, wire the training; refuse what the run was not started with."""
    task = find_task(recipe.task)
    with progress("prepare", quiet=quiet) as report:
        report.say(f"writing to {run}")
        data = task.read_data(recipe)
        if before:
            refuse_other_data(run, before.get("data"), data, recipe)
            refuse_other_files(run, recipe, before)
        recipe = task.complete(recipe, data, report)
        contents = contents_of(run, recipe, data, resume)
        digests = file_digests(contents)
        for name in task.files if before else ():
            if digests[Path(name).stem] != before.get(Path(name).stem):
                raise BadRun(
                    f"{run / name} is missing, and learning it again gives another: restore it from a copy"
                )
        origin = {"recipe": recipe.model_dump(mode="json"), "data": task.fingerprint(data), **digests}
        files = {**contents, RECIPE: recipe.to_yaml().encode()}
        directory = RunDirectory(run, files, origin, label_of(task, recipe, contents))
        parsed = task.parse_files(contents, run)
        return _Prepared(recipe, directory, task.build(recipe, data, parsed, report))
