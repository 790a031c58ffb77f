"""Progress of long work: a live bar on a terminal, plain lines elsewhere, silence where nobody asked."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """What long work reports to."""

    def update(self, done: int, note: str = "") -> None:
        """`done` units are finished in all; `note` is a few words beside the bar."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        ...


class Plain:
    """One line at most every `every` seconds, for logs."""

    def __init__(self, title: str, total: int | None, every: float = 10.0) -> None:
        self.title, self.total, self.every = title, total, every
        self.last = time.monotonic()
        self.first: tuple[float, int] | None = None

    def update(self, done: int, note: str = "") -> None:
        """Print where the work stands, unless a line was printed just now."""
        now = time.monotonic()
        self.first = self.first or (now, done)
        if now - self.last >= self.every:
            self.last = now
            of = f"/{self.total:,}" if self.total else ""
            self.say(", ".join(filter(None, (f"{self.title} {done:,}{of}", note, self._left(now, done)))))

    def _left(self, now: float, done: int) -> str:
        begin, had = self.first or (now, done)
        if not self.total or done <= had:
            return ""
        seconds = (now - begin) / (done - had) * (self.total - done)
        return f"{timedelta(seconds=round(seconds))} left"

    def say(self, line: str) -> None:
        """Print the line to stderr."""
        print(line, file=sys.stderr, flush=True)


class Silent:
    """Reports nothing."""

    def update(self, done: int, note: str = "") -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""


class _Live:
    def __init__(self, bar: "object", task: "object") -> None:
        self.bar, self.task = bar, task

    def update(self, done: int, note: str = "") -> None:
        self.bar.update(self.task, completed=done, note=note)  # pyright: ignore[reportAttributeAccessIssue]

    def say(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def progress(title: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Progress]:
    """A progress report on stderr: live with time left on a terminal, plain lines in a log, nothing when
    `quiet`.
    """
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Plain(title, total)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        columns += (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Live(bar, bar.add_task(title, total=total, note=""))
