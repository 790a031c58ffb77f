"""ListOps with softmax and random feature attention: accuracy, documents per second and peak memory.

    python benchmarks/listops.py FOLDER [--attention softmax,rfa] [--updates 3000] [--minutes 60]
                                 [--set KEY=VALUE]...

The recipes listops-* are trained with the same updates and batches on one CPU thread, each in a process of
its own, whose largest resident memory is reported, data included. Speed is the median over the reports of the
training. A result is written to FOLDER as soon as its training ends, and what is there is not trained again;
a training that was interrupted continues, and its memory is that of the last process. After --minutes no
further training starts. The row "majority class" always answers the commonest class of the test data.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_options import add_folder_options, parse_names
from benchmark_results import draw_lines, iterate_missing, read_median, read_results, write_result
from markdown_tables import Table, format_markdown

import qkv
from qkv.task.recipe import read_recipe
from qkv.train import STATE

ATTENTIONS = ("softmax", "rfa")
SPEED = "documents_per_second"


def measure(attention: str, folder: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Train one model in this process, or continue its training, and score it on the test expressions."""
    run = folder / "runs" / f"listops-{attention}"
    recipe = read_recipe(f"listops-{attention}", ["train.threads=1", *changes])
    result = qkv.fit(recipe, run, resume=(run / STATE).exists(), quiet=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "attention": attention,
        "updates": result.steps,
        "train_seconds": result.seconds,
        SPEED: read_median(run, SPEED),
        "peak_bytes": peak,
        **qkv.load(run).evaluate(),
    }


def run_rows(attentions: Sequence[str], folder: Path, changes: Sequence[str], minutes: float | None) -> None:
    """Measure every attention that has no result yet, each in a process of its own."""
    settings = [f"--set={change}" for change in changes]
    for attention in iterate_missing({f"listops-{name}": name for name in attentions}, folder, minutes):
        command = [sys.executable, __file__, str(folder), f"--attention={attention}", "--here", *settings]
        subprocess.run(command, check=True)


def make_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each attention, and one for the commonest class."""
    rows = [
        [
            row["attention"],
            f"{row['accuracy']:.1%}",
            "–" if row[SPEED] is None else f"{row[SPEED]:.1f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{row['updates']:,}",
            f"{row['train_seconds']:,.0f}",
        ]
        for row in results.values()
    ]
    majority = next(iter(results.values()))["majority"]
    rows.append(["majority class", f"{majority:.1%}", "", "", "", ""])
    columns = ["attention", "accuracy", "documents/s", "peak MB", "updates", "seconds"]
    return Table("ListOps, brackets kept", columns, rows)


def write_report(folder: Path) -> None:
    """Write listops.md and listops.png, the held-out accuracy during training, from what is in the folder."""
    results = read_results(folder)
    if not results:
        return
    text = "\n".join(format_markdown(make_table(results)))
    (folder / "listops.md").write_text(text + "\n")
    print(text)
    curves = {row["attention"]: read_curve(folder / "runs" / name) for name, row in results.items()}
    draw_lines(curves, folder / "listops.png", x="updates", y="held-out accuracy, %")


def read_curve(run: Path) -> list[tuple[float, float]]:
    """(updates, accuracy in %) of every validation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], 100 * line["accuracy"]) for line in lines if line["kind"] == "validation"]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder_options(parser)
    parser.add_argument(
        "--attention",
        type=parse_names(ATTENTIONS),
        default=list(ATTENTIONS),
        help="names separated by commas",
    )
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change both recipes")
    parser.add_argument("--here", action="store_true", help="measure one attention in this process")
    options = parser.parse_args(arguments)
    if options.updates is not None:
        options.changes.append(f"train.steps={options.updates}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.here:
        torch.set_num_threads(1)
        (attention,) = options.attention
        row = measure(attention, options.folder, options.changes)
        write_result(options.folder, f"listops-{attention}", row)
        return 0
    run_rows(options.attention, options.folder, options.changes, options.minutes)
    write_report(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
