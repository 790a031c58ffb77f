"""Words that many messages share."""

import shutil
import sys


def plural(number: int, singular: str, several: str | None = None) -> str:
    """A number with a noun that agrees with it.

    Args:
        number: how many there are.
        singular: the noun, or a phrase that begins with it, for one.
        several: the same for other numbers; None appends an "s".

    Example:
        >>> plural(1, "picture"), plural(1014, "picture"), plural(0, "class", "classes")
        ('1 picture', '1,014 pictures', '0 classes')
    """
    return f"{number:,} {singular if number == 1 else several or singular + 's'}"


def name_command() -> str:
    """How a user calls `qkv` in this shell: by its path where the environment is not activated."""
    if shutil.which("qkv"):
        return "qkv"
    return f"{sys.executable} -m qkv" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
