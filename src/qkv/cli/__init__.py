"""The command line: parses arguments, calls a task, prints.

A user's mistake ends in one line on stderr and exit status 2.
"""

import sys


def main() -> None:
    """Run `qkv`; torch is imported only by the commands that need it."""
    from qkv.cli.app import app
    from qkv.cli.error_messages import describe_error
    from qkv.cli.standard_streams import exit_on_signals, exit_quietly, prepare_streams

    prepare_streams()
    try:
        with exit_on_signals():
            try:
                app()
            except SystemExit:
                sys.stdout.flush()  # before Python exits, so that a full disk can be reported
                raise
    except BrokenPipeError:
        exit_quietly()  # the reader of stdout closed it, as `head` does
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message, status = describe_error(error)
        print(f"qkv: {message}", file=sys.stderr)
        sys.exit(status)
