"""`qkv evaluate`: the scores of a run, as a table and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from qkv.cli.problems import Problems
from qkv.data import ParallelData, read_pairs
from qkv.errors import BadData
from qkv.progress import progress
from qkv.task.files import check_writable, write_text
from qkv.task.runs import load
from qkv.task.translate.pairs import read_test_pairs
from qkv.task.translate.score import Report

SHOWN = 10
NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)", "exact": "exact match"}


def evaluate_run(  # noqa: PLR0913 -- one for each option
    run: Path,
    source: Path | None,
    target: Path | None,
    beam: int | None,
    tokenize: str | None,
    to: Path | None,
    quiet: bool,
    *,
    strict: bool = False,
    device: str = "cpu",
) -> None:
    """Score the run, print the table, write the JSON."""
    if (source is None) != (target is None):
        raise BadData(
            "--source and --target go together: name both files, or neither for the recipe's test data"
        )
    if to is not None:
        check_writable(to)
    translator = load(run, device=device)
    if source and target:
        pairs = read_pairs(ParallelData(source=str(source), target=str(target)))
    else:
        pairs = read_test_pairs(translator.recipe.data)
    with progress("evaluate", len(pairs), quiet=quiet) as bar:
        problems = Problems(bar, strict)
        report = translator.evaluate(
            pairs, beam=beam, tokenize=tokenize, done=bar.update, on_problem=problems
        )
        problems.summarise(len(pairs))
    _show(report, len(pairs))
    if to is not None:
        write_text(
            to, json.dumps({"run": str(run), "sentences": len(pairs), **report._asdict()}, indent=2) + "\n"
        )


def _show(report: Report, sentences: int) -> None:
    print(f"{sentences:,} sentences")
    for name, value in report.scores.items():
        print(f"  {NAMES[name]:<22} {value:6.2f}   {report.signatures.get(name, '')}".rstrip())
    for lines, what in ((report.truncated, "cut"), (report.empty, "left empty")):
        if lines:
            print(f"source lines that were {what}: {len(lines):,} ({_some(lines)})")
    print(report.comparison)
    print(f"by {report.unit} in the source")
    for row in report.buckets:
        length = f"{row[report.unit]:>6} {report.unit}"
        scores = f"BLEU {row['bleu']:6.2f}   exact {row['exact']:6.2f}"
        print(f"  {length} {row['sentences']:>6} sentences   {scores}")


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return shown if len(numbers) <= SHOWN else f"{shown} …"
