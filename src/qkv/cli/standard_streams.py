"""Standard streams that are closed, broken or not UTF-8, and signals that end the process."""

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
BROKEN_PIPE = 1  # as typer ends


def prepare_streams() -> None:
    """Make stdout and stderr safe to print to: closed ones lead nowhere, output that is no terminal is UTF-8.

    stdin stays None where it is closed, and so do sys.__stdout__ and sys.__stderr__: commands whose purpose
    is to read or write there refuse.
    """
    _occupy_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere())
        elif hasattr(stream, "reconfigure"):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _occupy_closed() -> None:
    """Open the null device where a standard stream is closed: else the next file takes its number, and what
    libraries print there goes into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise SystemExit, so that temporary files are removed.

    A signal that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number in SIGNALS if before[number] is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def end_quietly() -> NoReturn:
    """Exit after the reader of stdout has gone; Python flushes at exit, and would complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = _nowhere()
    sys.exit(BROKEN_PIPE)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
