"""Compares CIFAR classifiers with and without self-attention inside the network, of equal size.

    QKV_DATA=... python benchmarks/picture_attention.py [--seeds 3] [--out runs/picture-attention]

Rows, each with every seed, which chooses the held-out pictures and the initial values:

    off           the residual network of classify-cifar-cnn
    plain         with SelfAttention2d over its 16 × 16 map, as in the lecture
    plain, RFA    the same with RFA(64) in place of softmax
    sagan         with SAGAN's module
    sagan, RFA    the same with RFA(64)

The widths of the stages are chosen so that all networks have the same number of parameters within 1 %.  Of
the sample's pictures, every fifth of each class (100) is set apart as a test; no training reads it.  The
weights that are scored are those with the best accuracy on 400 held-out training pictures.

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
from cifar_split import add_sample_option, split_sample
from markdown_tables import Table, format_markdown
from resumable import compute_once, scale, train

import qkv
from qkv.task.recipe import read_recipe

RECIPE = "classify-cifar-cnn"
HELD_OUT = 400
RFA = "attention: {kernel: {name: rfa, features: 64}}"
NETWORKS = {
    "off": ("[20, 32, 64]", "null"),
    "plain": ("[16, 32, 64]", "{after: 2, form: plain}"),
    "plain, RFA": ("[16, 32, 64]", f"{{after: 2, form: plain, {RFA}}}"),
    "sagan": ("[24, 32, 60]", "{after: 2, form: sagan}"),
    "sagan, RFA": ("[24, 32, 60]", f"{{after: 2, form: sagan, {RFA}}}"),
}


def list_model_changes(row: str) -> list[str]:
    """The changes of the recipe that make the network of a row."""
    widths, attention = NETWORKS[row]
    return [f"model.widths={widths}", "model.groups=4", f"model.self_attention={attention}"]


def measure(
    row: str, seed: int, run: Path, files: tuple[Path, Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Train a classifier and score it on the test pictures."""
    updates = scale(read_recipe(RECIPE).train.steps, options.budget)
    changes = [
        *list_model_changes(row),
        f"data.train.pictures={files[0]}",
        f"data.test={{pictures: {files[1]}}}",
        f"data.holdout={HELD_OUT}",
        f"train.seed={seed}",
        f"train.steps={updates}",
        f"train.warmup={updates // 20}",
        f"train.validate_every={-(-updates // 8)}",
        *options.changes,
    ]
    minutes = train(RECIPE, run, changes, quiet=options.quiet)
    classifier = qkv.load(run)
    scores = classifier.evaluate()
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    accuracy, nll = scores["accuracy"], scores["nll"]
    return {"accuracy": accuracy, "nll": nll, "minutes": minutes, "parameters": parameters}


def tabulate(results: dict[str, list[dict[str, Any]]]) -> Table:
    """Mean and standard deviation of the accuracy of every row."""
    rows = [
        [row, f"{scores[0]['parameters']:,}", *format_accuracies(scores)] for row, scores in results.items()
    ]
    columns = ["attention", "parameters", *ACCURACY_COLUMNS]
    return Table("Self-attention inside a classifier of the CIFAR sample", columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help="of the recipe"
    )
    add_sample_option(parser)
    add_run_options(parser, "runs/picture-attention")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    files = split_sample(options.sample, options.out)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, options.seeds + 1):  # all rows of a seed first: what is complete can be compared
        for row in options.rows:
            run = options.out / row.replace(", ", "-") / f"seed-{seed}"
            result = compute_once(
                run.with_suffix(".json"),
                lambda row=row, seed=seed, run=run: measure(row, seed, run, files, options),
            )
            results.setdefault(row, []).append(result)
        print("\n".join(format_markdown(tabulate(results))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
