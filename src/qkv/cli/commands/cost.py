"""`qkv cost`: prints what a model costs, and writes it as JSON and as a picture."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qkv.cost.estimate import Cost, estimate_cost
from qkv.cost.report import describe_cost
from qkv.cost.subject import Subject, read_subject
from qkv.errors import BadRecipe
from qkv.task.output_files import check_writable, write_text

MAX_DIGITS = 9
MULTIPLES = {"": 1, "k": 1024, "m": 1024**2}
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class CostOptions(NamedTuple):
    """The options of `qkv cost`; see `qkv.cli.cost_options.cost`."""

    length: str | None
    batch: int | None
    beam: int
    memory: str | None
    measure: bool
    probe: bool
    changes: tuple[str, ...]
    json: Path | None
    png: Path | None


def report_cost(name: str, options: CostOptions) -> None:
    """Compute and print.  Raises QKVError before computing if an option cannot be used."""
    lengths = [None] if options.length is None else parse_lengths(options.length)
    for path in filter(None, (options.json, options.png)):
        check_writable(path)
    subjects = [read_subject(name, options.changes, length, options.batch) for length in lengths]
    print(f"{name}: {subjects[0].recipe.task}, model {subjects[0].recipe.model.kind}")
    for note in subjects[0].notes:
        print(f"  assumed: {note}")
    costs = []
    for subject in subjects:
        cost = estimate_cost(subject.recipe.model, subject.sizes)
        costs.append(cost)
        print()
        for line in describe_cost(cost, options.beam):
            print(line)
    if options.json is not None:
        write_text(
            options.json, json.dumps(_to_dict(subjects[0], costs), indent=2, ensure_ascii=False) + "\n"
        )


def parse_lengths(text: str) -> list[int]:
    """The lengths of `--length`, in ascending order.

    Args:
        text: whole numbers separated by commas, with k for 1024 and m for 1024².

    Raises:
        BadRecipe: one is no length.
    """
    return sorted(set(_iterate_lengths(text)))


def _iterate_lengths(text: str) -> Iterator[int]:
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)([km]?)\s*", part.lower())
        if match is None or len(match[1]) > MAX_DIGITS or int(match[1]) < 1:
            raise BadRecipe(
                f"--length takes numbers of tokens like 512 or 1k,4k,16k, got {part.strip()[:40]!r}"
            )
        yield int(match[1]) * MULTIPLES[match[2]]


def _to_dict(subject: Subject, costs: list[Cost]) -> dict[str, object]:
    return {
        "name": subject.name,
        "task": subject.recipe.task,
        "model": subject.recipe.model.model_dump(mode="json"),
        "assumed": list(subject.notes),
        "costs": [cost.to_dict() for cost in costs],
    }
