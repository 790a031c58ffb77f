"""Pairs against what a model can hold: a table of positions, or a score that knows a fixed number of keys."""

from collections.abc import Sequence

from qkv.errors import BadData
from qkv.model.length_limits import LengthLimit, LengthLimits

TRAINED = "batch.max_length"
Ids = Sequence[Sequence[int]]


def fitting_pairs(capacity: LengthLimits, source: Ids, target: Ids, rows: Sequence[int]) -> list[int]:
    """The numbers among `rows` of the pairs that the model can hold, in order."""
    return [
        row for row in rows if _fits(source[row], capacity.source) and _fits(target[row], capacity.target)
    ]


def check_capacity(capacity: LengthLimits, source: Ids, target: Ids, rows: Sequence[int]) -> None:
    """Refuse to train on pairs that the model cannot hold.

    Raises BadData: how many pairs are too long, for which key of the recipe, and the two ways out.
    """
    for side, ids, limit in (("source", source, capacity.source), ("target", target, capacity.target)):
        too_long = [row for row in rows if not _fits(ids[row], limit)]
        if limit is not None and too_long:
            needed = max(_positions(ids[row]) for row in too_long)
            held = limit.positions - 1
            shorter = f", or set batch.max_length to {held} to leave longer pairs out" if held else ""
            raise BadData(
                f"{len(too_long):,} of {len(rows):,} training pairs have a {side} longer than this model can "
                f"hold: {limit.key} is {limit.positions:,}, and the longest takes {needed:,} positions; "
                f"raise {limit.key} to {needed:,} or more{shorter}"
            )


def source_limit(capacity: LengthLimits, max_length: int) -> LengthLimit:
    """Most tokens of a source: what the model was trained for, or can hold where that is less."""
    trained = LengthLimit(max_length, TRAINED)
    held = capacity.source
    return trained if held is None else min(trained, held._replace(positions=held.positions - 1))


def _fits(ids: Sequence[int], limit: LengthLimit | None) -> bool:
    return limit is None or _positions(ids) <= limit.positions


def _positions(ids: Sequence[int]) -> int:
    return len(ids) + 1  # a source ends in EOS, and a decoder reads BOS first
