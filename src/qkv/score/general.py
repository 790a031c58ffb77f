"""The bilinear score: a learned matrix between the query and the key."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def transform_keys(k: Key, w: Float[Tensor, "Hk D D2"]) -> Float[Tensor, "B Hk S D"]:
    """Compute W k of every key, so that q·(W k) is the score.  Luong et al. 2015, section 3.1, general.

    Args:
        k: Keys [B,Hk,S,D2].
        w: The matrix of every head, [Hk,D,D2].

    Returns:
        Transformed keys [B,Hk,S,D].
    """
    return torch.einsum("bhsk,hdk->bhsd", k, w)


class GeneralScore(nn.Module):
    """score(q, k) = q·W k, where every head has its own W [D,D2].

    Args:
        dims: Heads, and the widths of queries and keys per head.
    """

    numbers_per_pair = 1

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, dims.key))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise W at random so that unit-variance inputs have unit-variance scores."""
        bound = (3 / (self.w.shape[1] * self.w.shape[2])) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)

    def prepare(self, k: Key) -> Float[Tensor, "B Hk S D"]:
        """Compute W k, once for all queries.

        Args:
            k: Keys [B,H,S,D2].

        Returns:
            Transformed keys [B,H,S,D].
        """
        return transform_keys(k, self.w)

    def forward(
        self, q: Query, prepared_keys: Float[Tensor, "B H S D"], positions: TokenPositions | None = None
    ) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned, [B,H,S,D].
            positions: Not used.

        Returns:
            Scores [B,H,T,S].
        """
        return q @ prepared_keys.mT


@dataclass(frozen=True, config=PART)
class General(Part):
    """Luong's bilinear score.  W = I is Dot and W = I / sqrt(D) is ScaledDot.

    The initial W gives scores of the same variance as ScaledDot.

    References:
        Luong et al. 2015, section 3.1.

    Example:
        >>> attention = qkv.Attention(64, heads=4, score=qkv.General())
        >>> attention(torch.randn(2, 5, 64)).shape
        torch.Size([2, 5, 64])
    """

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "general"
    formula: ClassVar[str] = "q·W k"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"
    learns: ClassVar[bool] = True
    two_widths: ClassVar[bool] = True
    positional: ClassVar[bool] = False
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = False
    has_native_scores: ClassVar[bool] = False

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of W k for every key, and q·W k for every pair; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·D·D2 for each key, and 2·H·D for each pair.
        """
        return 2 * dims.heads * dims.query * (keys * dims.key + pairs)

    def build(self, dims: Dims) -> GeneralScore:
        """Build the module that owns W.

        Args:
            dims: Heads, and the widths of queries and keys per head.

        Returns:
            The score as a module.
        """
        return GeneralScore(dims)
