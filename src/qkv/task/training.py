"""Train a recipe into a run directory."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import BadRun
from qkv.files import expand_home
from qkv.progress import show_progress
from qkv.task.base import Recipe, Training
from qkv.task.directory_lock import lock_directory
from qkv.task.recipe import read_recipe
from qkv.task.registry import find_task
from qkv.task.resume_checks import refuse_other_data
from qkv.task.run_directory import (
    RECIPE,
    build_label,
    check_start,
    complete_as_trained,
    compute_file_digests,
    is_first_process,
    prepare_files,
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
    """Train a recipe into a run directory.

    Keys that the recipe leaves out get values that follow from the data: each is printed with its reason, and
    the recipe in `out` holds them all.

    Args:
        recipe: a recipe, the path of a recipe file, or the name of a built-in recipe.
        out: the run directory.
        changes: changes of a recipe that is read, such as "train.epochs=3".
        resume: go on where an interrupted training stopped; the final weights are the same.
        quiet: print no progress.

    Returns:
        The best scores on held-out data, the number of updates and the time.

    Raises:
        QKVError: the recipe, the data or the run directory cannot be used.
        KeyboardInterrupt: after Ctrl-C, once everything is saved.

    Example:
        >>> phrases = "data.phrases={source: en, target: fr, size: 300, dev: 20, test: 0}"
        >>> changes = [phrases, "train={steps: 2}", "model.hidden=8"]
        >>> qkv.fit("demo-rnn", "run", changes=changes, quiet=True).steps
        2
    """
    is_first = is_first_process()
    full_recipe: Recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, changes)
    run = expand_home(out)
    if is_first and resume:
        refuse_unstarted(run)
    with lock_directory(run) if is_first else nullcontext():
        if resume:
            full_recipe = complete_as_trained(run, full_recipe)
        before = check_start(run, full_recipe, resume) if is_first else {}
        quiet = quiet or not is_first
        prepared = _prepare(run, full_recipe, before, resume, quiet)
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
    """Read the data, complete the recipe and build the training; on resuming, refuse other data."""
    task = find_task(recipe.task)
    with show_progress("prepare", quiet=quiet) as report:
        report.print_line(f"writing to {run}")
        data = task.read_data(recipe)
        if before:
            refuse_other_data(run, before.get("data"), data, recipe)
            refuse_other_files(run, recipe, before)
        recipe = task.complete_recipe(recipe, data, report)
        contents = prepare_files(run, recipe, data, resume)
        digests = compute_file_digests(contents)
        for name in task.files if before else ():
            if digests[Path(name).stem] != before.get(Path(name).stem):
                raise BadRun(
                    f"{run / name} is missing, and learning it again gives another: restore it from a copy"
                )
        origin = {"recipe": recipe.model_dump(mode="json"), "data": task.compute_fingerprint(data), **digests}
        files = {**contents, RECIPE: recipe.to_yaml().encode()}
        directory = RunDirectory(run, files, origin, build_label(task, recipe, contents))
        parsed = task.parse_files(contents, run)
        return _Prepared(recipe, directory, task.build_training(recipe, data, parsed, report))
