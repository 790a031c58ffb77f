"""The scope that predicts where to look: a window around a position computed from the query.

    p = n sigmoid(v·tanh(W q));   weight_s = select(scores where |s - floor(p)| <= D)_s · exp(-(s - p)² / 2σ²)

with n real keys, half-width D and σ = D/2.

The window moves in whole steps, so p is learned through the Gaussian alone.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.part import Part
from qkv.shapes import Allow, Dims, Query, Weights
from qkv.strict import PART
from qkv.token_positions import TokenPositions
from qkv.tracing import without_autocast

Centre = Float[Tensor, "B H T 1"]


def centre(q: Query, w: Float[Tensor, "H D A"], v: Float[Tensor, "H A"], at: TokenPositions) -> Centre:
    """p = n sigmoid(v·tanh(W q)), in [0, n] for n real keys.  Luong et al. 2015, eq. 9."""
    inner = torch.tanh(torch.einsum("bhtd,hda->bhta", q, w))
    return at.key_counts[:, None, :, None] * torch.einsum("bhta,ha->bht", inner, v).sigmoid()[..., None]


def around(p: Centre, at: TokenPositions, half_width: int) -> Allow:
    """allow = |s - floor(p)| <= D for a key at s.  Luong et al. 2015, section 3.2."""
    return (at.keys[:, None, None, :] - p.floor()).abs() <= half_width


def gaussian(p: Centre, at: TokenPositions, half_width: int) -> Float[Tensor, "B H T S"]:
    """exp(-(s - p)² / 2σ²) with σ = D/2, for a key at s.  Luong et al. 2015, eq. 10."""
    return torch.exp(-2 * ((at.keys[:, None, None, :] - p) / half_width) ** 2)


def favoured(weights: Weights, factor: Float[Tensor, "B H T S"], renormalise: bool) -> Weights:
    """weights · factor, divided by its sum where `renormalise`; rows without weight stay without."""
    favour = weights * factor
    if renormalise:
        total = favour.sum(-1, keepdim=True)
        favour = favour / torch.where(total > 0, total, 1)
    return favour.to(weights.dtype)


class PredictiveScope(nn.Module):
    """The window and the Gaussian around p = n sigmoid(v·tanh(W q)), with W and v of every head its own."""

    def __init__(self, dims: Dims, part: "Predictive") -> None:
        super().__init__()
        self.part, hidden = part, part.hidden or dims.query
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, hidden))
        self.v = nn.Parameter(torch.empty(dims.heads, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W and v anew."""
        bound = (6 / (self.w.shape[1] + self.w.shape[2])) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)
        bound = self.v.shape[1] ** -0.5
        nn.init.uniform_(self.v, -bound, bound)

    def forward(self, q: Query, at: TokenPositions) -> tuple[Allow, Callable[[Weights], Weights]]:
        """Which keys are near the predicted position, and the function that favours the nearest of them."""
        # Half precision cannot tell neighbouring positions of a long memory apart.
        wide = torch.promote_types(q.dtype, torch.float32)
        with without_autocast(q):
            p = centre(q.to(wide), self.w.to(wide), self.v.to(wide), at)
            factor = gaussian(p, at, self.part.half_width)
        reweight = partial(favoured, factor=factor, renormalise=self.part.renormalise)
        return around(p, at, self.part.half_width), reweight


@dataclass(frozen=True, config=PART)
class Predictive(Part):
    """Luong's local-p: keys at most `half_width` (D) from a position that the query predicts.

    hidden: width of the layer that predicts it; None takes the width of the query.
    renormalise: let the weights sum to 1 again after the Gaussian; as published, they sum to less.
    """

    half_width: PositiveInt = 10
    _: KW_ONLY
    hidden: PositiveInt | None = None
    renormalise: bool = False

    axis: ClassVar[str] = "scope"
    name: ClassVar[str] = "predictive"
    formula: ClassVar[str] = "|s - floor(p)| <= D, times exp(-(s - p)² / 2(D/2)²), p = n sigmoid(v·tanh(W q))"
    paper: ClassVar[str] = "Luong et al. 2015, eq. 9 and 10"
    learns: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    is_global: ClassVar[bool] = False
    reweights: ClassVar[bool] = True
    supports_causal: ClassVar[bool] = False
    reach: ClassVar[tuple[int, int] | None] = None

    @property
    def normalised(self) -> bool:
        """Whether the weights sum to 1."""
        return self.renormalise

    def build(self, dims: Dims) -> PredictiveScope:
        """The module that owns W and v."""
        return PredictiveScope(dims, self)
