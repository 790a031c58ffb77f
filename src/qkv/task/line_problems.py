"""Input lines that a model cannot use as they are: warned about, counted, or refused."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from qkv.errors import BadData
from qkv.progress import NoProgress, Progress

MAX_LISTED = 20  # a file in the wrong language would fill the terminal


class LineWarning(UserWarning):
    """A line could not be used as it is."""


class LineProblem(NamedTuple):
    """A line that cannot be used as it is.

    Args:
        line: its number, counted from 1.
        kind: what is wrong with it, in a word or two.
        warning: what is wrong with it and what was done instead.
        error: what is wrong with it and how to avoid that.
        summary: the kind and what was done, for the count of such lines.
    """

    line: int
    kind: str
    warning: str
    error: str
    summary: str


OnProblem = Callable[[LineProblem], None]


def raise_problem(problem: LineProblem) -> None:
    """Raise BadData for the problem."""
    raise BadData(problem.error)


def warn_of_problem(problem: LineProblem) -> None:
    """Issue a LineWarning for the problem."""
    warnings.warn(problem.warning, LineWarning, stacklevel=2)


def select_lines(problems: Iterable[LineProblem], kind: str) -> list[int]:
    """The numbers of the lines with this kind of problem."""
    return [problem.line for problem in problems if problem.kind == kind]


class ProblemReporter:
    """Prints the first problems as they come, and counts all of them.

    Args:
        report: where to print.
        is_strict: raise an error at the first problem instead.
        verb: what is done with the lines, as a participle such as "translated".
    """

    def __init__(self, report: Progress, is_strict: bool, verb: str) -> None:
        self.report, self.is_strict, self.verb = report, is_strict, verb
        self.counts: Counter[str] = Counter()

    def __call__(self, problem: LineProblem) -> None:
        """Count the problem, and print it if it is among the first.

        Raises:
            BadData: the reporter is strict.
        """
        if self.is_strict:
            raise_problem(problem)
        self.counts[problem.summary] += 1
        if self.counts.total() <= MAX_LISTED:
            self._print(problem.warning)
        elif self.counts.total() == MAX_LISTED + 1:
            self._print("more such lines follow; they are counted, not listed")

    def print_summary(self, total: int) -> None:
        """Print how many of all lines had a problem; print nothing if none had."""
        if self.counts:
            reasons = ", ".join(f"{count:,} {summary}" for summary, count in sorted(self.counts.items()))
            count = self.counts.total()
            self._print(f"{count:,} of {total:,} lines could not be {self.verb} as they are: {reasons}")

    def _print(self, line: str) -> None:
        if isinstance(self.report, NoProgress):  # --quiet leaves out progress, not warnings
            print(f"qkv: {line}", file=sys.stderr, flush=True)
        else:
            self.report.print_line(f"qkv: {line}")
