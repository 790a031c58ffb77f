"""`qkv sweep`: trains combinations of values and prints a table."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from qkv.cost.sweep import Sweep, format_summary, parse_variation, run_sweep, summarise
from qkv.errors import BadRecipe
from qkv.task.output_files import check_writable, write_text


def sweep_recipe(
    sweep_parts: tuple[str, Sequence[str], Sequence[str], int], out: Path, json_file: Path | None
) -> None:
    """Train and print.  Raises QKVError before training if a value cannot be used."""
    recipe, changes, variations, seeds = sweep_parts
    parsed = tuple(parse_variation(text) for text in variations)
    keys = [variation.key for variation in parsed]
    if len(set(keys)) < len(keys):
        raise BadRecipe(f"two options --vary name {max(keys, key=keys.count)}: put all its values into one")
    sweep = Sweep(recipe, tuple(changes), parsed, seeds)
    if json_file is not None:
        check_writable(json_file)
    results = []
    total = len(sweep.trials) * seeds
    try:
        for trial, seed, scores in run_sweep(sweep, out, quiet=True):
            results.append((trial, seed, scores))
            shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            print(f"{len(results)} of {total}: {trial.label}, seed {seed}: {shown}", flush=True)
    except KeyboardInterrupt:
        print(f"stopped after {len(results)} of {total}; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    print()
    for line in format_summary(summarise(results)):
        print(line)
    if json_file is not None:
        rows = [
            {"combination": trial.label, "seed": seed, "scores": scores} for trial, seed, scores in results
        ]
        write_text(json_file, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
