"""The options of `qkv demo` that a task may have."""

from typing import NamedTuple


class DemoOptions(NamedTuple):
    """The options of `qkv demo`; a task names those that its demo has in `Task.demo_options`.

    Args:
        source: the language to read, as Babel names it; None takes the demo's own.
        target: the language to write; None takes the demo's own.
    """

    source: str | None = None
    target: str | None = None
