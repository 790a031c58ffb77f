"""`qkv compare`: runs of one task in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cli.output_checks import check_picture_and_json
from qkv.cost.comparison import (
    check_comparable,
    find_common_quality,
    find_seconds_to_quality,
    format_comparison,
    make_rows,
    parse_quality,
    read_compared_run,
)
from qkv.cost.score_settings import list_differences
from qkv.cost.significance import compare_on_test_data, format_test_scores
from qkv.errors import BadRecipe
from qkv.task.output_files import write_json
from qkv.view.line_chart import ChartLine, draw_lines


class CompareOptions(NamedTuple):
    """The options of `qkv compare`; see `qkv.cli.cost_options.compare`."""

    reach: str | None
    markdown: bool
    test: bool
    png: Path | None
    json: Path | None


def compare_runs(names: Sequence[str], options: CompareOptions) -> None:
    """Print the table, and write it as JSON and as a picture.

    Raises QKVError if the runs cannot be compared, or a file cannot be written.
    """
    if len(names) < 2:
        raise BadRecipe("qkv compare takes two runs or more: qkv compare RUN RUN")
    asked = None if options.reach is None else parse_quality(options.reach)
    check_picture_and_json(options.png, options.json)
    runs = [read_compared_run(name) for name in names]
    check_comparable(runs)
    quality = find_common_quality(runs) if asked is None else asked
    for line in format_comparison(make_rows(runs, quality), options.markdown):
        print(line)
    differences = list(list_differences({run.name: run.settings for run in runs}))
    for line in differences:
        print(line)
    results = [{**run._asdict(), "seconds_to_quality": find_seconds_to_quality(run, quality)} for run in runs]
    result: dict[str, Any] = {
        "monitor": runs[0].monitor,
        "quality": quality,
        "runs": results,
        "differences": differences,
    }
    if options.png is not None:
        lines = [ChartLine(run.name, run.curve) for run in runs]
        draw_lines(options.png, lines, "seconds of training", f"held-out {runs[0].monitor}")
    if options.test:
        result["test"] = _print_test_scores(names, runs[0].task)
    if options.json is not None:
        write_json(options.json, result)


def _print_test_scores(names: Sequence[str], task: str) -> dict[str, Any]:
    """Print the scores on the test data; returns them as plain data."""
    comparison = compare_on_test_data(names, task)
    print()
    for line in format_test_scores(names, comparison):
        print(line)
    return {**comparison._asdict(), "scores": [each._asdict() for each in comparison.scores]}
