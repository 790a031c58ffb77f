"""Memory that was freed, but that the C library keeps: given back to the system as it grows.

glibc's malloc keeps freed blocks for later tensors.  Where batches have many sizes, later tensors seldom fit
them, and a process grows to many times the size of its tensors.  docs/training.md has measurements.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

STATM = Path("/proc/self/statm")
GROWTH = 2.0  # giving memory back costs time: the next update has to ask for it again
SETTLING = 4  # updates after which the process has the size that its batches need


def find_trim() -> Callable[[int], int] | None:
    """glibc's function that gives freed memory back; None with another C library or another system."""
    try:
        return ctypes.CDLL(None).malloc_trim if STATM.exists() else None
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of the whole process
        return None


def read_resident_bytes() -> int:
    """The memory of this process that is in use, in bytes."""
    return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class FreedMemory:
    """Gives freed memory back where the process has become `GROWTH` times as large as its batches need.

    Args:
        trim: gives freed memory back; None never does.
        measure: the size of the process in bytes.
    """

    def __init__(
        self, trim: Callable[[int], int] | None, measure: Callable[[], int] = read_resident_bytes
    ) -> None:
        self.trim, self.measure = trim, measure
        self.updates, self.needed = 0, 0

    def give_back_if_grown(self) -> None:
        """Give freed memory back if the process has grown; to be called after every update."""
        if self.trim is None:
            return
        self.updates += 1
        if self.updates <= SETTLING:
            self.needed = self.measure()
        elif self.measure() > GROWTH * self.needed:
            self.trim(0)
            self.updates = 0
