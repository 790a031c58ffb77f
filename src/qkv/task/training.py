"""Train a recipe into a run directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from qkv.data import BatchPlan
from qkv.files import expand_home
from qkv.progress import progress
from qkv.task.pairs import batches_of, read_splits
from qkv.task.recipe import Recipe, read_recipe
from qkv.task.runs import check_start, leads, nothing_halfway, prepare
from qkv.task.translation import build_model, start_at_frequencies
from qkv.task.validator import Validator
from qkv.train import Result, Translation
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

    `resume` goes on where an interrupted training stopped, and ends with the same weights. Raises a QKVError
    for bad recipes, data and run directories; KeyboardInterrupt after Ctrl-C, with all saved.
    """
    quiet = quiet or not leads()
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, changes)
    run = expand_home(out)
    check_start(run, recipe, resume)
    with nothing_halfway(run):
        objective, batches, validate = _wired(run, recipe, resume, quiet)
        return train(
            objective,
            batches,
            recipe.train,
            run=run,
            validate=validate,
            monitor=recipe.validation.monitor,
            resume=resume,
            quiet=quiet,
        )


def _wired(run: Path, recipe: Recipe, resume: bool, quiet: bool) -> tuple[Translation, BatchPlan, Validator]:
    with progress("prepare", quiet=quiet) as report:
        splits = read_splits(recipe.data, recipe.train.seed)
        tokens = prepare(run, recipe, splits.train, resume)
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
        objective = Translation(model, recipe.train.smoothing, recipe.objective)
        return objective, batches, Validator(objective, tokens, splits.valid, recipe, report)
