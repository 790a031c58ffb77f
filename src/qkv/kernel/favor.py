"""FAVOR+: positive random features of the softmax of the scaled dot product (Choromanski et al. 2021).

x' = x D^-1/4,   φ(x) = R^-1/2 exp(W x' - |x'|²/2),   rows of W from N(0, I)
E[φ(q)·φ(k)] = exp(q·k / sqrt(D))
"""

from dataclasses import KW_ONLY
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.kernel.kind import Kind
from qkv.kernel.linear import Linear
from qkv.kernel.projections import Projections, RandomFeatures
from qkv.kernel.sums import Features
from qkv.part import Part
from qkv.shapes import Dims
from qkv.strict import PART

# Nothing is subtracted in sums of positive features, so that even a tiny one is exact: the floor only keeps
# the denominator away from what float32 cannot hold.
FLOOR = 1e-20


def positive_features(
    x: Float[Tensor, "B H N D"], projections: Projections
) -> tuple[Features, Float[Tensor, "B H N"]]:
    """φ [B,H,N,R] and log m [B,H,N] with φ m = R^-1/2 exp(W x - |x|²/2) and no feature above R^-1/2.

    Choromanski et al. 2021, lemma 1.
    """
    logits = x @ projections.mT
    highest = logits.detach().amax(-1, keepdim=True)
    phi = (logits - highest).exp() * projections.shape[1] ** -0.5
    # A key whose squared length is beyond what its type holds is one of the least, but still there.
    return phi, (highest[..., 0] - x.square().sum(-1) / 2).clamp_min(torch.finfo(x.dtype).min)


class PositiveMap(RandomFeatures):
    """The features of exp(q·k / sqrt(D)), each vector's divided by its own largest."""

    def __init__(self, dims: Dims, part: "Favor", generator: torch.Generator | None) -> None:
        super().__init__(dims, part)
        self.width = part.features
        self.reset_parameters(generator)

    def queries(self, x: Float[Tensor, "B H N D"], projections: Projections) -> Features:
        """φ(q) [B,H,T,R]: the rest of it is one factor per query, which cancels."""
        return self.keys(x, projections)[0]

    def keys(
        self, x: Float[Tensor, "B H N D"], projections: Projections
    ) -> tuple[Features, Float[Tensor, "B H N"]]:
        """φ(k) [B,H,S,R] and what it was divided by as the log mass of the key."""
        return positive_features(x * x.shape[-1] ** -0.25, projections.to(x.dtype))

    def log_mass(self, x: Float[Tensor, "B H N D"]) -> None:
        """The engines find it with the features."""

    def kind(self, projections: Projections) -> Kind:
        """The same map for the fast engines."""
        width = projections.shape[-1]
        return Kind("favor", projections.float() * width**-0.25, square=width**-0.5 / 2, rescales_keys=True)


@dataclass(frozen=True, config=PART)
class Favor(Part):
    """FAVOR+ of the Performer: estimates softmax attention with the scaled dot product.

    features: R, the number of random vectors.
    orthogonal: block-orthogonal projections, which lower the variance of the estimate.
    redraw: in training every call takes one of `pool` sets of projections; evaluation uses the fixed one.
    """

    features: PositiveInt = 64
    _: KW_ONLY
    orthogonal: bool = True
    redraw: bool = True
    pool: PositiveInt = 500

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "favor"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = R^-1/2 exp(W x' - |x'|²/2),  x' = x D^-1/4"
    paper: ClassVar[str] = "Choromanski et al. 2021, lemma 1"
    estimates: ClassVar[str] = "softmax of q·k / sqrt(D)"
    forms_weights: ClassVar[bool] = False
    is_gated: ClassVar[bool] = False

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Linear:
        """The linear evaluator with this feature map."""
        return Linear(dims, PositiveMap(dims, self, generator), FLOOR, parts.causal)
