"""Trainings and results that a benchmark makes once: what exists stays, and what was stopped goes on."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark_results import write_json

from qkv.task.training import fit
from qkv.train import STATE


def train(
    recipe: str, run: Path, changes: Sequence[str], initial: Path | None = None, quiet: bool = True
) -> float:
    """Train into `run`, or resume there; returns the CPU minutes over all resumptions."""
    minutes_file = run.with_suffix(".minutes")
    minutes_file.parent.mkdir(parents=True, exist_ok=True)
    start, is_started = time.process_time(), (run / STATE).exists()
    try:
        fit(recipe, run, changes=changes, initial=initial, resume=is_started, quiet=quiet)
    finally:
        before = float(minutes_file.read_text()) if minutes_file.exists() else 0.0
        minutes_file.write_text(str(before + (time.process_time() - start) / 60))
    return float(minutes_file.read_text())


def compute_once(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result that a file holds; without the file it is computed and stored there."""
    if not path.exists():
        write_json(path, compute())
    return json.loads(path.read_text())


def scale(updates: int, budget: float) -> int:
    """A number of updates under a fraction of the budget; at least two."""
    return max(2, round(updates * budget))
