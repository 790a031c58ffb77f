"""Stopping on request: Ctrl-C and SIGTERM wait for the present update to end, so that it can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, the first signal sets `is_requested`; the second raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._raises_at_once = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {
                number: signal.signal(number, self._handle_signal) for number in SIGNALS
            }
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def raise_on_first_signal(self) -> Iterator[None]:
        """Raise KeyboardInterrupt on the first signal inside the block, or at its start after an earlier one.

        For work that can be repeated, such as validation.
        """
        self._raises_at_once = True
        try:
            if self.is_requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises_at_once = False

    def _handle_signal(self, _number: int, _frame: FrameType | None) -> None:
        is_repeated, self.is_requested = self.is_requested, True
        if is_repeated or self._raises_at_once:
            raise KeyboardInterrupt
