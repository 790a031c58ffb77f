"""Lines that could not be translated as they stand: warnings as they come, a count at the end."""

import sys
from collections import Counter

from qkv.progress import Progress, Silent
from qkv.task.translate.sources import Problem, refuse

SHOWN = 20  # a file in the wrong language would fill the terminal
DONE = {"too long": "too long, so cut", "unknown": "unknown to the model, so left empty"}


class Problems:
    """Says each of the first problems at once, with its line, and counts them all.  strict: refuses the
    first.
    """

    def __init__(self, report: Progress, strict: bool) -> None:
        self.report, self.strict = report, strict
        self.counts: Counter[str] = Counter()

    def __call__(self, problem: Problem) -> None:
        """Take in one problem.  Raises BadData where `strict`."""
        if self.strict:
            refuse(problem)
        self.counts[problem.kind] += 1
        if self.counts.total() <= SHOWN:
            self._say(problem.warning)
        elif self.counts.total() == SHOWN + 1:
            self._say("more such lines follow; they are counted, not listed")

    def summarise(self, total: int) -> None:
        """Say how many of all lines had a problem; nothing where none had."""
        if self.counts:
            reasons = ", ".join(f"{count:,} {DONE[kind]}" for kind, count in sorted(self.counts.items()))
            count = self.counts.total()
            self._say(f"{count:,} of {total:,} lines could not be translated as they stand: {reasons}")

    def _say(self, line: str) -> None:
        if isinstance(self.report, Silent):  # --quiet leaves out progress, not warnings
            print(f"qkv: {line}", file=sys.stderr, flush=True)
        else:
            self.report.say(f"qkv: {line}")
