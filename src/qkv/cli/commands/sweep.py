"""`qkv sweep`: trains combinations of values and prints a table."""

import sys
from pathlib import Path

import typer

from qkv.cost.report import format_table
from qkv.cost.sweep import Sweep, run_sweep, summarise
from qkv.task.output_files import check_writable, write_json


def print_sweep(sweep: Sweep, out: Path, processes: int, json_file: Path | None) -> None:
    """Train and print.  Raises QKVError before training if a value cannot be used."""
    if json_file is not None:
        check_writable(json_file)
    results = []
    total = len(sweep.trials) * sweep.seeds
    try:
        for trial, seed, scores in run_sweep(sweep, out, quiet=True, processes=processes):
            results.append((trial, seed, scores))
            shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            print(f"{len(results)} of {total}: {trial.label}, seed {seed}: {shown}", flush=True)
    except KeyboardInterrupt:
        print(f"stopped after {len(results)} of {total}; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    results.sort(key=lambda result: (result[1], sweep.trials.index(result[0])))
    print()
    for line in format_table(summarise(results)):
        print(line)
    if json_file is not None:
        rows = [
            {"combination": trial.label, "seed": seed, "scores": scores} for trial, seed, scores in results
        ]
        write_json(json_file, rows)
