"""The predictive scope: a window around a position that is computed from the query.

    p = n sigmoid(v·tanh(W q));   weight_s = select(scores where |s - floor(p)| <= D)_s · exp(-(s - p)² / 2σ²)

with n real keys, half-width D and σ = D/2.

The window moves in whole steps, so only the Gaussian passes gradients to p.
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


def predict_centre(
    q: Query, w: Float[Tensor, "H D A"], v: Float[Tensor, "H A"], positions: TokenPositions
) -> Centre:
    """Compute p = n sigmoid(v·tanh(W q)), in [0, n] for n real keys.  Luong et al. 2015, eq. 9.

    Args:
        q: Queries [B,H,T,D].
        w: W of every head, [H,D,A].
        v: v of every head, [H,A].
        positions: The positions of queries and keys.

    Returns:
        The predicted position of every query, [B,H,T,1].
    """
    hidden = torch.tanh(torch.einsum("bhtd,hda->bhta", q, w))
    fraction = torch.einsum("bhta,ha->bht", hidden, v).sigmoid()[..., None]
    return positions.key_counts[:, None, :, None] * fraction


def compute_window(p: Centre, positions: TokenPositions, half_width: int) -> Allow:
    """Compute allow = (|s - floor(p)| <= D) for a key at s.  Luong et al. 2015, section 3.2.

    Args:
        p: The predicted position of every query, [B,H,T,1].
        positions: The positions of queries and keys.
        half_width: D, how many positions the window reaches to either side.

    Returns:
        The mask [B,H,T,S].
    """
    return (positions.keys[:, None, None, :] - p.floor()).abs() <= half_width


def compute_gaussian(p: Centre, positions: TokenPositions, half_width: int) -> Float[Tensor, "B H T S"]:
    """Compute exp(-(s - p)² / 2σ²) with σ = D/2, for a key at s.  Luong et al. 2015, eq. 10.

    Args:
        p: The predicted position of every query, [B,H,T,1].
        positions: The positions of queries and keys.
        half_width: D, twice the standard deviation.

    Returns:
        The factor of every weight, [B,H,T,S].
    """
    return torch.exp(-2 * ((positions.keys[:, None, None, :] - p) / half_width) ** 2)


def reweight(weights: Weights, factor: Float[Tensor, "B H T S"], renormalise: bool) -> Weights:
    """Compute weights · factor, and divide it by its sum where `renormalise`.

    Args:
        weights: Weights [B,H,T,S].
        factor: The factor of every weight, [B,H,T,S].
        renormalise: Whether the new weights sum to 1 again; rows of zeros stay zero.

    Returns:
        The new weights [B,H,T,S].
    """
    scaled = weights * factor
    if renormalise:
        total = scaled.sum(-1, keepdim=True)
        scaled = scaled / torch.where(total > 0, total, 1)
    return scaled.to(weights.dtype)


class PredictiveScope(nn.Module):
    """The window and the Gaussian around p = n sigmoid(v·tanh(W q)), where every head has its own W and v.

    Args:
        dims: Heads, and the width of queries per head.
        part: The options.
    """

    def __init__(self, dims: Dims, part: "Predictive") -> None:
        super().__init__()
        self.part, hidden = part, part.hidden or dims.query
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, hidden))
        self.v = nn.Parameter(torch.empty(dims.heads, hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise W and v at random."""
        bound = (6 / (self.w.shape[1] + self.w.shape[2])) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)
        bound = self.v.shape[1] ** -0.5
        nn.init.uniform_(self.v, -bound, bound)

    def predict(self, q: Query, positions: TokenPositions) -> Centre:
        """Compute the predicted positions, in the dtype of the queries.

        Args:
            q: Queries [B,H,T,D], in float32 or float64.
            positions: The positions of queries and keys.

        Returns:
            p of every query, [B,H,T,1].
        """
        return predict_centre(q, self.w.to(q.dtype), self.v.to(q.dtype), positions)

    def forward(self, q: Query, positions: TokenPositions) -> tuple[Allow, Callable[[Weights], Weights]]:
        """Compute the mask of the window, and the function that multiplies weights with the Gaussian.

        Args:
            q: Queries [B,H,T,D].
            positions: The positions of queries and keys.

        Returns:
            The mask [B,H,T,S], and a function from weights [B,H,T,S] to weights [B,H,T,S].
        """
        # Half precision rounds neighbouring positions of a long memory to the same number.
        dtype = torch.promote_types(q.dtype, torch.float32)
        with without_autocast(q):
            p = self.predict(q.to(dtype), positions)
            factor = compute_gaussian(p, positions, self.part.half_width)
        apply_factor = partial(reweight, factor=factor, renormalise=self.part.renormalise)
        return compute_window(p, positions, self.part.half_width), apply_factor


@dataclass(frozen=True, config=PART)
class Predictive(Part):
    """Luong's local-p attention: the keys around a position that the query predicts, weighted by a Gaussian.

    Args:
        half_width: D, how many positions the window reaches to either side; the Gaussian has σ = D/2.
        hidden: Width of the hidden layer that predicts the position; None takes the width of the query.
        renormalise: Whether the weights sum to 1 again after the Gaussian; as published, they sum to less.

    References:
        Luong et al. 2015, eq. 9 and 10.

    Example:
        >>> attention = qkv.Attention(64, scope=qkv.Predictive(half_width=2))
        >>> weights = attention.attend(torch.randn(1, 3, 64), torch.randn(1, 20, 64)).weights
        >>> bool((weights.count_nonzero(-1) <= 5).all())
        True
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
    predicts_positions: ClassVar[bool] = True
    supports_causal: ClassVar[bool] = False
    reach: ClassVar[tuple[int, int] | None] = None

    @property
    def normalised(self) -> bool:
        """Whether the weights sum to 1."""
        return self.renormalise

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of W q and of v·tanh(W q); see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·A·(D + 1) for each query.
        """
        return 2 * dims.heads * (self.hidden or dims.query) * (dims.query + 1) * queries

    def build(self, dims: Dims) -> PredictiveScope:
        """Build the module that owns W and v.

        Args:
            dims: Heads, and the width of queries per head.

        Returns:
            The scope as a module.
        """
        return PredictiveScope(dims, self)
