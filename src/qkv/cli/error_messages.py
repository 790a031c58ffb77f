"""What becomes of an error: one line and an exit status, and a log of what nobody foresaw."""

import errno
import os
import platform
import sys
import tempfile
import traceback

from qkv import __version__
from qkv.errors import QKVError

MISTAKE, UNFORESEEN = 2, 70  # 70 is EX_SOFTWARE of sysexits.h
LONGEST = 2000  # characters: messages may quote names and values of any length

_OUT_OF_MEMORY = (
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
_OF_THE_SYSTEM = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ENAMETOOLONG"),
        *("ELOOP", "EIO", "EMFILE", "ENFILE", "EBADF", "EXDEV", "ESTALE", "ETXTBSY", "EBUSY"),
    )
    if hasattr(errno, name)
}


def describe(error: Exception) -> tuple[str, int]:
    """The line to print and the exit status; an unforeseen error goes into a log, which the line names."""
    if isinstance(error, QKVError):
        return _one_line(error)[:LONGEST], MISTAKE
    if _is_out_of_memory(error):
        advice = "make the model, the batches, the beam or the input smaller, or free memory"
        reason = _one_line(error)[:160]
        return f"out of memory{f' ({reason})' if reason else ''}: {advice}", MISTAKE
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        return f"{error.filename or 'output'}: {error.strerror}", MISTAKE
    what = f"unexpected {type(error).__name__}: {_one_line(error)[:200]}"
    return f"{what}; {_logged(error)}", UNFORESEEN


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(sign in text for sign in _OUT_OF_MEMORY)


def _logged(error: Exception) -> str:
    lines = [
        f"qkv {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        f"command: {sys.argv}\nfolder: {_folder()}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="qkv-", suffix=".log", delete=False
        ) as log:
            log.writelines(lines)
    except OSError:
        return "no log could be written; please report how it came about"
    return f"the traceback is in {log.name}; please report it with that file"


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that was removed"
