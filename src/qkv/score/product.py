"""The base class of the scores that multiply queries with keys and have no parameters."""

from typing import ClassVar

from qkv.part import Part
from qkv.shapes import Dims


class ProductScore(Part):
    """Base class: a subclass prepares the keys, and multiplies them with the queries."""

    axis: ClassVar[str] = "score"
    learns: ClassVar[bool] = False
    two_widths: ClassVar[bool] = False
    positional: ClassVar[bool] = False
    has_native_scores: ClassVar[bool] = False
    numbers_per_pair: ClassVar[int] = 1

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of q·k for every pair; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·D for each pair.
        """
        return 2 * dims.heads * dims.query * pairs
