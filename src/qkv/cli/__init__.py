"""The command line: parse, call a task, print.  A user's mistake ends in one line on stderr and exit status
2.
"""

import errno
import sys


def main() -> None:
    """Run `qkv`; torch is imported only by the commands that need it."""
    from qkv.cli.app import app
    from qkv.errors import QKVError

    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except QKVError as error:
        _fail(" ".join(str(error).split()))
    except BrokenPipeError:
        # The reader of our output has gone; what it read is all it wanted.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}")


def _fail(message: str) -> None:
    print(f"qkv: {message}", file=sys.stderr)
    sys.exit(2)
