"""How many positions a model can hold: tables of positions, and scores that know a fixed number of keys."""

from typing import NamedTuple

from qkv.spec import AttentionSpec


class LengthLimit(NamedTuple):
    """A largest number of positions, and the recipe's key that sets it."""

    positions: int
    key: str


class LengthLimits(NamedTuple):
    """Most positions of a source (EOS included) and of a target (BOS included); None: no limit."""

    source: LengthLimit | None = None
    target: LengthLimit | None = None


def get_key_limit(spec: AttentionSpec | None, place: str) -> LengthLimit | None:
    """The limit of one attention on its keys; `place` is its key in the recipe."""
    bound = spec.key_limit if spec is not None else None
    return None if bound is None else LengthLimit(bound[0], f"{place}.{bound[1]}")


def find_smallest_limit(*limits: LengthLimit | None) -> LengthLimit | None:
    """The smallest of the limits; None where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)
