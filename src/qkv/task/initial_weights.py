"""Starts a training from the weights of another run, and keeps on record what it started from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import nn

from qkv.errors import BadData, BadRecipe, BadRun
from qkv.files import expand_home
from qkv.model.positions import LearnedPositions
from qkv.progress import Progress
from qkv.strict import describe_errors
from qkv.task.base import Recipe, Training
from qkv.task.initial_run import InitialRun
from qkv.task.label_check import list_differences
from qkv.task.recipe import parse_recipe
from qkv.task.registry import find_task
from qkv.task.run_directory import read_trained_run
from qkv.train import STATE, WEIGHTS, read_and_check_state, read_weights_label
from qkv.train.checkpoint import make_damaged_error
from qkv.train.common_weights import CommonWeights, copy_common_weights

RECORD = "initial.json"
ORIGIN_KEY = "initial"
MOST_UNKNOWN = 0.5
MOSTLY_NEW = 0.5  # the share of new values above which a start from another run is told to be none


class InitialRecord(NamedTuple):
    """What a training started from, as plain values.

    Args:
        run: the directory of the other run, as the user wrote it.
        weights: the digest of its weights; None for weights of the first versions, which have none.
        recipe: its complete recipe.
        vocabulary: name -> content of the files that were taken from it.
        outcome: what `CommonWeights` says.
    """

    run: str
    weights: str | None
    recipe: dict[str, Any]
    vocabulary: dict[str, str]
    outcome: dict[str, dict[str, Any]]

    def format_json(self) -> bytes:
        """The content of initial.json: everything but the vocabulary, which has files of its own."""
        values = {name: value for name, value in self._asdict().items() if name != "vocabulary"}
        return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def read_initial_run(path: str | Path, recipe: Recipe) -> InitialRun:
    """Read the run that a training of a recipe is to start from.

    Args:
        path: its directory.
        recipe: the recipe to train.

    Raises:
        BadRun: it is not a finished run, or one of a task whose weights cannot be used.
    """
    task = find_task(recipe.task)
    trained = read_trained_run(expand_home(path))
    other = trained.recipe.task
    usable = (task.name, *task.initial_tasks)
    if other not in usable:
        raise BadRun(
            f"{path} is a run of the task {other!r}, and its model has no weights for the task "
            f"{task.name!r}: start from a run of {' or '.join(map(repr, usable))}, or leave out --from"
        )
    vocabulary = {name: trained.contents[name] for name in task.vocabulary_files if name in trained.contents}
    return InitialRun(str(path), trained.recipe, vocabulary, trained.weights, trained.parsed, trained.model)


def restore_record(run: Path) -> InitialRecord | None:
    """What the training to resume started from; None where it started from random weights.

    Args:
        run: the run directory.

    Raises:
        BadRun: the saved state is damaged.
    """
    if not (run / STATE).is_file():
        return None
    values = read_and_check_state(run)["origin"].get(ORIGIN_KEY)
    if values is None:
        return None
    try:
        return InitialRecord(**values)
    except TypeError as error:
        raise make_damaged_error(run / STATE, f"{ORIGIN_KEY} does not fit: {error}") from None


def restore_initial_run(run: Path, record: InitialRecord) -> InitialRun:
    """The initial run of the training to resume, without its weights: the saved state has them.

    Args:
        run: the directory of the training to resume.
        record: what `restore_record` returned.
    """
    vocabulary = {name: text.encode() for name, text in record.vocabulary.items()}
    recipe = parse_recipe(record.recipe, str(run / STATE))
    return InitialRun(record.run, recipe, vocabulary, record.weights)


def refuse_other_initial_run(run: Path, record: InitialRecord | None, path: str | Path) -> None:
    """Raise BadRun if a training to resume did not start from this run; the run may be gone by now.

    Args:
        run: the directory of the training to resume.
        record: what it started from.
        path: the other run, as it is named now.
    """
    started = "random weights" if record is None else record.run
    weights = expand_home(path) / WEIGHTS
    if record is not None:
        if record.weights is not None and weights.is_file():
            is_same = read_weights_label(weights).get("weights") == record.weights
        else:
            is_same = expand_home(path).absolute() == expand_home(record.run).absolute()
        if is_same:
            return
    raise BadRun(
        f"{run} was started from {started}, not from the weights that {path} has: leave out --from, for "
        "resuming needs no other run, or train into another directory"
    )


def take_vocabulary(recipe: Any, initial: InitialRun) -> Any:
    """The recipe with the section `tokens` of the run to start from.

    Args:
        recipe: the recipe to train.
        initial: the run.

    Raises:
        BadRecipe: the recipe sets a key of `tokens` to another value, or does not fit these tokens.
    """
    if not initial.vocabulary:
        return recipe
    tokens, trained = recipe.tokens, initial.recipe.tokens
    names = tokens.model_fields_set if "tokens" in recipe.model_fields_set else frozenset()
    if trained.kind == "byte":
        names = names & {"kind"}  # bytes have no further options
    for name in sorted(names):
        wanted, present = getattr(tokens, name), getattr(trained, name)
        if wanted != present:
            raise BadRecipe(
                f"tokens.{name} is {wanted!r}, but {initial.path} was trained with {present!r}, and its "
                f"weights mean nothing for another vocabulary: leave out tokens.{name}, or leave out --from"
            )
    recipe = recipe.model_copy(update={"tokens": trained})
    try:
        type(recipe)(**dict(recipe))
    except ValidationError as error:
        described = describe_errors(error, type(recipe))
        raise BadRecipe(f"with the tokens of {initial.path}: {described}") from None
    return recipe


def refuse_unknown_text(unknown: float, initial: InitialRun, report: Progress) -> None:
    """Report how much of the training text the vocabulary of the run to start from does not know.

    Args:
        unknown: the share of unknown tokens.
        initial: the run.
        report: where the share is printed.

    Raises:
        BadData: most tokens are unknown.
    """
    if unknown > MOST_UNKNOWN:
        raise BadData(
            f"{unknown:.0%} of the tokens of the training text are unknown to {initial.path}, whose "
            "vocabulary stays: start from a run on similar text, or leave out --from"
        )
    if unknown:
        report.print_line(f"{unknown:.2%} of the tokens of the training text are unknown to {initial.path}")


def copy_initial_weights(
    recipe: Recipe, training: Training, parsed: Any, initial: InitialRun, report: Progress
) -> InitialRecord:
    """Copy the weights of the run to start from into the model of a training, and report what was copied.

    Args:
        recipe: the complete recipe.
        training: the training, whose model is changed in place.
        parsed: what the task's `parse_files` returned.
        initial: the run.
        report: where the counts of tensors and the differences of the models are printed.

    Raises:
        BadRun: the models have no weight in common.
    """
    assert initial.model is not None
    model = training.objective.saved_module()
    prefixes = find_task(recipe.task).list_usable_prefixes(parsed, initial)
    common = copy_common_weights(model, initial.model, prefixes, _list_tables(model))
    differences = list(_describe_differences(recipe, initial.recipe))
    if not common.loaded:
        reason = "; ".join(differences) or "their names differ"
        raise BadRun(
            f"no weight of {initial.path} fits this model ({reason}): give both the same sizes, or leave out "
            "--from"
        )
    report.print_line(f"weights from {initial.path}, a run of the task {initial.recipe.task!r}:")
    for line in (*common.format_lines(), *(f"differs  {each}" for each in differences)):
        report.print_line(f"    {line}")
    if common.share_of_new > MOSTLY_NEW:
        report.print_line(
            f"    {common.share_of_new:.0%} of the values of this model are new, so that it starts almost "
            "from nothing: give both models the same sizes, or leave out --from"
        )
    return _make_record(initial, common)


def _make_record(initial: InitialRun, common: CommonWeights) -> InitialRecord:
    vocabulary = {name: content.decode() for name, content in initial.vocabulary.items()}
    recipe: Mapping[str, Any] = initial.recipe.model_dump(mode="json")
    return InitialRecord(initial.path, initial.weights, dict(recipe), vocabulary, common._asdict())


def _list_tables(model: nn.Module) -> set[str]:
    """Names of the matrices that have a row for every position, or for every token of one vocabulary."""
    tables = {
        f"{name}.table" for name, module in model.named_modules() if isinstance(module, LearnedPositions)
    }
    return tables | {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    }


def _describe_differences(recipe: Any, trained: Any) -> Iterator[str]:
    """The keys of the section `model` that both recipes have, with another value in each."""
    now, before = (each.model.model_dump(mode="json") for each in (recipe, trained))
    shared = now.keys() & before.keys() - {"kind"}
    pairs = ({key: section[key] for key in sorted(shared)} for section in (now, before))
    for key, value, other in list_differences(*pairs, path="model"):
        is_option_of_one_part = key.count(".") > 2 and None in (value, other)
        if not is_option_of_one_part:
            yield f"{key}: {other!r:.60} there, {value!r:.60} here"
