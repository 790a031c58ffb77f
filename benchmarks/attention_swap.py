"""Replaces the softmax attention of a trained language model by a linear one: what is lost, and what is won.

    QKV_DATA=... python benchmarks/attention_swap.py [--recipe lm-shakespeare] [--out runs/attention-swap]

Rows, all of one model and one text:

    softmax                        the trained model
    linear, not trained            its weights with another kernel
    linear, transfer               its attention alone trained to match the outputs of the softmax attention
    linear, transfer, fine-tuned   and then the whole model on the text
    linear, fine-tuned             as many updates of the whole model, without transfer
    window, fine-tuned             softmax over the last keys only, as many as cost what the features cost

The linear kernel is RFA without normalisation at the temperature √√D, D being the width of a head: it then
estimates the softmax attention that it replaces.  One key of a window costs a query and a value product of
width D, one feature of a state the same, so the window has as many keys as the state has features: 2·R.

nll is of the held-out text, read as the recipe says.  Tokens per second: training, the middle value of all
records in metrics.jsonl; generation, one token after the other, one text.  A run that exists is not trained
again, and one that was stopped goes on.  `--budget 0.01` makes a hundredth of the updates.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_options import add_run_options
from benchmark_results import read_median
from markdown_tables import Table, format_markdown
from resumable import compute_once, scale, train

import qkv
from qkv.task.recipe import read_recipe

NO_TRAINING = ["train.steps=1", "train.lr=1.0e-12", "train.warmup=0"]


def make_linear(options: argparse.Namespace) -> list[str]:
    model = read_recipe(options.recipe).model
    temperature = (model.width / model.heads) ** 0.25
    kernel = f"name: rfa, features: {options.features}, normalise: false, temperature: {temperature:.6f}"
    return [f"model.attention={{kernel: {{{kernel}}}}}"]


def make_window(options: argparse.Namespace) -> list[str]:
    reach = 2 * options.features - 1  # and the position of the query itself
    return [f"model.attention={{scope: {{name: window, half_width: {reach}}}}}"]


def make_steps(updates: int, rate: float) -> list[str]:
    warmup, every = max(1, updates // 10), -(-updates // 4)
    steps = [f"train.steps={updates}", f"train.warmup={warmup}", f"train.validate_every={every}"]
    return [*steps, f"train.lr={rate}", f"train.log_every={max(1, min(50, updates // 4))}"]


def plan(options: argparse.Namespace) -> dict[str, tuple[list[str], str | None]]:
    """Row -> the changes of its recipe, and the row that it starts from."""
    linear, window = make_linear(options), make_window(options)
    updates = scale(read_recipe(options.recipe).train.steps, options.budget)
    transfer = make_steps(scale(options.transfer, options.budget), options.transfer_rate)
    tuning = make_steps(scale(options.tuning, options.budget), options.tuning_rate)
    alone = make_steps(scale(options.transfer + options.tuning, options.budget), options.tuning_rate)
    match = [f"transfer.match={options.match}"]
    return {
        "softmax": ([f"train.steps={updates}", f"train.validate_every={-(-updates // 4)}"], None),
        "linear, not trained": ([*linear, *NO_TRAINING], "softmax"),
        "linear, transfer": ([*linear, *transfer, *match], "softmax"),
        "linear, transfer, fine-tuned": ([*linear, *tuning], "linear, transfer"),
        "linear, fine-tuned": ([*linear, *alone], "softmax"),
        "window, fine-tuned": ([*window, *alone], "softmax"),
    }


def measure(run: Path, minutes: float, options: argparse.Namespace) -> dict[str, Any]:
    """The held-out nll of a run, and its speeds."""
    runner = qkv.load(run)
    training = read_median(run, "tokens_per_second")
    generation = measure_generation(runner, scale(options.generate, options.budget))
    return {**runner.evaluate(), "minutes": minutes, "training": training, "generation": generation}


def measure_generation(runner: Any, length: int) -> float:
    """Tokens per second, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        list(runner.stream([""], length=length))
        seconds.append(time.perf_counter() - start)
    return length / min(seconds)


def name_run(row: str, options: argparse.Namespace) -> Path:
    return options.out / row.replace(", ", "-").replace(" ", "-")


def make_row(
    row: str, changes: list[str], initial: Path | None, options: argparse.Namespace
) -> Callable[[], dict[str, Any]]:
    def train_and_measure() -> dict[str, Any]:
        run = name_run(row, options)
        minutes = train(options.recipe, run, [*options.set, *changes], initial, options.quiet)
        return measure(run, minutes, options)

    return train_and_measure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="lm-shakespeare", help="a language model with softmax attention")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every row")
    parser.add_argument("--features", type=int, default=16, help="R, the random vectors of a head")
    parser.add_argument("--match", choices=("outputs", "weights"), default="outputs")
    parser.add_argument("--transfer", type=int, default=500, help="updates")
    parser.add_argument("--transfer-rate", type=float, default=0.001)
    parser.add_argument("--tuning", type=int, default=500, help="updates")
    parser.add_argument("--tuning-rate", type=float, default=0.0003)
    parser.add_argument("--generate", type=int, default=1000, help="tokens to time")
    add_run_options(parser, "runs/attention-swap")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for row, (changes, start) in plan(options).items():
        initial = None if start is None else name_run(start, options)
        compute = make_row(row, changes, initial, options)
        result = compute_once(name_run(row, options).with_suffix(".json"), compute)
        speeds = [f"{result[name]:,.0f}" if result[name] else "–" for name in ("training", "generation")]
        rows.append([row, f"{result['nll']:.3f}", *speeds, f"{result['minutes']:.1f}"])
        print(" | ".join(rows[-1]), flush=True)
    columns = ["attention", "nll", "training tokens/s", "generation tokens/s", "CPU minutes"]
    print("\n".join(format_markdown(Table(f"{options.recipe}, R = {options.features}", columns, rows))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
