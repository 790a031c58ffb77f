"""The longest sequences that a model accepts: tables of positions, and scores with a fixed number of keys."""

from typing import NamedTuple

from qkv.spec import AttentionSpec


class LengthLimit(NamedTuple):
    """The largest number of positions of a sequence.

    Args:
        positions: The number.
        key: The key of the recipe that sets it.
    """

    positions: int
    key: str


class LengthLimits(NamedTuple):
    """The limits of a translation model; None is no limit.

    Args:
        source: The limit of a source, with its end symbol.
        target: The limit of a target, with its begin symbol.
    """

    source: LengthLimit | None = None
    target: LengthLimit | None = None


def get_key_limit(spec: AttentionSpec | None, section: str) -> LengthLimit | None:
    """Get the limit of one attention on its keys.

    Args:
        spec: The attention; None where there is none.
        section: Its section of the recipe.

    Returns:
        The limit; None where there is none.
    """
    limit = spec.key_limit if spec is not None else None
    return None if limit is None else LengthLimit(limit[0], f"{section}.{limit[1]}")


def find_smallest_limit(*limits: LengthLimit | None) -> LengthLimit | None:
    """Find the smallest limit.

    Args:
        *limits: Limits, or None.

    Returns:
        The smallest; None where all are None.
    """
    return min((limit for limit in limits if limit is not None), default=None)
