"""`qkv cost`: prints what a model costs, and writes it as JSON."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cli.lengths import parse_lengths
from qkv.cli.output_checks import check_picture_and_json
from qkv.cost.crossover import find_crossovers, make_softmax_config
from qkv.cost.estimate import estimate_cost
from qkv.cost.fitting import find_largest_sizes
from qkv.cost.measured_crossover import measure_crossovers
from qkv.cost.probe import PROBE_SECONDS, probe_training
from qkv.cost.report import (
    describe_cost,
    describe_crossovers,
    describe_measured_crossover,
    describe_probe,
)
from qkv.cost.subject import Subject, read_subject
from qkv.cost.workload import build_workload, check_length
from qkv.errors import BadRecipe
from qkv.progress import show_progress
from qkv.task.output_files import write_json
from qkv.train.devices import choose_device, choose_fabric_precision, limit_cpu_threads
from qkv.view.line_chart import ChartLine, draw_lines


class CostOptions(NamedTuple):
    """The options of `qkv cost`; see `qkv.cli.cost_options.cost`."""

    length: str | None
    batch: int | None
    beam: int
    memory: str | None
    changes: tuple[str, ...]
    precision: str | None
    measure: bool
    probe: bool
    png: Path | None
    json: Path | None


def report_cost(name: str, options: CostOptions) -> None:
    """Compute and print.  Raises QKVError before computing if an option cannot be used."""
    lengths = [None] if options.length is None else parse_lengths(options.length)
    limit = 0 if options.memory is None else parse_bytes(options.memory)
    if options.png is not None and len(lengths) < 2:
        raise BadRecipe("--png draws operations over lengths: pass two or more, as in --length 1k,4k,16k")
    check_picture_and_json(options.png, options.json)
    subjects = [
        read_subject(name, options.changes, length, options.batch, options.precision) for length in lengths
    ]
    for subject in subjects:
        check_length(subject.recipe.model, subject.sizes.length)
    result = _report_steps(name, subjects, options.beam)
    if options.memory is not None:
        result["fits"] = {"bytes": limit, **_print_largest_sizes(subjects[0], options.memory, limit)}
    if options.measure:
        result["measured"] = _measure_crossovers(subjects[0])
    if options.probe:
        result["probe"] = _probe(subjects[0], options.precision)
    if options.png is not None:
        _draw_operations(subjects, [cost["operations"]["training"] for cost in result["costs"]], options.png)
    if options.json is not None:
        write_json(options.json, result)


def _draw_operations(subjects: Sequence[Subject], operations: Sequence[int], path: Path) -> None:
    """Draw the operations of a training step over the length, and those of the same model with softmax."""
    config = subjects[0].recipe.model
    softmax = make_softmax_config(config)
    lengths = [subject.sizes.length for subject in subjects]
    lines = [ChartLine(subjects[0].name, _pair(lengths, operations))]
    if softmax != config:
        costs = [estimate_cost(softmax, subject.sizes).training for subject in subjects]
        lines.append(ChartLine("softmax over all keys", _pair(lengths, costs)))
    draw_lines(path, lines, "tokens of a row", "operations of a training step", has_log_scales=True)


def _pair(lengths: Sequence[int], operations: Sequence[int]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(lengths, operations, strict=True)]


def _report_steps(name: str, subjects: list[Subject], beam: int) -> dict[str, Any]:
    """Print the cost of a step of every length, and where its attention pays; returns the same as data."""
    first = subjects[0]
    kind = getattr(first.recipe.model, "kind", None)  # a task with one kind of model names none
    print(f"{name}: task {first.recipe.task}" + (f", model {kind}" if kind else ""))
    for note in first.notes:
        print(f"  assumed: {note}")
    result = _to_dict(first)
    for subject in subjects:
        cost = estimate_cost(subject.recipe.model, subject.sizes)
        print()
        for line in describe_cost(cost, beam):
            print(line)
        result["costs"].append(cost.to_dict())
    crossovers = find_crossovers(first.recipe.model)
    for line in describe_crossovers(crossovers):
        print(line)
    result["crossovers"] = [crossover._asdict() for crossover in crossovers]
    return result


def _measure_crossovers(subject: Subject) -> list[dict[str, Any]]:
    """Time attention against softmax, print the lengths from which it is faster, and return them as data."""
    with show_progress("measure") as progress:
        crossovers = list(measure_crossovers(subject.recipe.model, lambda step: progress.update(0, step)))
    for crossover in crossovers:
        print(describe_measured_crossover(crossover))
    return [
        {**each._asdict(), "crossing": None if each.crossing is None else each.crossing._asdict()}
        for each in crossovers
    ]


def _probe(subject: Subject, precision: str | None) -> dict[str, Any]:
    """Train for a minute as the recipe would here, print what all of it would take, and return it as data."""
    config, device = subject.recipe.train, choose_device(subject.recipe.train.device)
    chosen = choose_fabric_precision(precision or config.precision, device).split("-")[0]
    sizes = subject.sizes._replace(precision=chosen)
    with show_progress("probe", round(PROBE_SECONDS)) as progress, limit_cpu_threads(config.threads):
        probe = probe_training(
            *(subject.recipe.model, sizes, device, PROBE_SECONDS),
            lambda elapsed: progress.update(round(elapsed)),
        )
    for line in describe_probe(probe, build_workload(subject.recipe.model, subject.sizes), subject.recipe):
        print(line)
    return {**probe._asdict(), "precision": chosen}


def parse_bytes(text: str) -> int:
    """A size of memory, such as 16GB, with decimal prefixes; GiB is 1024³ bytes.

    Args:
        text: a number with a unit.

    Raises:
        BadRecipe: it is no size.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or float(match[1]) == 0 or (match[3] and not match[2]):
        raise BadRecipe(f"--memory takes a size like 16GB or 512MiB, got {text.strip()[:40]!r}")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2] or " "))


def _print_largest_sizes(subject: Subject, memory: str, limit: int) -> dict[str, int | None]:
    """Print and return the largest batch, and the largest length, whose training step fits."""
    reads_text, sizes = subject.reads_text, subject.sizes
    fit = find_largest_sizes(subject.recipe.model, sizes, limit, reads_text)
    at_length = f" of {sizes.length:,} tokens" if reads_text else ""
    print("what fits, counting tensors only: leave a margin for the allocator and temporary memory")
    print(f"in {memory}: a training step of {_count_rows(fit.batch)}{at_length} fits")
    if reads_text:
        print(f"in {memory}: {_count_rows(sizes.batch)} of {fit.length:,} tokens fit")
    return fit._asdict()


def _count_rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _to_dict(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "task": subject.recipe.task,
        "model": subject.recipe.model.model_dump(mode="json"),
        "assumed": list(subject.notes),
        "costs": [],
    }
