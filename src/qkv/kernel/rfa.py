"""Random Feature Attention: random features of queries and keys replace a kernel (Peng et al. 2021).

gaussian  φ(x) = R^-1/2 [sin W x, cos W x]      E[φ(x)·φ(y)] = exp(-|σ∘(x - y)|² / 2τ²)
arccos    φ(x) = R^-1/2 ReLU(W x)               E[φ(x)·φ(y)] = |x'||y'| (sin θ + (π - θ) cos θ) / 2π

with W = σ∘W̃/τ, rows of W̃ from N(0, I), x' = σ∘x, and θ the angle between x' and y'.  The arc-cosine kernel
has no temperature: a common factor 1/τ of all features cancels in the average.

For unit vectors and scalar σ the Gaussian kernel is proportional to exp(σ² x·y / τ²).  For other vectors it
is exp(x'·y' / τ²) times a factor exp(-|x'|²/2τ²) of the query, which cancels, and the same factor of the key,
which the key's log weight |k'|²/2τ² compensates.
"""

from dataclasses import KW_ONLY, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.kernel.feature_map import KeyFeatures, MapDescription
from qkv.kernel.feature_map_part import FeatureMapPart
from qkv.kernel.masking import promote_to_float32
from qkv.kernel.projections import Projections, RandomFeatureMap
from qkv.kernel.sums import Features
from qkv.score.cosine import MIN_VECTOR_LENGTH, scale_to_unit_length
from qkv.shapes import Dims
from qkv.strict import PART

Vectors = Float[Tensor, "B H N D"]
KeyLogs = Float[Tensor, "B H N"]

# The standard deviation of an estimate from R features is up to (2R)^-1/2, and that of a sum of n independent
# estimates sqrt(n) times as large.  A smaller denominator is noise (see `sums`).  The floor is this number
# times R^-1/2, so that it vanishes as R grows.
GAUSSIAN_FLOOR = 0.5

# ReLU features are never negative: the floor only bounds the gradient.
ARCCOS_FLOOR = 1e-6


def compute_fourier_features(x: Vectors, projections: Projections) -> Features:
    """φ(x) = R^-1/2 [sin W x, cos W x], so that φ(x)·φ(x) = 1.  Peng et al. 2021, eq. 4; Rahimi & Recht 2007.

    Args:
        x: Queries or keys [B,H,N,D].
        projections: W [H,R,D].

    Returns:
        Features [B,H,N,2R].
    """
    angles = x @ projections.mT  # [B,H,N,D] @ [H,D,R] -> [B,H,N,R]
    return torch.cat([angles.sin(), angles.cos()], -1).mul_(projections.shape[1] ** -0.5)


def compute_arccos_features(x: Vectors, projections: Projections) -> Features:
    """φ(x) = R^-1/2 ReLU(W x).  Peng et al. 2021, section 3.1; Cho & Saul 2009, order 1.

    Args:
        x: Queries or keys [B,H,N,D].
        projections: W [H,R,D].

    Returns:
        Features [B,H,N,R], never negative.
    """
    return (x @ projections.mT).relu() * projections.shape[1] ** -0.5  # [B,H,N,D] @ [H,D,R] -> [B,H,N,R]


class BandwidthMap(RandomFeatureMap):
    """Base class of the maps with a learned bandwidth σ [H,1,D].

    Args:
        dims: Heads, and the widths per head.
        part: The part that the map belongs to.
        generator: Draws the fixed projections; None uses torch's global generator.
    """

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__(dims, part)
        self.normalise = part.normalise
        self.bandwidth = nn.Parameter(torch.empty(dims.heads, 1, dims.query))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new fixed projections, and set σ to 1.

        Args:
            generator: Draws the new projections; None uses torch's global generator.
        """
        super().reset_parameters(generator)
        nn.init.ones_(self.bandwidth)


class GaussianMap(BandwidthMap):
    """Features of the Gaussian kernel."""

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__(dims, part, generator)
        self.temperature, self.width = part.temperature, 2 * part.features

    def map_queries(self, x: Vectors, projections: Projections) -> Features:
        """φ(q) [B,H,T,2R].

        Args:
            x: Queries [B,H,T,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,T,2R].
        """
        matrix = self._apply_bandwidth_and_temperature(projections, x)
        return compute_fourier_features(scale_to_unit_length(x) if self.normalise else x, matrix)

    def map_keys(self, x: Vectors, projections: Projections) -> KeyFeatures:
        """φ(k) [B,H,S,2R] and the log factors [B,H,S].

        Args:
            x: Keys [B,H,S,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,S,2R] and log factors [B,H,S].
        """
        return KeyFeatures(self.map_queries(x, projections), self.compute_key_log_factor_outside_backend(x))

    def compute_key_log_factor_outside_backend(self, x: Vectors) -> KeyLogs | None:
        """|σ∘k|² / 2τ² [B,H,S]; None for normalised keys, which all have the same."""
        if self.normalise:
            return None
        x = promote_to_float32(x)
        scaled = self.bandwidth.to(x.dtype) * x / self.temperature
        return _clamp_to_largest_finite(scaled.square().sum(-1) / 2)

    def describe_for_backends(self, projections: Projections) -> MapDescription:
        """The same map for the backends.

        Args:
            projections: What `choose_projections` returned.

        Returns:
            The name, the scaled projections and whether vectors are normalised.
        """
        projections = projections.float()
        matrix = self._apply_bandwidth_and_temperature(projections, projections)
        return MapDescription("gaussian", matrix, self.normalise)

    def _apply_bandwidth_and_temperature(self, projections: Projections, like: Tensor) -> Projections:
        """W = σ∘W̃/τ in the dtype of `like`."""
        # States hold W̃ without σ, so that σ also learns from queries that follow a detached state.
        return (self.bandwidth.to(like.dtype) / self.temperature) * projections.to(like.dtype)


class ArccosMap(BandwidthMap):
    """Features of the arc-cosine kernel."""

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__(dims, part, generator)
        self.width = part.features

    def map_queries(self, x: Vectors, projections: Projections) -> Features:
        """φ(q) [B,H,T,R] of unit vectors, because the length of a query cancels.

        Args:
            x: Queries [B,H,T,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,T,R].
        """
        matrix = self.bandwidth.to(x.dtype) * projections.to(x.dtype)
        return compute_arccos_features(scale_to_unit_length(x), matrix)

    def map_keys(self, x: Vectors, projections: Projections) -> KeyFeatures:
        """φ(k) [B,H,S,R] of unit vectors, and the log factors [B,H,S].

        Args:
            x: Keys [B,H,S,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,S,R] and log factors [B,H,S].
        """
        return KeyFeatures(self.map_queries(x, projections), self.compute_key_log_factor_outside_backend(x))

    def compute_key_log_factor_outside_backend(self, x: Vectors) -> KeyLogs | None:
        """log |k| [B,H,S]; None for normalised keys."""
        if self.normalise:
            return None
        squares = _clamp_to_largest_finite(promote_to_float32(x).square().sum(-1))
        return squares.clamp_min(MIN_VECTOR_LENGTH**2).log() / 2

    def describe_for_backends(self, projections: Projections) -> MapDescription:
        """The same map for the backends.

        Args:
            projections: What `choose_projections` returned.

        Returns:
            The name and the scaled projections, for unit vectors.
        """
        matrix = self.bandwidth.float() * projections.float()
        return MapDescription("arccos", matrix, scales_to_unit_length=True)


def _clamp_to_largest_finite(x: Tensor) -> Tensor:
    """x, with infinity replaced by the largest finite number: keys of infinite length get a finite weight."""
    return x.clamp_max(torch.finfo(x.dtype).max)


FEATURE_MAPS = {"gaussian": GaussianMap, "arccos": ArccosMap}


@dataclass(frozen=True, config=PART)
class RFA(FeatureMapPart):
    """Random Feature Attention: random features of a Gaussian or arc-cosine kernel, in linear time.

    Args:
        features: R, the number of random vectors.  The Gaussian map has 2R features, the arc-cosine map R.
        kernel: "gaussian", random Fourier features; "arccos", ReLU features, which are never negative.
        gate: Whether a learned gate g lets the past decay, S_t = g_t S_{t-1} + (1 - g_t) φ(k_t) ⊗ v_t (Peng
            et al. 2021, eq. 7); causal attention only.
        temperature: τ of the Gaussian kernel; smaller is sharper.  The learned bandwidth σ sharpens it
            further, per head and dimension.  The arc-cosine kernel has none: a common factor cancels.
        normalise: Whether to scale queries and keys to length 1; otherwise longer keys get more weight.
        orthogonal: Whether projections are block-orthogonal, which lowers the variance of the estimate.
        redraw: Whether each training call uses one of `pool` sets of projections; evaluation uses the fixed
            one.
        pool: The number of sets of projections for training.

    Raises:
        BadRecipe: An option is out of range, or `temperature` is set for the arc-cosine kernel.

    References:
        Peng et al. 2021, eq. 5, and eq. 7 for the gate.

    Example:
        >>> import qkv, torch
        >>> layer = qkv.Attention(16, heads=2, kernel=qkv.RFA(32, gate=True), causal=True).eval()
        >>> layer(torch.randn(1, 1000, 16)).shape
        torch.Size([1, 1000, 16])
    """

    features: PositiveInt = 64
    kernel: Literal["gaussian", "arccos"] = "gaussian"
    gate: bool = False
    _: KW_ONLY
    temperature: PositiveFloat = 1.0
    normalise: bool = True
    orthogonal: bool = True
    redraw: bool = True
    pool: PositiveInt = 500

    name: ClassVar[str] = "rfa"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = R^-1/2 [sin W x, cos W x]"
    paper: ClassVar[str] = "Peng et al. 2021, eq. 5"

    @property
    def is_gated(self) -> bool:
        """Whether a gate computed from the layer's input lets the past decay."""
        return self.gate

    def without_gate(self) -> "RFA":
        """The same part with gate=False."""
        return replace(self, gate=False)

    @property
    def estimates(self) -> str:
        """The exact attention that this one estimates; "" where there is none."""
        if self.kernel == "arccos":
            return ""
        return "softmax of σ²·cosine / τ²" if self.normalise else "softmax of (σ∘q)·(σ∘k) / τ²"

    @model_validator(mode="after")
    def _refuse_temperature_for_arccos(self) -> "RFA":
        """Reject a temperature for the arc-cosine kernel."""
        if self.kernel == "arccos" and self.temperature != 1.0:
            raise ValueError(
                f"kernel='arccos' has no temperature, got temperature={self.temperature}: leave it out"
            )
        return self

    @property
    def has_key_weights(self) -> bool:
        """Whether keys have weights: longer keys count more, or a gate lets earlier ones decay."""
        return self.gate or not self.normalise

    def _build_map_and_floor(
        self, dims: Dims, generator: torch.Generator | None
    ) -> tuple[BandwidthMap, float]:
        floor = GAUSSIAN_FLOOR * self.features**-0.5 if self.kernel == "gaussian" else ARCCOS_FLOOR
        return FEATURE_MAPS[self.kernel](dims, self, generator), floor

    def _count_projections(self) -> int:
        return self.features

    def _count_features(self, dims: Dims) -> int:
        return 2 * self.features if self.kernel == "gaussian" else self.features
