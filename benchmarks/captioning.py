"""Captioners of generated shapes: quality, pictures per second in training, captions per second in search.

    python benchmarks/captioning.py FOLDER [--models soft,hard,rfa,mean,transformer] [--updates 4500]
                                    [--threads 2] [--minutes 60] [--set KEY=VALUE]...

The recipes caption-shapes-* are trained with the same updates and batches, each in a process of its own, and
scored on pictures that have an object in a held-out combination of colour, shape and place.  Training speed
is the median over the reports of the training, in captions, each with its picture; drawing pictures counts.
Captions per second are measured with a beam of 5, in batches and one by one, on --threads CPU threads.

A result is written to FOLDER as soon as its training ends, and what is there is not trained again; a training
that was interrupted continues.  After --minutes no further training starts.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_options import add_folder_options, parse_names
from benchmark_results import iterate_missing, read_median, read_results, write_result
from markdown_tables import Table, format_markdown

import qkv
from qkv.task.caption.examples import draw_shapes, stack_inputs
from qkv.task.recipe import read_recipe
from qkv.train import STATE

MODELS = ("soft", "hard", "rfa", "mean", "transformer")
BEAM = 5


def measure(name: str, folder: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Train one model in this process, or continue its training, and score it on the test pictures."""
    run = folder / "runs" / f"caption-shapes-{name}"
    recipe = read_recipe(f"caption-shapes-{name}", changes)
    result = qkv.fit(recipe, run, resume=(run / STATE).exists(), quiet=True)
    captioner, speed = qkv.load(run), read_median(run, "tokens_per_second")
    return {
        "model": name,
        "updates": result.steps,
        "train_seconds": result.seconds,
        "pictures_per_second": speed / count_tokens(captioner) if speed else None,
        "batched": measure_search(captioner, captioner.recipe.batch.pictures),
        "alone": measure_search(captioner, 1),
        **captioner.evaluate(),
    }


def count_tokens(captioner: Any) -> float:
    """The mean number of tokens of a training caption, end symbol included."""
    examples = draw_shapes(captioner.recipe.data, "train")
    captions = [examples.get_captions(place)[0] for place in range(min(len(examples), 1000))]
    return statistics.mean(len(ids) + 1 for ids in captioner.tokenizer.encode(captions))


def measure_search(captioner: Any, size: int, seconds: float = 3.0) -> float:
    """Captions per second in batches of `size` pictures, which are drawn beforehand."""
    examples = draw_shapes(captioner.recipe.data, "test")
    batch = stack_inputs([examples.get_pixels(place) for place in range(min(size, len(examples)))])
    config = captioner.build_search_config(BEAM)
    captioner.search(batch, config)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        captioner.search(batch, config)
        count += len(batch)
    return count / (time.perf_counter() - start)


def run_rows(models: Sequence[str], folder: Path, options: argparse.Namespace) -> None:
    """Measure every model that has no result yet, each in a process of its own."""
    settings = [f"--set={change}" for change in options.changes]
    names = {f"caption-shapes-{name}": name for name in models}
    for name in iterate_missing(names, folder, options.minutes):
        arguments = [str(folder), f"--models={name}", f"--threads={options.threads}", "--here", *settings]
        subprocess.run([sys.executable, __file__, *arguments], check=True)


def make_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each model."""
    columns = [
        *("model", "exact, %", "pointing, %", "in the box, %", "BLEU-4", "CIDEr-D × 100"),
        *("training pictures/s", "captions/s, batched", "one by one", "updates", "seconds"),
    ]
    rows = [
        [
            row["model"],
            f"{row['exact']:.1f}",
            *(f"{row[key]:.1f}" if key in row else "–" for key in ("pointing", "attention_mass")),
            f"{row['bleu4']:.1f}",
            f"{row['cider']:.0f}",
            "–" if row["pictures_per_second"] is None else f"{row['pictures_per_second']:,.0f}",
            *(f"{row[key]:,.0f}" for key in ("batched", "alone")),
            f"{row['updates']:,}",
            f"{row['train_seconds']:,.0f}",
        ]
        for row in results.values()
    ]
    return Table("Captions of generated shapes, held-out combinations", columns, rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder_options(parser)
    parser.add_argument(
        "--models", type=parse_names(MODELS), default=list(MODELS), help="names separated by commas"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change all recipes")
    parser.add_argument("--here", action="store_true", help="measure one model in this process")
    options = parser.parse_args(arguments)
    if options.updates is not None:
        options.changes.append(f"train.steps={options.updates}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.here:
        torch.set_num_threads(options.threads)
        (name,) = options.models
        row = measure(name, options.folder, [f"train.threads={options.threads}", *options.changes])
        write_result(options.folder, f"caption-shapes-{name}", row)
        return 0
    run_rows(options.models, options.folder, options)
    results = read_results(options.folder)
    if results:
        text = "\n".join(format_markdown(make_table(results)))
        (options.folder / "captioning.md").write_text(text + "\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
