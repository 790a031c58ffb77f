"""Locks a run directory for one training at a time, until its process ends or dies."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qkv.errors import BadRun
from qkv.train import STATE

LOCK = STATE.with_name("lock")
ATTEMPTS = 10  # another process may remove the directory between two of our steps
UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@contextmanager
def lock_directory(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory within the block; create the directory if it is missing.

    At the end the lock file is removed, and so are directories that were created and are still empty.  On a
    file system without locks nothing is locked.

    Args:
        run: the run directory.

    Raises:
        BadRun: another process holds the lock, or the directory cannot be written.
    """
    created = [path for path in (run / LOCK.parent, run) if not path.exists()]
    handle = _acquire(run)
    try:
        yield
    finally:
        _release(run, handle)
        for path in created:
            with suppress(OSError):  # it is not empty, or another process uses it
                path.rmdir()


def _acquire(run: Path) -> int:
    path = run / LOCK
    for _ in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadRun(
                f"cannot write the run directory {run}: {error.strerror}; choose another --out"
            ) from None
        if not _try_lock(handle):
            os.close(handle)
            raise BadRun(
                f"{run} is in use: another process is training into it. Wait until it ends, or choose "
                "another --out"
            )
        if _is_same_file(handle, path):
            return handle
        os.close(handle)
    raise BadRun(
        f"cannot lock the run directory {run}: another process keeps removing it; choose another --out"
    )


def _is_same_file(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _release(run: Path, handle: int) -> None:
    if os.name == "posix":  # removed before it is unlocked: then another process may own it
        (run / LOCK).unlink(missing_ok=True)
        os.close(handle)
    else:
        os.close(handle)
        with suppress(OSError):  # it is open in another process
            (run / LOCK).unlink(missing_ok=True)


def _try_lock(handle: int) -> bool:
    """Lock the file without waiting; False where another process holds it."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        return error.errno in UNSUPPORTED
    return True
