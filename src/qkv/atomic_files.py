"""Drafts: a file is written beside its target, forced to disk and moved over it in one step."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # not on Windows, where drafts of dead processes stay
    fcntl = None

_DRAFT = re.compile(r"\..*\.([0-9]+)-[0-9a-f]{8}\.qkv-tmp", re.S)
_NAME_PART = 50  # characters of the target's name in that of its draft: names have at most 255 bytes


class Draft(NamedTuple):
    """An open file that is to take the place of `target`."""

    file: BinaryIO
    path: Path
    target: Path

    def sync(self) -> None:
        """Force what was written to disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def move(self) -> None:
        """Close the file and move it over the target."""
        self.file.close()
        os.replace(self.path, self.target)


@contextmanager
def open_temporary(target: Path, mode: int = 0o666) -> Iterator[Draft]:
    """A draft for `target`; unless it was moved when the block ends, it is removed and the target unchanged.

    mode: permissions of the file, less the umask.  Removes the drafts of killed processes in the folder.
    Raises OSError where it cannot be written.
    """
    remove_abandoned_files(target.parent)
    handle, path = _create(target, mode)
    try:
        with open(handle, "wb") as file:
            yield Draft(file, path, target)
    finally:
        path.unlink(missing_ok=True)  # a moved draft has left this name


def remove_abandoned_files(folder: Path) -> None:
    """Remove drafts of processes that were killed."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _DRAFT.fullmatch(name)
            if match and not _is_running(int(match[1][:18])) and _is_unlocked(folder / name):
                (folder / name).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Force the names of files that were moved into this folder to disk."""
    if os.name == "posix":  # elsewhere a directory cannot be opened, and a rename needs no flush
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(target: Path, mode: int) -> tuple[int, Path]:
    """A new locked file beside the target; the lock tells others that its process lives."""
    name = f".{target.name[:_NAME_PART]}.{os.getpid()}-{secrets.token_hex(4)}.qkv-tmp"
    path = target.parent / name
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle, path


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_unlocked(draft: Path) -> bool:
    assert fcntl is not None
    try:
        handle = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
