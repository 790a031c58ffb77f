"""Runs side by side: what they reached, how fast, and at what cost."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cost.estimate import estimate_cost
from qkv.cost.report import format_bytes, format_table
from qkv.cost.score_settings import list_settings
from qkv.cost.subject import read_subject
from qkv.errors import BadRecipe, BadRun
from qkv.files import expand_home
from qkv.task.learning_curve import read_monitor
from qkv.task.run_directory import read_run_recipe
from qkv.train.checkpoint import METRICS
from qkv.train.loop_state import LOWER_IS_BETTER

ATTENTION = "attention."
POSITION_KEYS = frozenset({"kind", "step", "epoch", "seconds", "best"})


class ComparedRun(NamedTuple):
    """What a comparison says of one run.

    Args:
        name: the run directory, as the user named it.
        task: its task.
        monitor: the score that decides which weights are best.
        scores: the scores on held-out data of the best weights.
        updates: how many updates it made.
        seconds: how long it was trained.
        speed: the median of what it read per second of training; 0 where no line says.
        unit: what that counts, in the plural.
        parameters: how many the model has.
        memory: bytes of a training step, computed.
        curve: seconds and monitored score of every validation.
        settings: what the scores depend on beside the model: keys of the recipe, and how text is read.
    """

    name: str
    task: str
    monitor: str
    scores: dict[str, float]
    updates: int
    seconds: float
    speed: float
    unit: str
    parameters: int
    memory: int
    curve: list[tuple[float, float]]
    settings: dict[str, str]


def read_compared_run(name: str | Path) -> ComparedRun:
    """Read the metrics of a run, and compute its cost.

    Args:
        name: the run directory.

    Returns:
        The run.

    Raises:
        BadRun: it is not a run, or its metrics are missing or damaged, or hold no validation.
    """
    run = expand_home(name)
    recipe = read_run_recipe(run)
    lines = _read_metrics(run / METRICS)
    monitor = read_monitor(recipe)
    validations = [
        line for line in lines if line["kind"] in ("validation", "average") and _has_score(line, monitor)
    ]
    if not validations:
        raise BadRun(f"{run / METRICS} has no validation with the score {monitor!r}: train the run further")
    best = [line for line in validations if line.get("best")] or validations
    unit, speed = _find_speed(lines)
    subject = read_subject(run)
    cost = estimate_cost(subject.recipe.model, subject.sizes)
    scores = {
        key: float(value)
        for key, value in best[-1].items()
        if key not in POSITION_KEYS and isinstance(value, int | float)
    }
    curve = [(line["seconds"], line[monitor]) for line in validations]
    last = lines[-1]
    return ComparedRun(
        name=str(name),
        task=recipe.task,
        monitor=monitor,
        scores=scores,
        updates=last["step"],
        seconds=last["seconds"],
        speed=speed,
        unit=unit,
        parameters=cost.parameters,
        memory=cost.memory.peak,
        curve=curve,
        settings=list_settings(recipe),
    )


def check_comparable(runs: Sequence[ComparedRun]) -> None:
    """Check that runs are of one task and monitor one score.

    Args:
        runs: the runs.

    Raises:
        BadRun: they are not.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.task != first.task:
            raise BadRun(
                f"{first.name} is a run of the task {first.task!r} and {run.name} of {run.task!r}: compare "
                "runs of one task"
            )
        if run.monitor != first.monitor:
            raise BadRun(
                f"{first.name} monitors {first.monitor!r} and {run.name} {run.monitor!r}: compare runs with "
                "one validation.monitor"
            )


def find_common_quality(runs: Sequence[ComparedRun]) -> float:
    """The best monitored score that every run reached.

    Args:
        runs: the runs.

    Returns:
        The score.
    """
    lower = runs[0].monitor in LOWER_IS_BETTER
    bests = [(min if lower else max)(score for _, score in run.curve) for run in runs]
    return max(bests) if lower else min(bests)


def find_seconds_to_quality(run: ComparedRun, quality: float) -> float | None:
    """How long a run was trained until its monitored score was as good as this one.

    Args:
        run: the run.
        quality: the score.

    Returns:
        The seconds; None where it never was.
    """
    lower = run.monitor in LOWER_IS_BETTER
    reached = (seconds for seconds, score in run.curve if (score <= quality if lower else score >= quality))
    return next(reached, None)


def parse_quality(text: str) -> float:
    """The value of `--reach`.

    Args:
        text: a number.

    Raises:
        BadRecipe: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRecipe(f"--reach takes a value of the monitored score, such as 1.5, got {text[:40]!r}")
    return value


def make_rows(runs: Sequence[ComparedRun], quality: float) -> list[tuple[str, ...]]:
    """The table of a comparison, its head first.

    Args:
        runs: the runs.
        quality: the score whose time is stated.

    Returns:
        Rows of text.
    """
    runs = [run._replace(scores=average_over_layers(run.scores)) for run in runs]
    names = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    names.sort(key=lambda name: name != runs[0].monitor)
    head = ("run", *names, "parameters", "updates", "seconds", f"{runs[0].unit}/s", "memory")
    rows: list[tuple[str, ...]] = [(*head, f"seconds to {runs[0].monitor} {quality:.4g}")]
    for run in runs:
        seconds = find_seconds_to_quality(run, quality)
        rows.append(
            (
                *(run.name, *(f"{run.scores[name]:.4g}" for name in names)),
                *(f"{run.parameters:,}", f"{run.updates:,}", f"{run.seconds:,.0f}"),
                f"{run.speed:,.0f}" if run.speed else "–",
                *(format_bytes(run.memory), "never" if seconds is None else f"{seconds:,.0f}"),
            )
        )
    return rows


def format_comparison(rows: Sequence[tuple[str, ...]], markdown: bool) -> Iterator[str]:
    """The lines of a table.

    Args:
        rows: the rows, the head first.
        markdown: write a table in Markdown; otherwise columns of text.

    Yields:
        The lines.
    """
    if not markdown:
        yield from format_table(rows)
        return
    for number, row in enumerate(rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        if number == 0:
            yield f"|---|{'--:|' * (len(row) - 1)}"


def average_over_layers(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores, with the mean over all layers in place of each measure of the attention of a layer.

    Args:
        scores: the scores of a validation by name.
    """
    averaged = {name: value for name, value in scores.items() if not name.startswith(ATTENTION)}
    measures: dict[str, list[float]] = {}
    for name, value in scores.items():
        if name.startswith(ATTENTION):
            measures.setdefault(name.rpartition(".")[2], []).append(value)
    return averaged | {f"attention {name}": statistics.fmean(values) for name, values in measures.items()}


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise BadRun(
            f"{path} cannot be read ({error.strerror}): only runs with metrics are compared"
        ) from None
    except ValueError as error:
        raise BadRun(f"{path} is damaged ({error}): restore it from a copy") from None
    needed = {"kind", "step", "seconds"}
    if not lines or not all(isinstance(line, dict) and needed <= line.keys() for line in lines):
        raise BadRun(f"{path} is empty or damaged: restore it from a copy, or train the run again")
    return lines


def _has_score(line: dict[str, Any], monitor: str) -> bool:
    return isinstance(line.get(monitor), int | float)


def _find_speed(lines: Sequence[dict[str, Any]]) -> tuple[str, float]:
    """What is counted per second, and the median over all lines of the training."""
    speeds = [
        (key.removesuffix("_per_second"), value)
        for line in lines
        for key, value in line.items()
        if key.endswith("_per_second") and value
    ]
    return (speeds[0][0], statistics.median(value for _, value in speeds)) if speeds else ("tokens", 0.0)
