"""The location score: it depends on the query and on the position of the key, not on the key itself."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.errors import BadShape
from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions
from qkv.tracing import can_read, holds_for_all_sizes, is_recording, require


def location(
    q: Query, w: Float[Tensor, "H D L"], key_positions: Int[Tensor, "#B S"]
) -> Float[Tensor, "B H T S"]:
    """Compute score(q, key at position s) = (q W)[s].  Luong et al. 2015, section 3.1.

    Args:
        q: Queries [B,H,T,D].
        w: The matrix of every head, one column per position, [H,D,L].
        key_positions: The position of every key, [B or 1, S].

    Returns:
        Scores [B,H,T,S].
    """
    position_scores = torch.einsum("bhtd,hdl->bhtl", q, w)
    # Padding ahead of the first key has position -1.  Masks hide it, but gather needs a valid index.
    return position_scores.gather(-1, key_positions.clamp_min(0)[:, None, None].expand(*q.shape[:3], -1))


class LocationScore(nn.Module):
    """score(q, key at position s) = (q W)[s], where every head has its own W [D,length].

    Args:
        dims: Heads, and the width of queries per head.
        length: L, the largest number of real keys.
    """

    numbers_per_pair = 1

    def __init__(self, dims: Dims, length: int) -> None:
        super().__init__()
        self.length = length
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise W at random so that unit-variance queries have unit-variance scores."""
        bound = (3 / self.w.shape[1]) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)

    def prepare(self, k: Key) -> Float[Tensor, "B Hk S 0"]:
        """Drop the features of the keys: only their number is used.

        Args:
            k: Keys [B,H,S,D2].

        Returns:
            A view without features, [B,H,S,0].
        """
        return k[..., :0]

    def forward(self, q: Query, prepared_keys: Float[Tensor, "B H S 0"], positions: TokenPositions) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned, [B,H,S,0].
            positions: The positions of the keys.

        Returns:
            Scores [B,H,T,S].

        Raises:
            BadShape: There are more real keys than `length`.
        """
        keys = prepared_keys.shape[2]
        # Counting real keys synchronises with the device: skip it where all keys fit, padding included.
        if not holds_for_all_sizes(keys <= self.length):
            problem = (
                f"Location(length={self.length}) scores at most {self.length} keys, got "
                f"{_format_key_count(positions)}: raise length, or pass fewer keys"
            )
            require(positions.key_counts <= self.length, BadShape, problem)
        return location(q, self.w if is_recording(keys) else self.w[..., :keys], positions.keys)


def _format_key_count(positions: TokenPositions) -> str:
    """The largest number of real keys in a row, or "more" where values cannot be read."""
    return str(int(positions.key_counts.max())) if can_read(positions.key_counts) else "more"


@dataclass(frozen=True, config=PART)
class Location(Part):
    """Luong's location score: it depends on the query and on the position of the key, not on the key itself.

    Args:
        length: The largest number of keys, padding not counted; W has one column per position.

    References:
        Luong et al. 2015, section 3.1.

    Example:
        >>> attention = qkv.Attention(64, score=qkv.Location(length=10))
        >>> attention(torch.randn(2, 10, 64)).shape
        torch.Size([2, 10, 64])
    """

    length: PositiveInt

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "location"
    formula: ClassVar[str] = "(q W)[s]"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"
    learns: ClassVar[bool] = True
    two_widths: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = False
    has_native_scores: ClassVar[bool] = False
    key_limit_option: ClassVar[str | None] = "length"

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of q W; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·D for each query and each of min(S, length) positions.
        """
        return 2 * dims.heads * dims.query * queries * min(keys, self.length)

    def build(self, dims: Dims) -> LocationScore:
        """Build the module that owns W.

        Args:
            dims: Heads, and the widths of queries and keys per head.

        Returns:
            The score as a module.
        """
        return LocationScore(dims, self.length)
