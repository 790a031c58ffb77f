"""`qkv translate`: lines from a file or stdin to lines in a file or on stdout."""

import sys
from collections.abc import Iterator
from pathlib import Path

from qkv.cli.output import STANDARD, opened
from qkv.data import decode_lines, decode_stream, read_lines
from qkv.errors import BadData
from qkv.progress import progress
from qkv.task.runs import load
from qkv.task.translator import BLOCK

MOST_TRACED = 100


def translate_lines(
    run: Path,
    file: Path | None,
    output: Path | None,
    beam: int | None,
    n_best: int,
    trace: Path | None,
    quiet: bool,
) -> None:
    """Translate, and write what was asked for."""
    translator = load(run)
    file = None if file == STANDARD else file
    interactive = file is None and sys.stdin is not None and sys.stdin.isatty()
    lines = list(read_lines(file)) if file else _stdin(interactive)
    if trace is not None:
        lines = _few(list(lines))
        translator.trace(lines, beam=beam).save(trace)
    total = len(lines) if isinstance(lines, list) else None
    with opened(output) as out, progress("translate", total, quiet=quiet or interactive) as report:
        answers = translator.n_best(
            lines, beam=beam, n=n_best, block=1 if interactive else BLOCK, done=lambda n: report.update(n)
        )
        for number, best in enumerate(answers, start=1):
            for one in best[:n_best]:
                out.write(
                    f"{one.text}\n" if n_best == 1 else f"{number} ||| {one.text} ||| {one.score:.4f}\n"
                )
            if interactive:
                out.flush()


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
