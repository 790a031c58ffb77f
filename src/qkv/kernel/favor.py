"""FAVOR+: positive random features of the softmax of the scaled dot product (Choromanski et al. 2021).

x' = x D^-1/4,   φ(x) = R^-1/2 exp(W x' - |x'|²/2),   rows of W from N(0, I)
E[φ(q)·φ(k)] = exp(q·k / sqrt(D))
"""

from dataclasses import KW_ONLY
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.kernel.feature_map import KeyFeatures, MapDescription
from qkv.kernel.feature_map_part import FeatureMapPart
from qkv.kernel.projections import Projections, RandomFeatureMap
from qkv.kernel.sums import Features
from qkv.shapes import Dims
from qkv.strict import PART

# Sums of positive features have no cancellation, so that even tiny ones are precise.  The floor only keeps
# the denominator in the range of float32.
FLOOR = 1e-20


class PositiveFeatures(NamedTuple):
    """Positive features, divided by a factor per vector.

    Args:
        features: φ [B,H,N,R]; the largest feature of every vector is R^-1/2.
        log_factor: log m [B,H,N].
    """

    features: Tensor
    log_factor: Tensor


def compute_positive_features_and_log_factor(
    x: Float[Tensor, "B H N D"], projections: Projections
) -> PositiveFeatures:
    """Rescaled positive features: φ m = R^-1/2 exp(W x - |x|²/2).  Choromanski et al. 2021, lemma 1.

    Args:
        x: Queries or keys, scaled by D^-1/4, [B,H,N,D].
        projections: W [H,R,D].

    Returns:
        φ [B,H,N,R], where the largest feature of every vector is R^-1/2, and log m [B,H,N].
    """
    logits = x @ projections.mT  # [B,H,N,D] @ [H,D,R] -> [B,H,N,R]
    maximum = logits.detach().amax(-1, keepdim=True)
    features = (logits - maximum).exp() * projections.shape[1] ** -0.5
    # A key whose squared length overflows gets the smallest finite weight, and no -inf, which marks padding.
    log_factor = (maximum[..., 0] - x.square().sum(-1) / 2).clamp_min(torch.finfo(x.dtype).min)
    return PositiveFeatures(features, log_factor)


class PositiveMap(RandomFeatureMap):
    """The features of exp(q·k / sqrt(D)), where those of each vector are divided by their maximum.

    Args:
        dims: Heads, and the widths per head.
        part: The part that the map belongs to.
        generator: Draws the fixed projections; None uses torch's global generator.
    """

    def __init__(self, dims: Dims, part: "Favor", generator: torch.Generator | None) -> None:
        super().__init__(dims, part)
        self.width = part.features
        self.reset_parameters(generator)

    def map_queries(self, x: Float[Tensor, "B H N D"], projections: Projections) -> Features:
        """φ(q) [B,H,T,R] without the factor m, which cancels.

        Args:
            x: Queries [B,H,T,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,T,R].
        """
        return self.map_keys(x, projections).features

    def map_keys(self, x: Float[Tensor, "B H N D"], projections: Projections) -> KeyFeatures:
        """φ(k) [B,H,S,R] and the log factors log m [B,H,S].

        Args:
            x: Keys [B,H,S,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,S,R] and log factors [B,H,S].
        """
        x = x * x.shape[-1] ** -0.25
        return KeyFeatures(*compute_positive_features_and_log_factor(x, projections.to(x.dtype)))

    def compute_key_log_factor_outside_backend(self, x: Float[Tensor, "B H N D"]) -> None:
        """None: the backends compute the factors together with the features."""

    def describe_for_backends(self, projections: Projections) -> MapDescription:
        """The same map for the backends.

        Args:
            projections: What `choose_projections` returned.

        Returns:
            The name, the scaled projections and the factor of |k|².
        """
        width = projections.shape[-1]
        return MapDescription(
            "favor", projections.float() * width**-0.25, squared_length_factor=width**-0.5 / 2
        )


@dataclass(frozen=True, config=PART)
class Favor(FeatureMapPart):
    """FAVOR+ of the Performer: estimates softmax attention with the scaled dot product.

    Args:
        features: R, the number of random vectors.
        orthogonal: Whether projections are block-orthogonal, which lowers the variance of the estimate.
        redraw: Whether each training call uses one of `pool` sets of projections; evaluation uses the fixed
            one.
        pool: The number of sets of projections for training.

    References:
        Choromanski et al. 2021, lemma 1: E[φ(q)·φ(k)] = exp(q·k / sqrt(D)).

    Example:
        >>> import qkv, torch
        >>> layer = qkv.Attention(16, heads=2, kernel=qkv.Favor(32)).eval()
        >>> layer.attend(torch.randn(1, 5, 16)).weights.shape
        torch.Size([1, 2, 5, 5])
    """

    features: PositiveInt = 64
    _: KW_ONLY
    orthogonal: bool = True
    redraw: bool = True
    pool: PositiveInt = 500

    name: ClassVar[str] = "favor"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = R^-1/2 exp(W x' - |x'|²/2),  x' = x D^-1/4"
    paper: ClassVar[str] = "Choromanski et al. 2021, lemma 1"
    estimates: ClassVar[str] = "softmax of q·k / sqrt(D)"
    has_key_weights: ClassVar[bool] = True

    def _build_map_and_floor(
        self, dims: Dims, generator: torch.Generator | None
    ) -> tuple[PositiveMap, float]:
        return PositiveMap(dims, self, generator), FLOOR

    def _count_projections(self) -> int:
        return self.features

    def _count_features(self, dims: Dims) -> int:
        return self.features
