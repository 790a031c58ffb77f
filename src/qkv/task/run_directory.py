"""Run directories: what a training writes, and how a trained model is loaded from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from qkv.errors import BadRun
from qkv.files import expand_home
from qkv.task.base import Recipe, Task
from qkv.task.checksums import digest_bytes
from qkv.task.devices import find_device
from qkv.task.label_check import refuse_other_label
from qkv.task.recipe import parse_recipe
from qkv.task.registry import TASKS, find_task
from qkv.task.resume_checks import refuse_another_recipe
from qkv.train import STATE, WEIGHTS, load_weights, read_and_check_state, read_weights_label
from qkv.train.checkpoint import refuse_to_overwrite_files
from qkv.train.ranks import detect_ranks
from qkv.yaml_input import load_yaml, read_yaml_text

RECIPE = "recipe.yaml"


def read_run_recipe(run: Path) -> Any:
    """The recipe that a run was trained with.

    Raises:
        BadRun: the recipe is missing or damaged.
    """
    path = run / RECIPE
    try:
        raw = load_yaml(read_yaml_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadRun(_describe_missing_run(run, f"{path.name}: {error.strerror}")) from None
    except OSError as error:
        raise BadRun(
            f"{path}: cannot be read ({error.strerror}): check its permissions, or restore it from a copy"
        ) from None
    except ValueError as error:
        raise BadRun(f"{path} is damaged: it is not valid YAML ({error}). Restore it from a copy") from None
    if not isinstance(raw, dict):
        raise BadRun(f"{path} is damaged: it holds no keys and values. Restore it from a copy")
    task = TASKS.get(str(raw.get("task")))
    missing = [name for name in (_list_required_sections(task) if task else ("task",)) if name not in raw]
    if missing:
        raise BadRun(
            f"{path} is damaged: it lacks {', '.join(missing)}, and a run's recipe is complete. Restore it "
            "from a copy"
        )
    return parse_recipe(raw, str(path))


def _list_required_sections(task: Task) -> list[str]:
    """The sections of a complete recipe; earlier versions had not all of those that may be null."""
    return [name for name, field in task.recipe.model_fields.items() if field.default is not None]


def load(run: str | Path, *, device: Any = "cpu") -> Any:
    """Load a trained model, ready for its task: that of a translation run has `.translate`.

    Args:
        run: the run directory.
        device: where to compute, as torch names it, or "auto": a GPU if there is one.

    Returns:
        The runner of the run's task, such as a `Translator`.

    Raises:
        BadRun: the directory is not a run, or a file of it is missing, damaged or from another run.
        UnknownName: the device does not exist on this machine.

    Example:
        >>> phrases = "data.phrases={source: en, target: fr, size: 300, dev: 20, test: 0}"
        >>> changes = [phrases, "train={steps: 2}", "model.hidden=8"]
        >>> result = qkv.fit("demo-rnn", "run", changes=changes, quiet=True)
        >>> isinstance(qkv.load("run").translate("on Monday"), str)
        True
    """
    torch_device = find_device(device)
    trained = read_trained_run(expand_home(run))
    task = find_task(trained.recipe.task)
    return task.build_runner(trained.recipe, trained.parsed, trained.model.to(torch_device).eval())


class TrainedRun(NamedTuple):
    """What a run directory holds.

    Args:
        recipe: the complete recipe.
        contents: name -> content of the task's files.
        parsed: the values that they hold.
        model: the trained model, on the CPU.
        weights: the digest of its weights; None for weights of the first versions, which have none.
    """

    recipe: Any
    contents: dict[str, bytes]
    parsed: Any
    model: nn.Module
    weights: str | None


def read_trained_run(run: Path) -> TrainedRun:
    """Read a run directory, and check that its files belong together.

    Args:
        run: the run directory.

    Raises:
        BadRun: the directory is not a run, or a file of it is missing, damaged or from another run.
    """
    recipe = read_run_recipe(run)
    task = find_task(recipe.task)
    contents = read_run_files(run, task)
    label = read_weights_label(run / WEIGHTS)
    refuse_other_label(run, recipe, contents, label)
    parsed = task.parse_files(contents, run)
    model = task.build_model(recipe, parsed)
    load_weights(model, run / WEIGHTS)
    return TrainedRun(recipe, contents, parsed, model, label.get("weights"))


def read_run_files(run: Path, task: Task) -> dict[str, bytes]:
    """Name -> content of the task's files in a finished run.

    Args:
        run: the run directory.
        task: the task of the run.

    Raises:
        BadRun: a file, or the weights, are missing.
    """
    for name in (*task.files, str(WEIGHTS)):
        if not (run / name).exists():
            raise BadRun(_describe_missing_run(run, f"{name} is missing"))
    return {name: _read(run / name) for name in task.files}


def load_for_command(command: str, run: Path, device: str) -> Any:
    """A trained model whose task has a command.

    Args:
        command: the name of the command, such as "translate".
        run: the run directory.
        device: where to compute.

    Raises:
        BadRun: the run cannot be loaded, or is of a task without this command.
        UnknownName: the device does not exist on this machine.
    """
    runner = load(run, device=device)
    if command not in runner.commands:
        usable = " or ".join(f"`qkv {name} {run}`" for name in (*runner.commands, "evaluate"))
        task = read_run_recipe(expand_home(run)).task
        raise BadRun(f"qkv {command} cannot use {run}, a run of the task {task!r}: use {usable}")
    return runner


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of those that train together: it alone writes."""
    return detect_ranks().rank == 0


def build_label(task: Task, recipe: Recipe, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """What is saved with the weights, for `load` to compare with the files beside them.

    Args:
        task: the task of the run.
        recipe: its complete recipe.
        contents: name -> content of the task's files.
    """
    return {**task.build_label(recipe), **compute_file_digests(contents)}


def compute_file_digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Name of a task's file without suffix -> digest of its content."""
    return {Path(name).stem: digest_bytes(content) for name, content in contents.items()}


def refuse_unstarted(run: Path) -> None:
    """Raise BadRun if there is no training to resume."""
    if not (run / STATE).exists():
        raise BadRun(
            f"there is no training to resume in {run}: {run / STATE} is missing. "
            "Leave out --resume to start one"
        )


def complete_as_trained(run: Path, recipe: Recipe) -> Recipe:
    """The recipe; the keys that it leaves out are as in the training to resume in `run`, if there is one."""
    if not (run / STATE).is_file():
        return recipe
    raw = read_and_check_state(run)["origin"].get("recipe")
    trained = parse_recipe(raw, str(run / STATE)) if raw else read_run_recipe(run)
    if trained.task != recipe.task:
        return recipe
    return find_task(recipe.task).complete_recipe_from(recipe, trained)


def check_start(run: Path, recipe: Recipe, resume: bool) -> dict[str, Any]:
    """Check that a training can start or go on in a directory; nothing is written.

    Args:
        run: the run directory.
        recipe: the recipe to train.
        resume: whether to resume the training there.

    Returns:
        What the training to resume was started from; empty without `resume`.

    Raises:
        BadRun: the training cannot be started, or resumed, with this recipe.
    """
    if not resume:
        refuse_to_overwrite_files(run, (RECIPE, *find_task(recipe.task).files))
        return {}
    refuse_unstarted(run)
    if (run / RECIPE).exists():
        read_run_recipe(run)  # raises if it is damaged
    origin = read_and_check_state(run)["origin"]
    refuse_another_recipe(run, origin.get("recipe"), recipe)
    return origin


def prepare_files(
    run: Path, recipe: Recipe, data: Any, resume: bool, vocabulary: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Name -> content of the task's files: those of the run to resume, or else learnt from the data.

    Args:
        run: the run directory.
        recipe: the complete recipe.
        data: what the task's `read_data` returns.
        resume: whether a training is resumed.
        vocabulary: name -> content of files that are not learnt, but taken from another run.
    """
    task = find_task(recipe.task)
    if resume and all((run / name).exists() for name in task.files):
        return {name: _read(run / name) for name in task.files}
    return task.learn_files(recipe, data, vocabulary)


def refuse_other_files(run: Path, recipe: Recipe, before: Mapping[str, Any]) -> None:
    """Raise BadRun if the files beside a training to resume are not those that it was started with.

    Args:
        run: the run directory.
        recipe: the recipe.
        before: what the training was started from.
    """
    for name in find_task(recipe.task).files:
        path = run / name
        if path.exists() and digest_bytes(_read(path)) != before.get(path.stem):
            raise BadRun(
                f"{path} is damaged, or belongs to another run. Restore it from a copy, or delete it: then "
                "--resume learns it again from the same data"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRun(
            f"{path}: cannot be read ({error.strerror}): check its permissions, or restore it from a copy"
        ) from None


def _describe_missing_run(run: Path, reason: str) -> str:
    if not run.exists():
        return f"there is no run directory {run}: train one with `qkv train RECIPE --out {run}`"
    problem = f"{run} is not a finished run ({reason})"
    if (run / STATE).exists():
        recipe = run / RECIPE if (run / RECIPE).exists() else "RECIPE"
        return f"{problem}: finish it with `qkv train {recipe} --out {run} --resume`"
    if any((run / name).exists() for name in (RECIPE, WEIGHTS)):
        return (
            f"{problem}, and {STATE}, which could finish it, is missing too: copy the whole directory again"
        )
    return f"{problem}: train one with `qkv train RECIPE --out {run}`"
