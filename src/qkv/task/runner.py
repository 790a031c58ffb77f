"""What `load` returns for every task."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Runner(Protocol):
    """A trained model, ready for its task.

    It has a method for each of its commands: that of `qkv translate` is `translate`.
    """

    @property
    def commands(self) -> tuple[str, ...]:
        """Names of the commands that use it, `evaluate` aside; the usual one comes first."""
        ...
