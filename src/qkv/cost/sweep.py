"""Trainings of one recipe with every combination of some values, each with several seeds."""

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cost.comparison import average_over_layers
from qkv.cost.sweep_labels import label_values, write_yaml
from qkv.cost.worker_processes import run_in_processes
from qkv.errors import BadRecipe, BadRun
from qkv.files import expand_home
from qkv.task.output_files import write_json
from qkv.task.recipe import read_recipe
from qkv.task.training import fit
from qkv.train import STATE
from qkv.yaml_input import load_yaml

PLAN, RESULT = "sweep.json", "result.json"
SEED = "train.seed"


class Variation(NamedTuple):
    """One key and the values that are tried.

    Args:
        key: the key of the recipe.
        values: the values, as YAML on one line.
    """

    key: str
    values: tuple[str, ...]


class Trial(NamedTuple):
    """One combination of values.

    Args:
        label: the combination in words.
        folder: the folder of its runs.
        changes: what it changes in the recipe.
    """

    label: str
    folder: str
    changes: tuple[str, ...]


class Sweep(NamedTuple):
    """A sweep, as its folder records it.

    Args:
        recipe: the path or the name of the recipe.
        changes: changes that all trainings share.
        variations: the keys and values.
        seeds: how many trainings each combination has; their seeds are 1, 2, ….
    """

    recipe: str
    changes: tuple[str, ...]
    variations: tuple[Variation, ...]
    seeds: int

    @property
    def trials(self) -> list[Trial]:
        """All combinations."""
        keys = [variation.key for variation in self.variations]
        labels = [label_values(variation.key, variation.values) for variation in self.variations]
        values = itertools.product(*(variation.values for variation in self.variations))
        trials = []
        for number, (texts, each) in enumerate(zip(itertools.product(*labels), values, strict=True), 1):
            changes = tuple(f"{key}={value}" for key, value in zip(keys, each, strict=True))
            slug = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(each)).strip("-")[:40]
            trials.append(Trial(", ".join(texts), f"{number:02}-{slug}".rstrip("-"), changes))
        return trials


def parse_variations(texts: Sequence[str]) -> tuple[Variation, ...]:
    """The values of all options `--vary`.

    Args:
        texts: each `KEY=A,B`; see `parse_variation`.

    Raises:
        BadRecipe: one of them cannot be used, or two name the same key.
    """
    variations = tuple(map(parse_variation, texts))
    keys = [variation.key for variation in variations]
    if len(set(keys)) < len(keys):
        raise BadRecipe(f"two options --vary name {max(keys, key=keys.count)}: put all its values into one")
    return variations


def parse_variation(text: str) -> Variation:
    """The value of one option `--vary`.

    Args:
        text: `KEY=A,B`; a value may be a mapping, {name: rfa, features: 32}.

    Raises:
        BadRecipe: it names no key, or fewer than two different values.
    """
    key, equals, values = text.partition("=")
    problem = f"--vary takes a key and values, as in --vary train.lr=0.001,0.003, got {text[:60]!r}"
    if not equals or not key.strip():
        raise BadRecipe(problem)
    try:
        parsed = load_yaml(f"values: [{values}]")["values"]
    except ValueError as error:
        raise BadRecipe(f"{problem}: the values are not YAML ({error})") from None
    written = tuple(map(write_yaml, parsed))
    if len(set(written)) < 2 or len(set(written)) < len(written):
        raise BadRecipe(f"{problem}: give two different values or more")
    return Variation(key.strip(), written)


def run_sweep(
    sweep: Sweep, out: Path, quiet: bool = False, processes: int = 1
) -> Iterator[tuple[Trial, int, dict[str, float]]]:
    """Train every combination with every seed.

    Trainings that are finished in the folder are not repeated; one that was interrupted goes on.

    Args:
        sweep: what is trained.
        out: the folder of the sweep.
        quiet: print no progress.
        processes: how many trainings run at the same time, each in a process of its own with its share of the
            CPU threads; 1 trains in this process.

    Yields:
        The combination, the seed and the scores, as each training ends.

    Raises:
        BadRecipe: a combination is no legal recipe, or sets the seed; found before the first training.
        BadRun: the folder holds another sweep, or one of the recipe as it was before a change.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    folder = expand_home(out)
    _check_seed(sweep)
    recipes = {trial.folder: _read_trial_recipe(sweep, trial, 1) for trial in sweep.trials}
    _check_or_write_plan(sweep, recipes, folder)
    trainings = [(trial, seed) for seed in range(1, sweep.seeds + 1) for trial in sweep.trials]
    arguments = [(sweep, trial, seed, folder, quiet) for trial, seed in trainings]
    if processes == 1:
        ended = ((index, _train_or_read(*each)) for index, each in enumerate(arguments))
    else:
        ended = run_in_processes(_train_or_read, arguments, processes)
    for index, scores in ended:
        yield *trainings[index], scores


def summarise(results: Sequence[tuple[Trial, int, dict[str, float]]]) -> list[tuple[str, ...]]:
    """The table of a sweep: mean ± standard deviation over the seeds.

    Args:
        results: what `run_sweep` yielded.

    Returns:
        Rows of text, the head first.
    """
    names = list(results[0][2])
    rows: list[tuple[str, ...]] = [("combination", "seeds", *names)]
    for label in dict.fromkeys(trial.label for trial, _, _ in results):
        scores = [each for trial, _, each in results if trial.label == label]
        cells = (_format_mean([each.get(name, math.nan) for each in scores]) for name in names)
        rows.append((label, str(len(scores)), *cells))
    return rows


def _read_trial_recipe(sweep: Sweep, trial: Trial, seed: int) -> Any:
    return read_recipe(sweep.recipe, (*sweep.changes, *trial.changes, f"train.seed={seed}"))


def _check_seed(sweep: Sweep) -> None:
    keys = [variation.key for variation in sweep.variations]
    if SEED in [*keys, *(change.partition("=")[0].strip() for change in sweep.changes)]:
        raise BadRecipe(
            f"a sweep sets {SEED} itself: leave it out, and pass --seeds 3 for the seeds 1, 2 and 3"
        )


def _check_or_write_plan(sweep: Sweep, recipes: Mapping[str, Any], folder: Path) -> None:
    """Check that the folder holds this sweep, perhaps with another number of seeds, or write its plan."""
    dumped = {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}
    plan = json.loads(json.dumps({**sweep._asdict(), "recipes": dumped}))
    path = folder / PLAN
    if path.exists():
        written = _read_json(path, "choose another --out")
        changed = [key for key in plan if key != "seeds" and written.get(key) != plan[key]]
        if changed == ["recipes"]:
            raise BadRun(
                f"{sweep.recipe} was changed after the sweep in {folder} began: choose another --out"
            )
        if changed:
            changed = [key for key in changed if key != "recipes"]
            raise BadRun(
                f"{folder} holds another sweep, with other {', '.join(changed)}: choose another --out, or "
                "repeat its command to go on"
            )
        plan["seeds"] = max(plan["seeds"], written["seeds"])
    write_json(path, plan)


def _train_or_read(sweep: Sweep, trial: Trial, seed: int, folder: Path, quiet: bool) -> dict[str, float]:
    """The scores of a training: those that are written, or else of a training that starts or goes on."""
    run = folder / trial.folder / f"seed-{seed}"
    if (run / RESULT).exists():
        return _read_json(run / RESULT, f"delete {run}, and the same command trains it again")
    recipe = _read_trial_recipe(sweep, trial, seed)
    result = fit(recipe, run, resume=(run / STATE).exists(), quiet=quiet)
    averaged = average_over_layers({name: float(value) for name, value in result.scores.items()})
    scores = averaged | {"seconds": result.seconds}
    write_json(run / RESULT, scores)
    return scores


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise BadRun(f"{path} is damaged ({error}): {remedy}") from None


def _format_mean(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.4g}" if len(values) < 2 else f"{mean:.4g} ± {statistics.stdev(values):.2g}"
