"""Progress of long work: a live bar on a terminal, plain lines in a log, or nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """The receiver of progress reports."""

    def update(self, completed: int, note: str = "") -> None:
        """Report progress.

        Args:
            completed: The number of units completed so far.
            note: A few words beside the bar.
        """
        ...

    def print_line(self, line: str) -> None:
        """Print a line that stays, above the bar.

        Args:
            line: The text.
        """
        ...


class LineProgress:
    """Prints at most one line per interval, for logs.

    Args:
        title: The name of the work.
        total: The number of units; None if unknown.
        interval: Seconds between two lines.
    """

    def __init__(self, title: str, total: int | None, interval: float = 10.0) -> None:
        self.title, self.total, self.interval = title, total, interval
        self.last = time.monotonic()
        self.first: tuple[float, int] | None = None

    def update(self, completed: int, note: str = "") -> None:
        """Print a line, unless the interval since the last one has not passed.

        Args:
            completed: The number of units completed so far.
            note: A few words at the end of the line.
        """
        now = time.monotonic()
        self.first = self.first or (now, completed)
        if now - self.last >= self.interval:
            self.last = now
            total = f"/{self.total:,}" if self.total else ""
            fields = (f"{self.title} {completed:,}{total}", note, self._format_time_left(now, completed))
            self.print_line(", ".join(filter(None, fields)))

    def _format_time_left(self, now: float, completed: int) -> str:
        begin, first_completed = self.first or (now, completed)
        if not self.total or completed <= first_completed:
            return ""
        seconds = (now - begin) / (completed - first_completed) * (self.total - completed)
        return f"{timedelta(seconds=round(seconds))} left"

    def print_line(self, line: str) -> None:
        """Print the line to stderr.

        Args:
            line: The text.
        """
        print(line, file=sys.stderr, flush=True)


class NoProgress:
    """Reports nothing."""

    def update(self, completed: int, note: str = "") -> None:
        """Do nothing."""

    def print_line(self, line: str) -> None:
        """Do nothing."""


class _BarProgress:
    """Draws a bar of rich."""

    def __init__(self, bar: "object", task: "object") -> None:
        self.bar, self.task = bar, task

    def update(self, completed: int, note: str = "") -> None:
        self.bar.update(self.task, completed=completed, note=note)  # pyright: ignore[reportAttributeAccessIssue]

    def print_line(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def show_progress(title: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Progress]:
    """Show progress on stderr: a bar with the time left on a terminal, plain lines in a log.

    Args:
        title: The name of the work.
        total: The number of units; None if unknown.
        quiet: Whether to show nothing.

    Yields:
        The receiver of reports.
    """
    if quiet:
        yield NoProgress()
    elif not sys.stderr.isatty():
        yield LineProgress(title, total)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        columns += (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _BarProgress(bar, bar.add_task(title, total=total, note=""))
