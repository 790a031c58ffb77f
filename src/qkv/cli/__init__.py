"""The command line: parse, call a task, print.  A user's mistake ends in one line on stderr and exit status
2.
"""

import sys


def main() -> None:
    """Run `qkv`; torch is imported only by the commands that need it."""
    from qkv.cli.app import app
    from qkv.cli.error_messages import describe
    from qkv.cli.standard_streams import end_on_signals, end_quietly, prepare_streams

    prepare_streams()
    try:
        with end_on_signals():
            try:
                app()
            except SystemExit:
                sys.stdout.flush()  # here, where a full disk can still be reported
                raise
    except BrokenPipeError:
        end_quietly()  # the reader of our output has what it wanted
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message, status = describe(error)
        print(f"qkv: {message}", file=sys.stderr)
        sys.exit(status)
