"""Output files that are complete or unchanged; links, permissions and special files are respected."""

import errno
import io
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from qkv.atomic_files import open_temporary
from qkv.errors import BadData

_MAX_LINKS = 40


@contextmanager
def open_output(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file whose content is at `path` when the block ends without an error.

    A regular file is replaced in one step, so that a failure does not change it.  It keeps its permissions,
    owner and group; those of a new file follow the umask.  A symbolic link is followed.  A device, pipe or
    socket is written to.

    Args:
        path: The path of the file.

    Yields:
        The open file.

    Raises:
        OSError: It cannot be written.
    """
    with _open(Path(path)) as file:
        yield file


@contextmanager
def open_text_output(path: str | Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8, as `open_output` does.

    Args:
        path: The path of the file.

    Yields:
        The open file.
    """
    with open_output(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


def check_output(path: str | Path) -> None:
    """Check that `open_output` can write a file, before the work whose result it will hold.

    Args:
        path: The path of the file.

    Raises:
        OSError: It cannot be written.
    """
    output = Path(path)
    status = _read_status(output)
    if status is None or stat.S_ISREG(status.st_mode):
        target = Path(os.path.realpath(output))
        if status is None or _is_replaceable(target, status):
            with open_temporary(target, 0o600):
                pass


@contextmanager
def convert_write_errors(path: str | Path, label: str = "") -> Iterator[None]:
    """Convert an OSError of the block to a BadData that names the path.

    BrokenPipeError passes: the reader of a pipe has closed it on purpose.

    Args:
        path: The path of the file.
        label: What the file is, such as "the trace ".
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadData(
            f"cannot write {label}{path}: {error.strerror or error}; choose another path or free some space"
        ) from None


def expand_home(path: str | Path) -> Path:
    """Expand `~` and `~user`.

    Args:
        path: A path.

    Returns:
        The expanded path; the same path where it exists literally or there is no such user.
    """
    literal = Path(path)
    if os.path.lexists(literal):
        return literal
    try:
        return literal.expanduser()
    except RuntimeError:
        return literal


def _read_status(path: Path) -> os.stat_result | None:
    """The status of an existing file; None for a new one.  Raises OSError if it cannot be written."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return status


def _open(path: Path) -> AbstractContextManager[Any]:
    status = _read_status(path)
    descriptor = _find_descriptor(path)
    if status is not None and descriptor is not None:
        return open(os.dup(descriptor), "wb")
    if status is not None and stat.S_ISSOCK(status.st_mode):
        return _connect(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return open(path, "wb")
    target = Path(os.path.realpath(path))
    if status is not None and not _is_replaceable(target, status):
        return _open_and_overwrite(target)
    return _open_and_replace(target, status)


def _find_descriptor(path: Path) -> int | None:
    """The file descriptor of this process that a path such as /dev/stdout or /dev/fd/63 refers to."""
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if path.name.isdecimal() and folder in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


@contextmanager
def _connect(path: Path) -> Iterator[BinaryIO]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with connection.makefile("wb") as file:
            yield file


def _is_replaceable(target: Path, status: os.stat_result) -> bool:
    """Whether a new file can replace it with the same owner and group, without breaking a hard link."""
    if os.name != "posix":
        return True
    may_keep_owner = os.geteuid() == 0 or (
        status.st_uid == os.geteuid() and status.st_gid in {os.getegid(), *os.getgroups()}
    )
    return status.st_nlink == 1 and may_keep_owner and os.access(target.parent, os.W_OK | os.X_OK)


@contextmanager
def _open_and_overwrite(target: Path) -> Iterator[Any]:
    """Collects the content in a temporary file and copies it into the target at the end."""
    with tempfile.TemporaryFile() as content:
        yield content
        content.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _open_and_replace(target: Path, status: os.stat_result | None) -> Iterator[BinaryIO]:
    with open_temporary(target, 0o666 if status is None else 0o600) as temporary:
        yield temporary.file
        if status is not None:
            temporary.file.flush()
            _copy_attributes(target, temporary.file.fileno(), status)
        temporary.sync()
        temporary.replace_target()


def _copy_attributes(source: Path, handle: int, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    os.fchown(handle, status.st_uid, status.st_gid)
    for name in os.listxattr(source) if hasattr(os, "listxattr") else ():
        with suppress(OSError):  # some attributes can be set by the system only
            os.setxattr(handle, name, os.getxattr(source, name))
    os.fchmod(handle, stat.S_IMODE(status.st_mode))
