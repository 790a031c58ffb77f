"""The additive score of the first attention model: a network with one hidden layer reads query and key."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def additive(
    q: Float[Tensor, "B H T A"], k: Float[Tensor, "B H S A"], v: Float[Tensor, "H A"]
) -> Float[Tensor, "B H T S"]:
    """Compute score = v · tanh(q + k) for projected queries and keys.  Bahdanau et al. 2015, section 3.1.

    Args:
        q: Projected queries W q, [B,H,T,A].
        k: Projected keys U k + b, [B,H,S,A].
        v: Output vector of every head, [H,A].

    Returns:
        Scores [B,H,T,S].
    """
    return torch.einsum("bhtsa,ha->bhts", torch.tanh(q[:, :, :, None] + k[:, :, None]), v)


class AdditiveScore(nn.Module):
    """score(q, k) = v · tanh(W q + U k + b), where every head has its own W, U, v and b.

    Args:
        dims: Heads, and the widths of queries and keys per head.
        hidden: A, the width of the hidden layer.
    """

    def __init__(self, dims: Dims, hidden: int) -> None:
        super().__init__()
        self.numbers_per_pair = hidden
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, hidden))
        self.u = nn.Parameter(torch.empty(dims.heads, dims.key, hidden))
        self.v = nn.Parameter(torch.empty(dims.heads, hidden))
        self.b = nn.Parameter(torch.empty(dims.heads, 1, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise W, U and v at random and set b to 0."""
        for matrix in (self.w, self.u):
            bound = (6 / (matrix.shape[1] + matrix.shape[2])) ** 0.5
            nn.init.uniform_(matrix, -bound, bound)
        bound = self.v.shape[1] ** -0.5
        nn.init.uniform_(self.v, -bound, bound)
        nn.init.zeros_(self.b)

    def prepare(self, k: Key) -> Float[Tensor, "B H S A"]:
        """Compute U k + b, once for all queries.

        Args:
            k: Keys [B,H,S,D2].

        Returns:
            Projected keys [B,H,S,A].
        """
        return torch.einsum("bhsd,hda->bhsa", k, self.u) + self.b

    def project(self, q: Query) -> Float[Tensor, "B H T A"]:
        """Compute W q.

        Args:
            q: Queries [B,H,T,D].

        Returns:
            Projected queries [B,H,T,A].
        """
        return torch.einsum("bhtd,hda->bhta", q, self.w)

    def forward(
        self, q: Query, prepared_keys: Float[Tensor, "B H S A"], positions: TokenPositions | None = None
    ) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned, [B,H,S,A].
            positions: Not used.

        Returns:
            Scores [B,H,T,S].
        """
        return additive(self.project(q), prepared_keys, self.v)


@dataclass(frozen=True, config=PART)
class Additive(Part):
    """Bahdanau's additive score: a network with one hidden layer reads the query and the key.

    With b = 0 it is Luong's concat score v·tanh(M [q; k]), M = [W U].

    Args:
        hidden: Width of the hidden layer; None takes the width of the query.

    References:
        Bahdanau et al. 2015, section 3.1.

    Example:
        >>> attention = qkv.Attention(512, heads=8, score=qkv.Additive(hidden=32))
        >>> attention(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
    """

    hidden: PositiveInt | None = None

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "additive"
    formula: ClassVar[str] = "v·tanh(W q + U k + b)"
    paper: ClassVar[str] = "Bahdanau et al. 2015, section 3.1"
    learns: ClassVar[bool] = True
    two_widths: ClassVar[bool] = True
    positional: ClassVar[bool] = False
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = False
    has_native_scores: ClassVar[bool] = True

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of W q, of U k, and of v·tanh(…) for every pair; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·A·D for each query, 2·H·A·D2 for each key, and 2·H·A for each pair.
        """
        hidden = self.hidden or dims.query
        return 2 * dims.heads * hidden * (queries * dims.query + keys * dims.key + pairs)

    def count_numbers_per_pair(self, dims: Dims) -> int:
        """Count the numbers of the hidden layer, which every pair has for itself.

        Args:
            dims: The number of heads, and the widths per head.

        Returns:
            A.
        """
        return self.hidden or dims.query

    def build(self, dims: Dims) -> AdditiveScore:
        """Build the module that owns W, U, v and b.

        Args:
            dims: Heads, and the widths of queries and keys per head.

        Returns:
            The score as a module.
        """
        return AdditiveScore(dims, self.hidden or dims.query)
