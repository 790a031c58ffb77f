"""The bilinear score: a learned matrix says which features of the query go with which of the key."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def transformed(k: Key, w: Float[Tensor, "Hk D D2"]) -> Float[Tensor, "B Hk S D"]:
    """W k of every key, so that q·(W k) is the score.  Luong et al. 2015, section 3.1, general."""
    return torch.einsum("bhsk,hdk->bhsd", k, w)


class GeneralScore(nn.Module):
    """score(q, k) = q·W k with W [D,D2] of every head its own."""

    numbers_per_pair = 1

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, dims.key))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W anew: the D·D2 terms of a score have a variance of 1 together for unit-variance inputs."""
        bound = (3 / (self.w.shape[1] * self.w.shape[2])) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)

    def prepare(self, k: Key) -> Float[Tensor, "B Hk S D"]:
        """W k, computed once for all queries."""
        return transformed(k, self.w)

    def forward(
        self, q: Query, prepared: Float[Tensor, "B H S D"], at: TokenPositions | None = None
    ) -> Logits:
        """Scores of every query with every prepared key."""
        return q @ prepared.mT


@dataclass(frozen=True, config=PART)
class General(Part):
    """Luong's bilinear score.  W = I is Dot, W = I / sqrt(D) is ScaledDot; it starts as large as that."""

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

    def build(self, dims: Dims) -> GeneralScore:
        """The module that owns W."""
        return GeneralScore(dims)
