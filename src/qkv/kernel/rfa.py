"""Random Feature Attention: random features of queries and keys stand for a kernel (Peng et al. 2021).

gaussian  φ(x) = R^-1/2 [sin W x, cos W x]      E[φ(x)·φ(y)] = exp(-|σ∘(x - y)|² / 2τ²)
arccos    φ(x) = R^-1/2 ReLU(W x)               E[φ(x)·φ(y)] = |x'||y'| (sin θ + (π - θ) cos θ) / 2π

with W = σ∘W̃/τ, rows of W̃ from N(0, I), x' = σ∘x, θ the angle between x' and y'.  A common factor 1/τ of all
arccos features cancels in the average, so that kernel has no temperature.

For unit vectors and scalar σ the Gaussian kernel is proportional to exp(σ² x·y / τ²).  For others it is
exp(x'·y' / τ²) but for a factor exp(-|x'|²/2τ²) of the query, which cancels, and one of the key, which the
key's mass makes up for.
"""

from dataclasses import KW_ONLY, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.kernel.kind import Kind
from qkv.kernel.linear import Linear
from qkv.kernel.masking import wide
from qkv.kernel.projections import Projections, RandomFeatures
from qkv.kernel.sums import Features
from qkv.part import Part
from qkv.score.cosine import SHORTEST, scale_to_unit_length
from qkv.shapes import Dims
from qkv.strict import PART

Vectors = Float[Tensor, "B H N D"]

# An estimate from R features is off by up to (2R)^-1/2, and a sum of n of them by sqrt(n) times that where
# they err apart; what is smaller than about this is noise (see `sums`), and with R it vanishes.
NOISE = 0.5

# ReLU features are never negative; there the floor only bounds the gradient.
LEAST = 1e-6


def fourier_features(x: Vectors, projections: Projections) -> Features:
    """φ(x) [B,H,N,2R] = R^-1/2 [sin W x, cos W x]; φ(x)·φ(x) = 1.  Peng et al. 2021, eq. 4; Rahimi & Recht
    2007.
    """
    angles = x @ projections.mT
    return torch.cat([angles.sin(), angles.cos()], -1).mul_(projections.shape[1] ** -0.5)


def arccos_features(x: Vectors, projections: Projections) -> Features:
    """φ(x) [B,H,N,R] = R^-1/2 ReLU(W x).  Peng et al. 2021, section 3.1; Cho & Saul 2009, order 1."""
    return (x @ projections.mT).relu() * projections.shape[1] ** -0.5


class GaussianMap(RandomFeatures):
    """The Gaussian kernel's features, with their learned bandwidth σ [H,1,D]."""

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__(dims, part)
        self.normalise, self.temperature = part.normalise, part.temperature
        self.width = 2 * part.features
        self.bandwidth = nn.Parameter(torch.empty(dims.heads, 1, dims.query))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the fixed projections anew, and set σ to 1."""
        super().reset_parameters(generator)
        nn.init.ones_(self.bandwidth)

    def queries(self, x: Vectors, projections: Projections) -> Features:
        """φ(q) [B,H,T,2R]."""
        return fourier_features(
            scale_to_unit_length(x) if self.normalise else x, self._scaled(projections, x)
        )

    def keys(self, x: Vectors, projections: Projections) -> tuple[Features, Float[Tensor, "B H N"] | None]:
        """φ(k) [B,H,S,2R]; of keys with a length, the log mass |σ∘k|² / 2τ²."""
        return self.queries(x, projections), self.log_mass(x)

    def log_mass(self, x: Vectors) -> Float[Tensor, "B H N"] | None:
        """|σ∘k|² / 2τ² of keys with a length."""
        if self.normalise:
            return None
        x = wide(x)
        return _held((self.bandwidth.to(x.dtype) * x / self.temperature).square().sum(-1) / 2)

    def kind(self, projections: Projections) -> Kind:
        """The same map for the fast engines."""
        projections = projections.float()
        return Kind("gaussian", self._scaled(projections, projections), self.normalise)

    def _scaled(self, projections: Projections, x: Tensor) -> Projections:
        # Projections are drawn without σ, so that it learns also from what is read after a detached state.
        return (self.bandwidth.to(x.dtype) / self.temperature) * projections.to(x.dtype)


class ArccosMap(RandomFeatures):
    """The arc-cosine kernel's features, with their learned bandwidth σ [H,1,D]."""

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__(dims, part)
        self.normalise = part.normalise
        self.width = part.features
        self.bandwidth = nn.Parameter(torch.empty(dims.heads, 1, dims.query))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the fixed projections anew, and set σ to 1."""
        super().reset_parameters(generator)
        nn.init.ones_(self.bandwidth)

    def queries(self, x: Vectors, projections: Projections) -> Features:
        """φ(q) [B,H,T,R] of the unit vector: a query's length cancels."""
        return arccos_features(scale_to_unit_length(x), self.bandwidth.to(x.dtype) * projections.to(x.dtype))

    def keys(self, x: Vectors, projections: Projections) -> tuple[Features, Float[Tensor, "B H N"] | None]:
        """φ(k) [B,H,S,R] of the unit vector; of keys with a length, the log mass log |k|."""
        return self.queries(x, projections), self.log_mass(x)

    def log_mass(self, x: Vectors) -> Float[Tensor, "B H N"] | None:
        """log |k| of keys with a length."""
        if self.normalise:
            return None
        return _held(wide(x).square().sum(-1)).clamp_min(SHORTEST**2).log() / 2

    def kind(self, projections: Projections) -> Kind:
        """The same map for the fast engines."""
        return Kind("arccos", self.bandwidth.float() * projections.float(), unit=True)


def _held(x: Tensor) -> Tensor:
    """x, no larger than its type holds: a key whose length overflows is one of the longest, not infinite."""
    return x.clamp_max(torch.finfo(x.dtype).max)


MAPS = {"gaussian": GaussianMap, "arccos": ArccosMap}


@dataclass(frozen=True, config=PART)
class RFA(Part):
    """Random Feature Attention.

    features: R, the number of random vectors (the Gaussian map has 2R components, the arc-cosine map R).
    kernel: "gaussian", random Fourier features; "arccos", ReLU features, which are never negative.
    gate: a learned gate g lets the past fade, S_t = g_t S_{t-1} + (1 - g_t) φ(k_t) ⊗ v_t (Peng et al. 2021,
    eq. 7); causal attention only.
    temperature: τ of the Gaussian kernel; smaller is sharper, and the learned bandwidth σ sharpens it
    further, per head and dimension.  The arc-cosine kernel has none: a common factor cancels.
    normalise: scale queries and keys to length 1; otherwise longer keys count for more.
    orthogonal: block-orthogonal projections, which lower the variance of the estimate.
    redraw: in training every call takes one of `pool` sets of projections; evaluation uses the fixed one.
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

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "rfa"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = R^-1/2 [sin W x, cos W x]"
    paper: ClassVar[str] = "Peng et al. 2021, eq. 5"
    forms_weights: ClassVar[bool] = False

    @property
    def is_gated(self) -> bool:
        """Whether a gate computed from the layer's input lets the past decay."""
        return self.gate

    def without_gate(self) -> "RFA":
        """The same part with gate=False."""
        return replace(self, gate=False)

    @property
    def estimates(self) -> str:
        """What exact attention it estimates."""
        if self.kernel == "arccos":
            return ""
        return "softmax of σ²·cosine / τ²" if self.normalise else "softmax of (σ∘q)·(σ∘k) / τ²"

    @model_validator(mode="after")
    def _has_a_temperature(self) -> "RFA":
        if self.kernel == "arccos" and self.temperature != 1.0:
            raise ValueError("kernel='arccos' has no temperature: a common factor cancels. Leave it out")
        return self

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Linear:
        """The linear evaluator with this feature map."""
        features = MAPS[self.kernel](dims, self, generator)
        floor = NOISE * self.features**-0.5 if self.kernel == "gaussian" else LEAST
        return Linear(dims, features, floor, parts.causal, self.gate)
