"""Output files: complete or unchanged, with links, permissions and special files respected."""

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

_MOST_LINKS = 40


@contextmanager
def open_output(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file whose content is at `path` when the block ends without an error.

    A regular file is replaced in one step and a failure leaves what was there; its permissions, owner and
    group stay, and those of a new file follow the umask.  A symbolic link is followed.  A device, pipe or
    socket is written into.  Raises OSError where it cannot be written.
    """
    with _opened(Path(path)) as file:
        yield file


@contextmanager
def open_text_output(path: str | Path) -> Iterator[TextIO]:
    """The same for UTF-8 text."""
    with open_output(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


def check_output(path: str | Path) -> None:
    """Raise OSError for what `open_output` could not write, before the work whose result it is to hold."""
    place = Path(path)
    status = _status(place)
    if status is None or stat.S_ISREG(status.st_mode):
        target = Path(os.path.realpath(place))
        if status is None or _is_replaceable(target, status):
            with open_temporary(target, 0o600):
                pass


@contextmanager
def write_errors(path: str | Path, label: str = "") -> Iterator[None]:
    """Turn an OSError into BadData that names the path, after a label such as "the trace ".

    BrokenPipeError passes: the reader of a pipe has what it wanted.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadData(f"cannot write {label}{path}: {error.strerror or error}") from None


def expand_home(path: str | Path) -> Path:
    """The path with `~` and `~user` expanded; taken literally where it exists or there is no such user."""
    literal = Path(path)
    if os.path.lexists(literal):
        return literal
    try:
        return literal.expanduser()
    except RuntimeError:
        return literal


def _status(path: Path) -> os.stat_result | None:
    """The status of what is there already, None if nothing is.  Raises OSError if it cannot be written."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return status


def _opened(path: Path) -> AbstractContextManager[Any]:
    status = _status(path)
    number = _descriptor(path)
    if status is not None and number is not None:
        return open(os.dup(number), "wb")
    if status is not None and stat.S_ISSOCK(status.st_mode):
        return _socket(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return open(path, "wb")
    target = Path(os.path.realpath(path))
    if status is not None and not _is_replaceable(target, status):
        return _rewritten(target)
    return _replaced(target, status)


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file that a name such as /dev/stdout or /dev/fd/63 stands for."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if path.name.isdecimal() and folder in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


@contextmanager
def _socket(path: Path) -> Iterator[BinaryIO]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with connection.makefile("wb") as file:
            yield file


def _is_replaceable(target: Path, status: os.stat_result) -> bool:
    """Whether another file can take its name with the same owner and group, and no other name is lost."""
    if os.name != "posix":
        return True
    may_keep_owner = os.geteuid() == 0 or (
        status.st_uid == os.geteuid() and status.st_gid in {os.getegid(), *os.getgroups()}
    )
    return status.st_nlink == 1 and may_keep_owner and os.access(target.parent, os.W_OK | os.X_OK)


@contextmanager
def _rewritten(target: Path) -> Iterator[Any]:
    """Collects the content elsewhere and copies it over the file's at the end."""
    with tempfile.TemporaryFile() as draft:
        yield draft
        draft.seek(0)
        with target.open("wb") as file:
            shutil.copyfileobj(draft, file)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _replaced(target: Path, status: os.stat_result | None) -> Iterator[BinaryIO]:
    with open_temporary(target, 0o666 if status is None else 0o600) as draft:
        yield draft.file
        if status is not None:
            draft.file.flush()
            _copy_attributes(target, draft.file.fileno(), status)
        draft.sync()
        draft.move()


def _copy_attributes(source: Path, handle: int, status: os.stat_result) -> None:
    if os.name != "posix":
        return
    os.fchown(handle, status.st_uid, status.st_gid)
    for name in os.listxattr(source) if hasattr(os, "listxattr") else ():
        with suppress(OSError):  # attributes of the system, which only it may set
            os.setxattr(handle, name, os.getxattr(source, name))
    os.fchmod(handle, stat.S_IMODE(status.st_mode))
