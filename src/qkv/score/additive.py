"""The additive score of the first attention model: a one-layer network reads query and key together."""

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
    """score = v · tanh(q + k) for projected queries and keys.  Bahdanau et al. 2015, section 3.1."""
    return torch.einsum("bhtsa,ha->bhts", torch.tanh(q[:, :, :, None] + k[:, :, None]), v)


class AdditiveScore(nn.Module):
    """score(q, k) = v · tanh(W q + U k + b) with W, U, v, b of every head its own."""

    def __init__(self, dims: Dims, hidden: int) -> None:
        super().__init__()
        self.numbers_per_pair = hidden
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, hidden))
        self.u = nn.Parameter(torch.empty(dims.heads, dims.key, hidden))
        self.v = nn.Parameter(torch.empty(dims.heads, hidden))
        self.b = nn.Parameter(torch.empty(dims.heads, 1, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W, U and v anew, and set b to 0."""
        for matrix in (self.w, self.u):
            bound = (6 / (matrix.shape[1] + matrix.shape[2])) ** 0.5
            nn.init.uniform_(matrix, -bound, bound)
        bound = self.v.shape[1] ** -0.5
        nn.init.uniform_(self.v, -bound, bound)
        nn.init.zeros_(self.b)

    def prepare(self, k: Key) -> Float[Tensor, "B H S A"]:
        """U k + b, computed once for all queries."""
        return torch.einsum("bhsd,hda->bhsa", k, self.u) + self.b

    def project(self, q: Query) -> Float[Tensor, "B H T A"]:
        """W q."""
        return torch.einsum("bhtd,hda->bhta", q, self.w)

    def forward(
        self, q: Query, prepared: Float[Tensor, "B H S A"], at: TokenPositions | None = None
    ) -> Logits:
        """Scores of every query with every prepared key."""
        return additive(self.project(q), prepared, self.v)


@dataclass(frozen=True, config=PART)
class Additive(Part):
    """Bahdanau's score.  `hidden` is the width of its inner layer; None takes the width of the query.

    It is Luong's concat too: v·tanh(M [q; k]) with M = [W U] and b = 0.
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

    def build(self, dims: Dims) -> AdditiveScore:
        """The module that owns W, U, v and b."""
        return AdditiveScore(dims, self.hidden or dims.query)
