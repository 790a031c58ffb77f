"""Random Feature Attention: random Fourier features of unit-norm queries and keys (Peng et al. 2021).

φ(x) = R^-1/2 [sin(w_1·x), …, sin(w_R·x), cos(w_1·x), …, cos(w_R·x)],   w_r = σ ∘ w̃_r / τ,   w̃_r ~ N(0, I)
E[φ(x)·φ(y)] = exp(-|σ∘(x - y)|² / 2τ²), which for unit vectors is proportional to exp(σ² x·y / τ²) for scalar
σ
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.kernel.linear import Linear
from qkv.part import Part
from qkv.shapes import Dims
from qkv.strict import PART

Projections = Float[Tensor, "H R D"]

# A kernel estimate's mean below this share of its largest possible value is noise: see `normalise`.
FLOOR = 1e-2

# Shorter vectors are scaled by this length instead of their own, which bounds the gradient at 1 / SHORTEST.
SHORTEST = 1e-3


def fourier_features(x: Float[Tensor, "B H N D"], projections: Projections) -> Float[Tensor, "B H N F"]:
    """φ(x) [B,H,N,2R] of vectors scaled to length 1; φ(x)·φ(x) = 1.  Peng et al. 2021, eq. 4; Rahimi & Recht
    2007.
    """
    angles = F.normalize(x, dim=-1, eps=SHORTEST) @ projections.mT
    return torch.cat([angles.sin(), angles.cos()], -1) * projections.shape[1] ** -0.5


def draw_projections(
    heads: int, features: int, width: int, orthogonal: bool, generator: torch.Generator | None = None
) -> Projections:
    """w̃ [H,R,D] with rows from N(0, I_D); `orthogonal` makes the rows within each block of D mutually
    orthogonal.

    Blocks are rotations whose rows get the lengths of independent normal vectors, so that every row by itself
    keeps its distribution.  Yu et al. 2016, section 3.
    """
    normal = torch.randn(heads, features, width, generator=generator)
    if not orthogonal:
        return normal
    blocks = -(-features // width)
    square = torch.randn(heads, blocks, width, width, generator=generator)
    rotation, upper = torch.linalg.qr(square)
    rotation = rotation * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    rows = rotation.mT.reshape(heads, blocks * width, width)[:, :features]
    return rows * normal.norm(dim=-1, keepdim=True)


class FourierFeatures(nn.Module):
    """The feature map with its learned bandwidth σ [H,1,D] and its fixed projections (a buffer)."""

    def __init__(self, dims: Dims, part: "RFA", generator: torch.Generator | None) -> None:
        super().__init__()
        self.part, self.shape = part, (dims.heads, part.features, dims.query, part.orthogonal)
        self.width = 2 * part.features
        self.bandwidth = nn.Parameter(torch.ones(dims.heads, 1, dims.query))
        self.register_buffer("fixed", draw_projections(*self.shape, generator))
        self.fixed: Tensor

    def draw(self) -> Projections:
        """The projections w of this call: drawn anew in training, the fixed ones in evaluation."""
        if self.training and self.part.redraw:
            normal = draw_projections(*self.shape).to(self.fixed)
        else:
            normal = self.fixed
        return self.bandwidth.to(normal.dtype) * normal / self.part.temperature

    def forward(self, x: Float[Tensor, "B H N D"], projections: Projections) -> Float[Tensor, "B H N F"]:
        """φ(x) [B,H,N,2R]."""
        return fourier_features(x, projections.to(x.dtype))


@dataclass(frozen=True, config=PART)
class RFA(Part):
    """Random Feature Attention.

    features: R, the number of random vectors (the map has 2R components).
    kernel: "gaussian", random Fourier features of the Gaussian kernel.
    temperature: τ; smaller is sharper.  The learned bandwidth σ sharpens it further, per head and dimension.
    orthogonal: block-orthogonal projections, which lower the variance of the estimate.
    redraw: draw fresh projections at every call in training; evaluation always uses the fixed ones.
    """

    features: PositiveInt = 64
    kernel: Literal["gaussian"] = "gaussian"
    temperature: PositiveFloat = 1.0
    orthogonal: bool = True
    redraw: bool = True

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "rfa"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = R^-1/2 [sin W x, cos W x]"
    paper: ClassVar[str] = "Peng et al. 2021, eq. 5"
    forms_weights: ClassVar[bool] = False

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Linear:
        """The linear evaluator with this feature map."""
        return Linear(dims, FourierFeatures(dims, self, generator), FLOOR, parts.causal)
