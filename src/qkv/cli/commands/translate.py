"""`qkv translate`: lines from a file or stdin to lines in a file or on stdout."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import STANDARD, open_output
from qkv.errors import BadData
from qkv.progress import show_progress
from qkv.task.line_problems import ProblemReporter
from qkv.task.output_files import check_writable
from qkv.task.run_directory import load_for_command
from qkv.task.translate.translator import BLOCK, Translated

MAX_TRACED = 100


def translate_lines(  # noqa: PLR0913 -- one for each option
    run: Path,
    file: Path | None,
    output: Path | None,
    beam: int | None,
    n_best: int,
    trace: Path | None,
    quiet: bool,
    *,
    occlude: bool = False,
    strict: bool = False,
    device: str = "cpu",
) -> None:
    """Translate every line, and write the translations and the trace."""
    if occlude and trace is None:
        raise BadData("--occlude adds to a trace: pass --trace FILE too")
    translator = load_for_command("translate", run, device)
    file = None if file == STANDARD else file
    is_interactive = file is None and sys.stdin is not None and sys.stdin.isatty()
    lines = read_input_lines(file, is_interactive=is_interactive)
    lines = list(lines) if file else lines
    check_writable(trace)
    if trace is not None:
        lines = limit_traced_lines(list(lines), MAX_TRACED)
    total = len(lines) if isinstance(lines, list) else None
    with show_progress("translate", total, quiet=quiet or is_interactive) as report:
        problems = ProblemReporter(report, strict, "translated")
        answers = translator.n_best(
            lines,
            beam=beam,
            n=n_best,
            capture=trace is not None,
            block=1 if is_interactive else BLOCK,
            on_progress=lambda n: report.update(n),
            on_problem=problems,
        )
        if trace is not None:
            answers = list(answers)
            translator.build_trace(answers, beam=beam, occlude=occlude).save(trace)
        with open_output(output) as out:
            count = _write(out, answers, n_best, flush=is_interactive)
        problems.print_summary(count)


def _write(out: Any, answers: Iterable[list[Translated]], n_best: int, *, flush: bool) -> int:
    """Write the translations of every line; returns the number of lines."""
    number = 0
    for number, best in enumerate(answers, start=1):
        for one in best[:n_best]:
            out.write(f"{one.text}\n" if n_best == 1 else f"{number} ||| {one.text} ||| {one.score:.4f}\n")
        if flush:
            out.flush()
    return number
