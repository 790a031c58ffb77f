"""Turns an error into one line and an exit status, and writes a log of an unexpected one."""

import errno
import os
import platform
import sys
import tempfile
import traceback

from qkv import __version__
from qkv.errors import QKVError

USER_ERROR, UNEXPECTED = 2, 70  # 70 is EX_SOFTWARE of sysexits.h
MAX_CHARACTERS = 2000  # messages may quote names and values of any length

_OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "storage size calculation overflowed",
    "integer multiplication overflow",
    "can't start new thread",
)
_SYSTEM_ERRORS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ENAMETOOLONG"),
        *("ELOOP", "EIO", "EMFILE", "ENFILE", "EBADF", "EXDEV", "ESTALE", "ETXTBSY", "EBUSY"),
    )
    if hasattr(errno, name)
}


def describe_error(error: Exception) -> tuple[str, int]:
    """The line to print and the exit status; the traceback of an unexpected error goes to a log."""
    if isinstance(error, QKVError):
        return _join_lines(error)[:MAX_CHARACTERS], USER_ERROR
    if _is_out_of_memory(error):
        advice = "make the model, the batches, the beam or the input smaller, or free memory"
        reason = _join_lines(error)[:160]
        return f"out of memory{f' ({reason})' if reason else ''}: {advice}", USER_ERROR
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        return f"{error.filename or 'output'}: {error.strerror}", USER_ERROR
    message = f"unexpected {type(error).__name__}: {_join_lines(error)[:200]}"
    return f"{message}; {_write_log(error)}", UNEXPECTED


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(
        sign in text for sign in _OUT_OF_MEMORY_PHRASES
    )


def _write_log(error: Exception) -> str:
    """Write the traceback to a log; a clause that says where it is."""
    lines = [
        f"qkv {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"command: {sys.argv}\nfolder: {_describe_folder()}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="qkv-", suffix=".log", delete=False
        ) as log:
            log.writelines(lines)
    except OSError:
        return "no log could be written; please report the command and this line"
    return f"the traceback is in {log.name}; please report it with that file"


def _describe_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that was removed"
