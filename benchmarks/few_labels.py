"""Compares classifiers of IMDb reviews trained on few labels, with and without pre-training.

    QKV_DATA=... python benchmarks/few_labels.py [--labels 200] [--seeds 5] [--out runs/few-labels]

Three rows, each with every seed; a seed chooses the labelled and the held-out reviews and the initial values:

    labels alone    no other text: the vocabulary too comes from the labelled reviews
    vocabulary      random weights, and the vocabulary of the pre-training
    pre-trained     weights and vocabulary of `mlm-imdb`, trained on the text of the training reviews

The epoch whose weights are scored is the one with the best nll on 200 more labelled reviews, in every row.
A run that exists is not trained again, and one that was stopped goes on.  `--budget 0.01` makes a hundredth
of the updates, to see that everything works.  Minutes are CPU time, of one thread.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_options import add_run_options
from benchmark_results import ACCURACY_COLUMNS, format_accuracies
from markdown_tables import Table, format_markdown
from resumable import compute_once, scale, train

import qkv
from qkv.task.recipe import read_recipe

ROWS = ("labels alone", "vocabulary", "pre-trained")
PRETRAINING, FINE_TUNING = "mlm-imdb", "classify-imdb-few"


def pretrain(row: str, options: argparse.Namespace) -> Path | None:
    """The run that a row starts from; None for the row that has none."""
    if row == "labels alone":
        return None
    run = options.out / row / "initial"
    updates = scale(read_recipe(PRETRAINING).train.steps, options.budget)
    changes = [f"train.steps={updates}", f"train.validate_every={-(-updates // 4)}", *options.pretraining]
    if row == "vocabulary":
        changes += ["train.steps=1", "train.validate_every=1", "train.lr=1.0e-12"]
    minutes = train(PRETRAINING, run, changes, quiet=options.quiet)
    print(f"{row}: {minutes:.1f} CPU minutes of pre-training", flush=True)
    return run


def measure(row: str, seed: int, initial: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Train a classifier and score it on the test reviews."""
    run = options.out / row / f"seed-{seed}"
    epochs = scale(read_recipe(FINE_TUNING).train.epochs, options.budget)
    changes = [f"data.labels={options.labels}", f"train.seed={seed}", f"train.epochs={epochs}"]
    minutes = train(FINE_TUNING, run, [*changes, *options.fine_tuning], initial, options.quiet)
    scores = qkv.load(run).evaluate()
    return {"accuracy": scores["accuracy"], "nll": scores["nll"], "minutes": minutes}


def tabulate(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> Table:
    """Mean and standard deviation of the accuracy of every row."""
    rows = [[row, *format_accuracies(scores)] for row, scores in results.items()]
    return Table(f"{options.labels} labels", ["start", *ACCURACY_COLUMNS], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--pretraining", action="append", default=[], metavar="KEY=VALUE", help="its recipe")
    parser.add_argument("--fine-tuning", action="append", default=[], metavar="KEY=VALUE", help="its recipe")
    add_run_options(parser, "runs/few-labels")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {}
    for row in options.rows:
        initial = pretrain(row, options)
        results[row] = [
            compute_once(
                options.out / row / f"seed-{seed}.{options.labels}.json",
                lambda row=row, seed=seed, initial=initial: measure(row, seed, initial, options),
            )
            for seed in range(1, options.seeds + 1)
        ]
        print("\n".join(format_markdown(tabulate({row: results[row]}, options))), flush=True)
    print("\n".join(format_markdown(tabulate(results, options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
