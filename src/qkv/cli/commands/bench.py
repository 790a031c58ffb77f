"""`qkv bench`: reads the specs, measures, prints tables, writes what was asked for."""

import json
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
from qkv.errors import BadRecipe
from qkv.progress import show_progress
from qkv.task.output_files import check_writable, write_text
from qkv.view.page import check_output

LONGEST = 9  # digits of a number of tokens


class Output(NamedTuple):
    """Where the results go besides stdout: json, plot (dark or not); whether memory is measured; progress."""

    json: Path | None
    plot: Path | None
    dark: bool
    memory: bool
    quiet: bool

    def check(self) -> None:
        """BadData for what could not be written in the end."""
        if self.plot is not None:
            check_output(self.plot)
        for path in filter(None, (self.json, self.plot)):
            check_writable(path)


def run_bench(
    written: Sequence[str],
    lengths: Sequence[str],
    whats: Sequence[str],
    setting: Setting,
    threads: int | None,
    to: Output,
) -> None:
    """Measure and print.  Raises QKVError for what cannot be read, built or drawn, before measuring."""
    counts = _lengths(lengths)
    contenders = read_contenders(written, setting)
    _check_device(setting.device)
    to.check()
    if threads is not None:
        torch.set_num_threads(threads)
    machine = describe_machine()
    print(f"{machine}\n{setting}", flush=True)
    cells, whole = _measured(contenders, counts, whats, setting, to)
    comparison = Comparison(machine, setting, contenders, cells)
    for line in format_comparison(comparison, shutil.get_terminal_size((120, 24)).columns):
        print(line)
    if to.json is not None:
        write_text(to.json, json.dumps(comparison.to_dict(), indent=2) + "\n")
    if to.plot is not None and any(cell.seconds for cell in cells):
        print(picture.draw(comparison, to.plot, to.dark))
    if not whole:
        print("stopped: this is what was measured by then", file=sys.stderr)
        raise typer.Exit(130)


def _measured(
    contenders: Sequence[Contender],
    lengths: Sequence[int],
    whats: Sequence[str],
    setting: Setting,
    to: Output,
) -> tuple[list[Cell], bool]:
    """The cells, and whether these are all."""
    cells: list[Cell] = []
    total = len(contenders) * len(lengths) * len(whats)
    try:
        with show_progress("bench", total, quiet=to.quiet) as report:
            doing = measure(
                contenders, lengths, whats, setting, to.memory, lambda note: report.update(len(cells), note)
            )
            for cell in doing:
                cells.append(cell)
    except KeyboardInterrupt:
        return cells, False
    return cells, True


def _lengths(written: Sequence[str]) -> list[int]:
    found = []
    for text in ",".join(written).split(","):
        if not text.strip().isdecimal() or len(text.strip()) > LONGEST or int(text) < 1:
            raise BadRecipe(
                f"--lengths takes whole numbers of tokens like 512,2048, got {text.strip()[:40]!r}"
            )
        found.append(int(text))
    return sorted(set(found))


def _check_device(name: str) -> None:
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise BadRecipe(f"--device takes cpu or cuda, whose clocks are known here, got {name!r}")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise BadRecipe(f"--device {name}: {str(error).splitlines()[0]}") from None
