"""Handles standard streams that are closed, broken or not UTF-8, and signals that end the process."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
BROKEN_PIPE = 1  # the exit status of typer


def prepare_streams() -> None:
    """Make stdout and stderr safe to print to.

    Closed ones become the null device; those that are no terminal are written as UTF-8.  stdin stays None if
    it is closed, and so do sys.__stdout__ and sys.__stderr__: commands that must read or write there refuse.
    """
    _open_closed_streams()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _open_null())
        elif hasattr(stream, "reconfigure"):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _open_closed_streams() -> None:
    """Open the null device for every closed standard stream.

    Otherwise the next file gets its number, and what libraries print goes into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit, so that temporary files are removed.

    A signal that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    default_signals = [number for number in SIGNALS if handlers[number] is signal.SIG_DFL]
    for number in default_signals:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in default_signals:
            signal.signal(number, handlers[number])


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def exit_quietly() -> NoReturn:
    """Exit after the reader of stdout closed it; Python flushes at exit, which would print an error."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = _open_null()
    sys.exit(BROKEN_PIPE)


def _open_null() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
