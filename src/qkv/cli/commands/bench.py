"""`qkv bench`: measures attentions, prints tables, and writes JSON and a plot."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import typer

from qkv.bench import Cell, Comparison, Contender, Setting, describe_machine, measure, read_contenders
from qkv.bench import plot as picture
from qkv.bench.table import format_comparison
from qkv.cli.lengths import parse_lengths
from qkv.cli.output_checks import check_picture_and_json
from qkv.errors import BadRecipe
from qkv.progress import show_progress
from qkv.task.output_files import write_json


class Output(NamedTuple):
    """What is written besides the tables on stdout.

    Args:
        json: a file for the results as JSON.
        plot: a file for a plot.
        dark: draw the plot for a dark page.
        memory: measure peak memory too.
        quiet: show no progress.
    """

    json: Path | None
    plot: Path | None
    dark: bool
    memory: bool
    quiet: bool

    def check(self) -> None:
        """Raise BadData if a file cannot be written; called before the measurements."""
        check_picture_and_json(self.plot, self.json)


def run_bench(
    specs: Sequence[str],
    lengths: Sequence[str],
    passes: Sequence[str],
    setting: Setting,
    threads: int | None,
    output: Output,
) -> None:
    """Measure and print.  Raises QKVError before measuring if a spec, length or output cannot be used."""
    token_counts = parse_lengths(",".join(lengths), "--lengths")
    contenders = read_contenders(specs, setting)
    _check_device(setting.device)
    output.check()
    if threads is not None:
        torch.set_num_threads(threads)
    machine = describe_machine()
    print(f"{machine}\n{setting}", flush=True)
    cells, is_complete = _measure_all(contenders, token_counts, passes, setting, output)
    comparison = Comparison(machine, setting, contenders, cells)
    for line in format_comparison(comparison, shutil.get_terminal_size((120, 24)).columns):
        print(line)
    if output.json is not None:
        write_json(output.json, comparison.to_dict())
    if output.plot is not None and any(cell.seconds for cell in cells):
        print(picture.draw(comparison, output.plot, output.dark))
    if not is_complete:
        print("stopped; the tables show what was measured until then", file=sys.stderr)
        raise typer.Exit(130)


def _measure_all(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    passes: Sequence[str],
    setting: Setting,
    output: Output,
) -> tuple[list[Cell], bool]:
    """The measured cells, and whether Ctrl-C cut none of them off."""
    cells: list[Cell] = []
    total = len(contenders) * len(lengths) * len(passes)
    try:
        with show_progress("bench", total, quiet=output.quiet) as report:
            for cell in measure(
                contenders,
                lengths,
                passes,
                setting,
                output.memory,
                lambda note: report.update(len(cells), note),
            ):
                cells.append(cell)
    except KeyboardInterrupt:
        return cells, False
    return cells, True


def _check_device(name: str) -> None:
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise BadRecipe(f"--device takes cpu or cuda, which qkv bench can time, got {name!r}")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise BadRecipe(f"--device {name}: {str(error).splitlines()[0]}") from None
