"""Train a recipe into a run directory."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import BadRecipe, BadRun
from qkv.files import expand_home
from qkv.progress import Progress, show_progress
from qkv.task.base import Recipe, Training
from qkv.task.directory_lock import lock_directory
from qkv.task.initial_run import InitialRun
from qkv.task.initial_weights import (
    ORIGIN_KEY,
    RECORD,
    InitialRecord,
    copy_initial_weights,
    read_initial_run,
    refuse_other_initial_run,
    refuse_unknown_text,
    restore_initial_run,
    restore_record,
    take_vocabulary,
)
from qkv.task.learning_curve import draw_at_intervals
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
    initial: str | Path | None = None,
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
        initial: a run whose weights and vocabulary the training starts from: of the same task; for `classify`
            also of `fill`, for `caption` also of pictures in `classify` or `fill`.  Weights are taken where
            name and shape are the same.  A resumed training needs no initial run.
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
    if isinstance(recipe, Recipe) and changes:
        raise BadRecipe("changes are of a recipe that is read from a file: change the recipe that is passed")
    full_recipe: Recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, changes)
    run = expand_home(out)
    if is_first and resume:
        refuse_unstarted(run)
    with lock_directory(run) if is_first else nullcontext():
        if resume:
            full_recipe = complete_as_trained(run, full_recipe)
        record = restore_record(run) if resume else None
        initial_run = _find_initial_run(run, full_recipe, record, initial, resume)
        if initial_run is not None:
            full_recipe = take_vocabulary(full_recipe, initial_run)
        before = check_start(run, full_recipe, resume) if is_first else {}
        quiet = quiet or not is_first
        prepared = _prepare(run, full_recipe, _Start(before, resume, initial_run, record), quiet)
        training = prepared.training
        return train(
            training.objective,
            training.batches,
            prepared.recipe.train,
            run=prepared.directory,
            validate=_write_samples_and_curve_after(training, run),
            monitor=training.monitor,
            resume=resume,
            quiet=quiet,
        )


class _Start(NamedTuple):
    """What a training starts or goes on from."""

    before: dict[str, Any]  # what the training to resume was started from; empty: a new training
    resume: bool
    initial: InitialRun | None
    record: InitialRecord | None  # of a training to resume


class _Prepared(NamedTuple):
    recipe: Recipe
    directory: RunDirectory
    training: Training


def _find_initial_run(
    run: Path, recipe: Recipe, record: InitialRecord | None, initial: str | Path | None, resume: bool
) -> InitialRun | None:
    if not resume:
        return None if initial is None else read_initial_run(initial, recipe)
    if initial is not None:
        refuse_other_initial_run(run, record, initial)
    return None if record is None else restore_initial_run(run, record)


def _write_samples_and_curve_after(training: Training, run: Path) -> Callable[[], dict[str, float]]:
    """The validation of a training, followed by its samples where it writes some, and its learning curve."""
    write_samples, draw_curve = training.write_samples, draw_at_intervals(run, training.monitor)

    def validate() -> dict[str, float]:
        scores = training.validate()
        if write_samples is not None:
            write_samples(run)
        draw_curve()
        return scores

    return validate


def _prepare(run: Path, recipe: Recipe, start: _Start, quiet: bool) -> _Prepared:
    """Read the data, complete the recipe and build the training; on resuming, refuse other data."""
    task = find_task(recipe.task)
    with show_progress("prepare", quiet=quiet) as report:
        report.print_line(f"writing to {run}")
        data = task.read_data(recipe, report)
        if start.before:
            refuse_other_data(run, start.before.get("data"), data, recipe)
            refuse_other_files(run, recipe, start.before)
        recipe = task.complete_recipe(recipe, data, report)
        vocabulary = start.initial.vocabulary if start.initial else {}
        contents = prepare_files(run, recipe, data, start.resume, vocabulary)
        digests = compute_file_digests(contents)
        for name in task.files if start.before else ():
            if digests[Path(name).stem] != start.before.get(Path(name).stem):
                raise BadRun(
                    f"{run / name} is missing, and learning it again gives another: restore it from a copy"
                )
        parsed = task.parse_files(contents, run)
        training, record = _build_training(recipe, data, parsed, start, report)
        origin = {"recipe": recipe.model_dump(mode="json"), "data": task.compute_fingerprint(data), **digests}
        files = {**contents, RECIPE: recipe.to_yaml().encode()}
        if record is not None:
            origin[ORIGIN_KEY], files[RECORD] = record._asdict(), record.format_json()
        score_notes = {"scored": recipe.scoring} if recipe.scoring else {}
        directory = RunDirectory(run, files, origin, build_label(task, recipe, contents), score_notes)
        return _Prepared(recipe, directory, training)


def _build_training(
    recipe: Recipe, data: Any, parsed: Any, start: _Start, report: Progress
) -> tuple[Training, InitialRecord | None]:
    """The training, with the weights of the initial run unless it is resumed, and what was taken from it."""
    task, initial, record = find_task(recipe.task), start.initial, start.record
    training = task.build_training(recipe, data, parsed, report)
    if initial is not None and not start.resume:
        refuse_unknown_text(task.measure_unknown_share(data, parsed), initial, report)
        record = copy_initial_weights(recipe, training, parsed, initial, report)
    return task.adapt_training(recipe, training, parsed, initial), record
