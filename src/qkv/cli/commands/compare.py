"""`qkv compare`: runs of one task in one table."""

import json
from collections.abc import Sequence
from pathlib import Path

from qkv.cost.comparison import (
    check_comparable,
    find_common_quality,
    find_seconds_to_quality,
    format_comparison,
    make_rows,
    parse_quality,
    read_compared_run,
)
from qkv.errors import BadRecipe
from qkv.task.output_files import check_writable, write_text


def compare_runs(names: Sequence[str], reach: str | None, markdown: bool, json_file: Path | None) -> None:
    """Print the table, and write it as JSON.  Raises QKVError if the runs cannot be compared."""
    if len(names) < 2:
        raise BadRecipe("qkv compare takes two runs or more: qkv compare RUN RUN")
    asked = None if reach is None else parse_quality(reach)
    if json_file is not None:
        check_writable(json_file)
    runs = [read_compared_run(name) for name in names]
    check_comparable(runs)
    quality = find_common_quality(runs) if asked is None else asked
    for line in format_comparison(make_rows(runs, quality), markdown):
        print(line)
    if json_file is not None:
        results = [
            {**run._asdict(), "seconds_to_quality": find_seconds_to_quality(run, quality)} for run in runs
        ]
        result = {"monitor": runs[0].monitor, "quality": quality, "runs": results}
        write_text(json_file, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
