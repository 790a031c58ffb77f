"""Errors that a user can fix.  The command line prints them in one line and exits with status 2.

QKVError
├── IncompatibleParts   parts that cannot be combined
├── UnknownName         a name or option that does not exist (the message offers the nearest one)
├── BadShape            tensors whose shapes do not fit each other or the layer
├── BadMask             a mask of the wrong type, shape or polarity
├── TooLarge            a result that does not fit into memory
├── BadRecipe           a recipe that cannot be read or does not validate
├── BadData             text, pairs or images that cannot be used
└── BadRun              a run directory that is missing, incomplete or damaged
"""

import difflib
from collections.abc import Iterable

MOST_LISTED = 30  # names that a message lists beside the nearest one


class QKVError(Exception):
    """Base of every error that a change of the user's input can fix.

    Example:
        >>> try:
        ...     qkv.Attention(512, heads=7)
        ... except qkv.QKVError as error:
        ...     print(error)
        d_model=512 cannot be split into heads=7 of equal width: use a multiple
    """


class IncompatibleParts(QKVError, ValueError):
    """Parts that cannot be combined; the message says why, and which single change fixes it."""


class UnknownName(QKVError, ValueError):
    """A name that does not exist; the message offers the nearest one that does."""


class BadShape(QKVError, ValueError):
    """Tensors whose shapes do not fit; the message says what was passed and what was expected."""


class BadMask(QKVError, TypeError):
    """A mask that is not boolean, does not broadcast, or cannot be applied by the kernel."""


class TooLarge(QKVError, MemoryError):
    """A result too large for this machine; the message says how large it is, and what to do instead."""


class BadRecipe(QKVError, ValueError):
    """A recipe that is not valid YAML or does not fit the schema."""


class BadData(QKVError, ValueError):
    """Input data that cannot be used; the message names the file and, where there is one, the line."""


class BadRun(QKVError, ValueError):
    """A run directory that cannot be loaded; the message names the file."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Write a sentence with the nearest name, and the known ones unless they are many.

    Args:
        name: The unknown name.
        known: The names that exist.

    Returns:
        The sentence.

    Example:
        >>> did_you_mean("windw", ["window", "global"])
        "Did you mean 'window'? Known: global, window"
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {matches[0]!r}? " if matches else ""
    return hint.rstrip() if matches and len(names) > MOST_LISTED else f"{hint}Known: {', '.join(names)}"
