"""Words of messages that several tasks print."""

import shutil
import sys


def describe_epoch(updates: int) -> str:
    """How many updates an epoch has.

    Args:
        updates: the number.

    Example:
        >>> describe_epoch(1), describe_epoch(1200)
        ('1 update an epoch', '1,200 updates an epoch')
    """
    return f"{updates:,} update{'s' * (updates != 1)} an epoch"


def name_command() -> str:
    """How a user calls `qkv` in this shell: by its path where the environment is not activated."""
    if shutil.which("qkv"):
        return "qkv"
    return f"{sys.executable} -m qkv" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
