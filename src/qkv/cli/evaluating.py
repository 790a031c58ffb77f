"""`qkv evaluate`: the scores of a run, as a table and as JSON."""

import json
from pathlib import Path

from qkv.data import ParallelData, read_pairs
from qkv.errors import BadData
from qkv.progress import progress
from qkv.task.files import check_writable, write_text
from qkv.task.pairs import test_pairs
from qkv.task.runs import load
from qkv.task.score import Report

NAMES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)", "exact": "exact match"}


def evaluate_run(
    run: Path,
    source: Path | None,
    target: Path | None,
    beam: int | None,
    tokenize: str | None,
    to: Path | None,
    quiet: bool,
) -> None:
    """Score the run, print the table, write the JSON."""
    if (source is None) != (target is None):
        raise BadData(
            "--source and --target go together: name both files, or neither for the recipe's test data"
        )
    if to is not None:
        check_writable(to)
    translator = load(run)
    if source and target:
        pairs = read_pairs(ParallelData(source=str(source), target=str(target)))
    else:
        pairs = test_pairs(translator.recipe.data)
    with progress("evaluate", len(pairs), quiet=quiet) as bar:
        report = translator.evaluate(pairs, beam=beam, tokenize=tokenize, done=bar.update)
    _show(report, len(pairs))
    if to is not None:
        write_text(
            to, json.dumps({"run": str(run), "sentences": len(pairs), **report._asdict()}, indent=2) + "\n"
        )


def _show(report: Report, sentences: int) -> None:
    print(f"{sentences:,} sentences")
    for name, value in report.scores.items():
        print(f"  {NAMES[name]:<22} {value:6.2f}   {report.signatures.get(name, '')}".rstrip())
    print(f"translations and references compared in {report.normalised}")
    print("by words in the source")
    for row in report.buckets:
        print(
            f"  {row['words']:>6} words {row['sentences']:>6} sentences   BLEU {row['bleu']:6.2f}   "
            f"exact {row['exact']:6.2f}"
        )
