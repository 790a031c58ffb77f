"""Train a recipe into a run directory."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qkv.data import BatchPlan, TokenizerPair
from qkv.errors import BadRun
from qkv.files import expand_home
from qkv.progress import Progress, progress
from qkv.task.defaults import FEW_UPDATES, Machine, fill_defaults, measure
from qkv.task.lock import hold
from qkv.task.origin import data_of, digest_of, refuse_other_data
from qkv.task.pairs import Lines, Splits, batches_of, read_splits
from qkv.task.recipe import Recipe, read_recipe
from qkv.task.runs import (
    RECIPE,
    TOKENIZER,
    check_start,
    complete_as_trained,
    label_of,
    leads,
    refuse_another_tokenizer,
    refuse_unstarted,
    tokenizers_of,
)
from qkv.task.translation import build_model, start_at_frequencies
from qkv.task.validator import Validator
from qkv.train import Directory, Result, TrainConfig, Translation
from qkv.train import fit as train
from qkv.train.engine import choose_device, multiplies_bf16


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

    Keys that the recipe leaves out follow from the size of the data: each is printed with its reason, and the
    recipe in `out` holds them all.

    `resume` goes on where an interrupted training stopped, and ends with the same weights. Raises a QKVError
    for bad recipes, data and run directories; KeyboardInterrupt after Ctrl-C, with all saved.
    """
    leading = leads()
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, changes)
    run = expand_home(out)
    if leading and resume:
        refuse_unstarted(run)
    with hold(run) if leading else nullcontext():
        if resume:
            recipe = complete_as_trained(run, recipe)
        before = check_start(run, recipe, resume) if leading else {}
        recipe, directory, objective, batches, validate = _wired(
            run, recipe, before, resume, quiet or not leading
        )
        return train(
            objective,
            batches,
            recipe.train,
            run=directory,
            validate=validate,
            monitor=recipe.validation.monitor,
            resume=resume,
            quiet=quiet or not leading,
        )


class _Parts(NamedTuple):
    recipe: Recipe
    directory: Directory
    objective: Translation
    batches: BatchPlan
    validate: Validator


def _wired(run: Path, recipe: Recipe, before: dict[str, Any], resume: bool, quiet: bool) -> _Parts:
    with progress("prepare", quiet=quiet) as report:
        report.say(f"writing to {run}")
        splits = read_splits(recipe.data, recipe.train.seed)
        if before:
            refuse_other_data(run, before.get("data"), splits, recipe.data)
            refuse_another_tokenizer(run, before.get("tokenizer"))
        recipe = _completed(recipe, splits.train, report)
        tokens, tokenizer = tokenizers_of(run, recipe, splits.train, resume)
        origin = {
            "recipe": recipe.model_dump(mode="json"),
            "data": data_of(splits),
            "tokenizer": digest_of(tokenizer),
        }
        if before and origin["tokenizer"] != before.get("tokenizer"):
            raise BadRun(
                f"{run / TOKENIZER} is missing, and learning it again gives another: restore it from a copy"
            )
        files = {TOKENIZER: tokenizer, RECIPE: recipe.to_yaml().encode()}
        directory = Directory(run, files, origin, label_of(recipe, tokenizer))
        return _Parts(recipe, directory, *_built(recipe, splits, tokens, report))


def _built(
    recipe: Recipe, splits: Splits, tokens: TokenizerPair, report: Progress
) -> tuple[Translation, BatchPlan, Validator]:
    batches = batches_of(splits.train, tokens, recipe, report)
    torch.manual_seed(recipe.train.seed)
    model: Any = build_model(recipe.model, tokens)
    start_at_frequencies(model.output, batches.counts(tokens.target.size))
    size = sum(p.numel() for p in model.parameters())
    report.say(
        f"{len(splits.train):,} pairs to train on, {len(splits.valid):,} held out; vocabulary "
        f"{tokens.source.size:,} → {tokens.target.size:,}; {size:,} parameters; "
        f"{batches.steps(0):,} updates an epoch"
    )
    _warn_of_few_updates(recipe, batches, report)
    objective = Translation(model, recipe.train.smoothing, recipe.objective)
    return objective, batches, Validator(objective, tokens, splits.valid, recipe, report)


def _completed(recipe: Recipe, pairs: Lines, report: Progress) -> Recipe:
    """The recipe with its defaults for these pairs, after saying which they are and why."""
    recipe, defaults = fill_defaults(recipe, measure(pairs), _machine(recipe.train))
    if defaults:
        report.say(f"not in the recipe, so chosen for {len(pairs):,} pairs:")
    width = max((len(default.setting) for default in defaults), default=0)
    for default in defaults:
        report.say(f"    {default.setting:<{width}}  {default.reason}")
    return recipe


def _machine(config: TrainConfig) -> Machine:
    device = choose_device(config.device)
    return Machine(device, torch.get_num_threads(), multiplies_bf16(device))


def _warn_of_few_updates(recipe: Recipe, batches: BatchPlan, report: Progress) -> None:
    steps, epochs = recipe.train.steps or math.inf, recipe.train.epochs or math.inf
    in_epochs = epochs * batches.steps(0)
    updates = min(steps, in_epochs)
    if updates < FEW_UPDATES and recipe.data.phrases is None:
        more = "raise train.steps" if steps < in_epochs else "raise train.epochs or lower batch.batch_tokens"
        report.say(
            f"this training makes only {updates:,} updates, and translation seldom succeeds with fewer than "
            f"about {FEW_UPDATES:,}: {more}"
        )
