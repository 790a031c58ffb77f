"""`qkv translate`: lines from a file or stdin to lines in a file or on stdout."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qkv.cli.output import STANDARD, opened
from qkv.cli.problems import Problems
from qkv.data import decode_lines, decode_stream, read_lines
from qkv.errors import BadData
from qkv.progress import progress
from qkv.task.runs import load
from qkv.task.translate.translator import BLOCK, Translated

MOST_TRACED = 100


def translate_lines(  # noqa: PLR0913 -- one for each option
    run: Path,
    file: Path | None,
    output: Path | None,
    beam: int | None,
    n_best: int,
    trace: Path | None,
    quiet: bool,
    *,
    strict: bool = False,
    device: str = "cpu",
) -> None:
    """Translate, and write what was asked for."""
    translator = load(run, device=device)
    file = None if file == STANDARD else file
    interactive = file is None and sys.stdin is not None and sys.stdin.isatty()
    lines = list(read_lines(file)) if file else _stdin(interactive)
    if trace is not None:
        lines = _few(list(lines))
    total = len(lines) if isinstance(lines, list) else None
    with progress("translate", total, quiet=quiet or interactive) as report:
        problems = Problems(report, strict)
        answers = translator.n_best(
            lines,
            beam=beam,
            n=n_best,
            capture=trace is not None,
            block=1 if interactive else BLOCK,
            done=lambda n: report.update(n),
            on_problem=problems,
        )
        if trace is not None:
            answers = list(answers)
            translator.trace_of(answers, beam=beam).save(trace)
        with opened(output) as out:
            count = _write(out, answers, n_best, flush=interactive)
        problems.summarise(count)


def _write(out: Any, answers: Iterable[list[Translated]], n_best: int, *, flush: bool) -> int:
    """Write the answers of every line; the number of lines."""
    number = 0
    for number, best in enumerate(answers, start=1):
        for one in best[:n_best]:
            out.write(f"{one.text}\n" if n_best == 1 else f"{number} ||| {one.text} ||| {one.score:.4f}\n")
        if flush:
            out.flush()
    return number


def _stdin(interactive: bool) -> Iterator[str]:
    """The lines of stdin; those of a terminal as they come."""
    if sys.stdin is None:
        raise BadData("stdin is closed: name a file, or pipe lines in")
    binary = sys.stdin.buffer
    lines = decode_lines(binary, "stdin") if interactive else decode_stream(binary, "stdin")
    return (line.text for line in lines)


def _few(lines: list[str]) -> list[str]:
    if len(lines) > MOST_TRACED:
        raise BadData(f"--trace keeps every weight: give it at most {MOST_TRACED} lines, got {len(lines):,}")
    return lines
