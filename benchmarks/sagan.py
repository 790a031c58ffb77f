"""Compares generators of pictures with and without self-attention, by their distance from real pictures.

    QKV_DATA=... python benchmarks/sagan.py [--data shapes cifar] [--seeds 3] [--out runs/sagan]

For each kind of pictures a classifier is trained first (classify-shapes, classify-cifar-cnn), whose features
the Fréchet distance compares.  Then `gan-shapes` and `gan-cifar` are trained with every seed, as they are and
with `model.self_attention=null`.  The last weights are scored, on the held-out pictures of the seed; "real"
is the distance of as many training pictures.  Lower is better, and only distances of the same data are
comparable.

A run that exists is not trained again, and one that was stopped goes on.  `--budget 0.01` makes a hundredth
of the updates, to see that everything works.  Minutes are CPU time, of one thread.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_options import add_run_options
from benchmark_results import format_seeds
from markdown_tables import Table, format_markdown
from resumable import compute_once, scale, train

import qkv
from qkv.task.evaluation import EvaluateOptions
from qkv.task.recipe import read_recipe
from qkv.task.registry import find_task

CLASSIFIERS = {"shapes": "classify-shapes", "cifar": "classify-cifar-cnn"}
ATTENTIONS: dict[str, list[str]] = {"off": ["model.self_attention=null"], "sagan": []}


def list_budget_changes(recipe: str, budget: float) -> list[str]:
    """The changes of a recipe that make a fraction of its updates, and validate eight times."""
    updates = scale(read_recipe(recipe).train.steps, budget)
    warmup = min(read_recipe(recipe).train.warmup, updates // 10)
    return [f"train.steps={updates}", f"train.warmup={warmup}", f"train.validate_every={-(-updates // 8)}"]


def train_features(data: str, options: argparse.Namespace) -> Path:
    """The run of the classifier whose features are compared."""
    run, recipe = options.out / data / "features", CLASSIFIERS[data]
    minutes = train(recipe, run, list_budget_changes(recipe, options.budget), quiet=options.quiet)
    accuracy = qkv.load(run).evaluate()["accuracy"]
    print(f"{data}: features of {recipe}, accuracy {accuracy:.3f}, {minutes:.1f} CPU minutes", flush=True)
    return run


def measure(
    data: str, attention: str, seed: int, run: Path, features: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train a generator and score it."""
    recipe = f"gan-{data}"
    changes = [*list_budget_changes(recipe, options.budget), *ATTENTIONS[attention], f"train.seed={seed}"]
    minutes = train(recipe, run, [*changes, *options.changes], quiet=options.quiet)
    generator = qkv.load(run)
    task, scored = find_task(generator.recipe.task), EvaluateOptions(features=features)
    scores = task.evaluate(generator, task.read_test_data(generator.recipe, scored), scored, True).scores
    sizes = [sum(value.numel() for value in part.parameters()) for part in generator.model.children()]
    return {"fid": scores["fid"], "real": scores["fid_train"], "minutes": minutes, "parameters": sizes}


def tabulate(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Table:
    """Mean and standard deviation of the distance of every row."""
    rows = []
    for (data, attention), scores in results.items():
        real, minutes = (statistics.mean(score[name] for score in scores) for name in ("real", "minutes"))
        sizes = " + ".join(f"{size:,}" for size in scores[0]["parameters"])
        distances = format_seeds([score["fid"] for score in scores], ".3g")
        rows.append([data, attention, sizes, *distances, f"{real:.3g}", f"{minutes:.1f}"])
    names = ["pictures", "attention", "parameters", "distance", "sd", "each seed", "real"]
    return Table("Generators with and without self-attention", [*names, "minutes of a seed"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=list(CLASSIFIERS), default=list(CLASSIFIERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="of the generators"
    )
    add_run_options(parser, "runs/sagan")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for data in options.data:
        features = train_features(data, options)
        for seed in range(1, options.seeds + 1):
            for attention in ATTENTIONS:
                run = options.out / data / f"{attention}-{seed}"
                result = compute_once(
                    run.with_suffix(".json"),
                    lambda data=data, attention=attention, seed=seed, run=run, features=features: measure(
                        data, attention, seed, run, features, options
                    ),
                )
                results.setdefault((data, attention), []).append(result)
            print("\n".join(format_markdown(tabulate(results))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
