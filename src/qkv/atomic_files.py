"""Atomic writes: a temporary file beside the target is forced to disk and then replaces it in one step."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # not on Windows, where files of killed processes stay
    fcntl = None

_TEMPORARY_NAME = re.compile(r"\..*\.([0-9]+)-[0-9a-f]{8}\.qkv-tmp", re.S)
_NAME_PART = 50  # characters of the target's name in that of the temporary file, which may have 255 bytes


class TemporaryFile(NamedTuple):
    """An open file that will replace its target.

    Args:
        file: The open file.
        path: Its path, beside the target.
        target: The path of the file that it will replace.
    """

    file: BinaryIO
    path: Path
    target: Path

    def sync(self) -> None:
        """Force the written data to disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def replace_target(self) -> None:
        """Close the file and move it to the path of the target."""
        self.file.close()
        os.replace(self.path, self.target)


@contextmanager
def open_temporary(target: Path, mode: int = 0o666) -> Iterator[TemporaryFile]:
    """Open a temporary file, which is removed at the end of the block unless it has replaced its target.

    It also removes the files of killed processes in the folder.

    Args:
        target: The path of the file to write.
        mode: Permissions of the file, reduced by the umask.

    Yields:
        The open file.

    Raises:
        OSError: The folder cannot be written.
    """
    remove_abandoned_files(target.parent)
    handle, path = _create(target, mode)
    try:
        with open(handle, "wb") as file:
            yield TemporaryFile(file, path, target)
    finally:
        path.unlink(missing_ok=True)  # missing where it has replaced the target


def remove_abandoned_files(folder: Path) -> None:
    """Remove the temporary files of processes that were killed.

    Args:
        folder: The folder.
    """
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _TEMPORARY_NAME.fullmatch(name)
            if match and not _is_running(int(match[1][:18])) and _is_unlocked(folder / name):
                (folder / name).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Force the entries of a directory to disk, so that replaced files survive a crash of the system.

    Args:
        path: The directory.
    """
    if os.name == "posix":  # elsewhere a directory cannot be opened, and a rename needs no flush
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(target: Path, mode: int) -> tuple[int, Path]:
    """Create a locked file beside the target; the lock shows that its process is alive."""
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


def _is_unlocked(path: Path) -> bool:
    assert fcntl is not None
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
