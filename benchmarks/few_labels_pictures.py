"""Compares classifiers of CIFAR pictures trained on few labels, with and without pre-training on the rest.

    QKV_DATA=... python benchmarks/few_labels_pictures.py [--labels 50] [--seeds 3] [--out runs/few-pictures]

Four rows, each with every seed:

    cnn, random            classify-cifar-few-cnn from random weights
    cnn, pre-trained       the same from mim-cifar-cnn, trained without labels
    patches, random        classify-cifar-few-patches from random weights
    patches, pre-trained   the same from mim-cifar-patches

Of the sample's pictures, every fifth of each class (100) is set apart as a test; no training reads it.  The
pre-training of each encoder is made once, on all other pictures.  A seed chooses the labelled pictures, as
many of each class, the initial values, and 400 held-out pictures by which the weights are chosen.

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

ENCODERS = ("cnn", "patches")
STARTS = ("random", "pre-trained")
CLASSES = 10
HELD_OUT = 400


def pretrain(encoder: str, source: Path, options: argparse.Namespace) -> Path:
    """The run without labels that an encoder starts from."""
    name, run = f"mim-cifar-{encoder}", options.out / encoder / "initial"
    updates = scale(read_recipe(name).train.steps, options.budget)
    changes = [
        f"data.train.pictures={source}",
        f"data.holdout={HELD_OUT}",
        f"train.steps={updates}",
        f"train.validate_every={-(-updates // 6)}",
        f"train.warmup={updates // 20}",
        *options.pretraining,
    ]
    minutes = train(name, run, changes, quiet=options.quiet)
    print(f"{encoder}: {minutes:.1f} CPU minutes of pre-training", flush=True)
    return run


def measure(
    encoder: str,
    run: Path,
    seed: int,
    initial: Path | None,
    files: tuple[Path, Path],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train a classifier and score it on the test pictures."""
    name, (train_file, test_file) = f"classify-cifar-few-{encoder}", files
    updates = scale(read_recipe(name).train.steps, options.budget)
    changes = [
        f"data.train.pictures={train_file}",
        f"data.test={{pictures: {test_file}}}",
        f"data.holdout={HELD_OUT}",
        f"data.labels={options.labels * CLASSES}",
        f"train.seed={seed}",
        f"train.steps={updates}",
        f"train.warmup={updates // 10}",
        f"train.validate_every={-(-updates // 8)}",
        *options.fine_tuning,
    ]
    minutes = train(name, run, changes, initial, options.quiet)
    scores = qkv.load(run).evaluate()
    return {"accuracy": scores["accuracy"], "nll": scores["nll"], "minutes": minutes}


def tabulate(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> Table:
    """Mean and standard deviation of the accuracy of every row."""
    rows = [[row, *format_accuracies(scores)] for row, scores in results.items()]
    return Table(f"{options.labels} labels a class", ["encoder, start", *ACCURACY_COLUMNS], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=50, help="of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--pretraining", action="append", default=[], metavar="KEY=VALUE", help="its recipe")
    parser.add_argument("--fine-tuning", action="append", default=[], metavar="KEY=VALUE", help="its recipe")
    add_sample_option(parser)
    add_run_options(parser, "runs/few-pictures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    files = split_sample(options.sample, options.out)
    results: dict[str, list[dict[str, Any]]] = {}
    for encoder in options.encoders:
        for start in STARTS:
            initial = None if start == "random" else pretrain(encoder, files[0], options)
            row = f"{encoder}, {start}"
            results[row] = []
            for seed in range(1, options.seeds + 1):
                run = options.out / encoder / f"{options.labels}-{start}-{seed}"
                results[row].append(
                    compute_once(
                        run.with_suffix(".json"),
                        lambda encoder=encoder, run=run, seed=seed, initial=initial: measure(
                            encoder, run, seed, initial, files, options
                        ),
                    )
                )
            print("\n".join(format_markdown(tabulate({row: results[row]}, options))), flush=True)
    print("\n".join(format_markdown(tabulate(results, options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
