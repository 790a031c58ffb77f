"""Compares the lengths of pairs with the positions and keys that a model can hold."""

from collections.abc import Sequence

from qkv.errors import BadData
from qkv.model.length_limits import LengthLimit, LengthLimits

TRAINED = "batch.max_length"
Ids = Sequence[Sequence[int]]


def find_fitting_pairs(limits: LengthLimits, source: Ids, target: Ids, rows: Sequence[int]) -> list[int]:
    """The numbers of the pairs that the model can hold, in order.

    Args:
        limits: the most positions of a source and of a target.
        source: token ids of every source, without control symbols.
        target: token ids of every target, without control symbols.
        rows: the numbers of the pairs to consider.
    """
    return [row for row in rows if _fits(source[row], limits.source) and _fits(target[row], limits.target)]


def check_pair_lengths(limits: LengthLimits, source: Ids, target: Ids, rows: Sequence[int]) -> None:
    """Check that the model can hold all training pairs.

    Args:
        limits: the most positions of a source and of a target.
        source: token ids of every source, without control symbols.
        target: token ids of every target, without control symbols.
        rows: the numbers of the pairs to train on.

    Raises:
        BadData: some pairs are too long; the message counts them, and names the key of the recipe to change.
    """
    for side, ids, limit in (("source", source, limits.source), ("target", target, limits.target)):
        too_long = [row for row in rows if not _fits(ids[row], limit)]
        if limit is not None and too_long:
            needed = max(_count_positions(ids[row]) for row in too_long)
            tokens = limit.positions - 1
            shorter = f", or set batch.max_length to {tokens} to leave longer pairs out" if tokens else ""
            raise BadData(
                f"{len(too_long):,} of {len(rows):,} training pairs have a {side} longer than this model can "
                f"hold: {limit.key} is {limit.positions:,}, and the longest takes {needed:,} positions; "
                f"raise {limit.key} to {needed:,} or more{shorter}"
            )


def find_source_limit(limits: LengthLimits, max_length: int) -> LengthLimit:
    """The most tokens of a source: those of the training pairs, or fewer if the model cannot hold them.

    Args:
        limits: the most positions of a source and of a target.
        max_length: the most tokens of a source in training.
    """
    trained = LengthLimit(max_length, TRAINED)
    model_limit = limits.source
    if model_limit is None:
        return trained
    return min(trained, model_limit._replace(positions=model_limit.positions - 1))


def _fits(ids: Sequence[int], limit: LengthLimit | None) -> bool:
    return limit is None or _count_positions(ids) <= limit.positions


def _count_positions(ids: Sequence[int]) -> int:
    return len(ids) + 1  # a source ends in EOS, and a decoder reads BOS first
