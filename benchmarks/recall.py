"""Accuracy of associative recall against the number of pairs, for every attention of the recipes recall-*.

    python benchmarks/recall.py FOLDER [--pairs 4,8,16,32,64] [--attention softmax,rfa] [--updates 2000]
                                [--minutes 60]

Each row of the table is a recipe, trained for every number of pairs with the same updates and batches, on one
CPU thread. The fewest pairs are learned from random weights, and more pairs from the model of the next fewer
ones (`--from`): from random weights softmax too misses 16 pairs within 2,000 updates. A result is written to
FOLDER as soon as its training ends, and what is there is not trained again; a training that was interrupted
continues. After --minutes no further training starts. The table and the picture hold the results that there
are. Accuracy is that of the answers in the test examples, none of which was trained on; a guess among the
values of an example has 1 / pairs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_options import add_folder_options, parse_names
from benchmark_results import draw_lines, iterate_missing, read_results, write_result
from markdown_tables import Table, format_markdown

import qkv
from qkv.task.recipe import read_recipe
from qkv.train import STATE

ATTENTIONS = ("softmax", "rfa", "rfa-gate", "elu", "window")
PAIRS = (4, 8, 16, 32, 64)
KEYS = 64


class Cell(NamedTuple):
    """One training: an attention and a number of pairs."""

    attention: str
    pairs: int

    @property
    def name(self) -> str:
        return f"recall-{self.attention}-{self.pairs}"


def build_recipe(cell: Cell, updates: int | None) -> Any:
    """The recipe of an attention for examples of so many pairs."""
    changes = [f"data.recall.pairs={cell.pairs}", f"batch.length={4 * cell.pairs}"]
    steps = [] if updates is None else [f"train.steps={updates}"]
    return read_recipe(f"recall-{cell.attention}", [*changes, *steps])


def find_initial_run(cell: Cell, folder: Path) -> Path | None:
    """The run of the same attention with the next fewer pairs; None where no fewer pairs are measured."""
    fewer = [
        row["pairs"]
        for row in read_results(folder).values()
        if row["attention"] == cell.attention and row["pairs"] < cell.pairs
    ]
    return folder / "runs" / cell._replace(pairs=max(fewer)).name if fewer else None


def measure(cell: Cell, folder: Path, updates: int | None) -> dict[str, Any]:
    """Train one model, or continue its training, and score it on its test examples."""
    recipe, run = build_recipe(cell, updates), folder / "runs" / cell.name
    is_begun = (run / STATE).exists()
    initial = None if is_begun else find_initial_run(cell, folder)
    result = qkv.fit(recipe, run, initial=initial, resume=is_begun, quiet=True)
    scores = qkv.load(run).evaluate()
    return {**cell._asdict(), "updates": result.steps, "train_seconds": result.seconds, **scores}


def run_cells(cells: Sequence[Cell], folder: Path, updates: int | None, minutes: float | None) -> None:
    for cell in iterate_missing({cell.name: cell for cell in cells}, folder, minutes):
        row = measure(cell, folder, updates)
        write_result(folder, cell.name, row)
        print(f"{cell.name}: accuracy {row['accuracy']:.1%} in {row['train_seconds']:.0f} s", flush=True)


def make_table(results: dict[str, dict[str, Any]]) -> Table:
    """Attentions by numbers of pairs; a dash where there is no result."""
    pairs = sorted({row["pairs"] for row in results.values()})
    rows = []
    for attention in dict.fromkeys(row["attention"] for row in results.values()):
        cells = [results.get(Cell(attention, number).name) for number in pairs]
        rows.append([attention, *("–" if cell is None else f"{cell['accuracy']:.1%}" for cell in cells)])
    updates = sorted({row["updates"] for row in results.values()})
    note = f"Updates of each training: {', '.join(f'{number:,}' for number in updates)}."
    return Table("Recall: accuracy by number of pairs", ["attention", *map(str, pairs)], rows, [note])


def write_report(folder: Path) -> None:
    """Write recall.md and recall.png from the results in the folder."""
    results = read_results(folder)
    if not results:
        return
    text = "\n".join(format_markdown(make_table(results)))
    (folder / "recall.md").write_text(text + "\n")
    print(text)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(results.values(), key=lambda row: row["pairs"]):
        curves.setdefault(row["attention"], []).append((row["pairs"], 100 * row["accuracy"]))
    draw_lines(curves, folder / "recall.png", x="pairs", y="accuracy, %")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folder_options(parser)
    parser.add_argument("--pairs", default=",".join(map(str, PAIRS)), help="numbers separated by commas")
    parser.add_argument(
        "--attention",
        type=parse_names(ATTENTIONS),
        default=list(ATTENTIONS),
        help="names separated by commas",
    )
    options = parser.parse_args(arguments)
    try:
        options.pairs = [int(number) for number in options.pairs.split(",")]
    except ValueError:
        parser.error(f"--pairs takes whole numbers separated by commas, got {options.pairs!r}")
    if not all(1 <= pairs <= KEYS for pairs in options.pairs):
        parser.error(f"--pairs takes numbers from 1 to {KEYS}, the keys of the recipes, got {options.pairs}")
    options.pairs.sort()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    cells = [Cell(attention, number) for number in options.pairs for attention in options.attention]
    run_cells(cells, options.folder, options.updates, options.minutes)
    write_report(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
