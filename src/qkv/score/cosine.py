"""The score that compares directions alone, content addressing in the Neural Turing Machine."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions

# Shorter vectors are divided by this length instead of their own, which bounds the gradient at 1 / SHORTEST.
SHORTEST = 1e-3


def unit(x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
    """x / max(|x|, SHORTEST): the direction of every vector; zero stays zero."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # By the square: the length has no second derivative at zero, where padding and unused keys stand.
    return (wide * wide.square().sum(-1, keepdim=True).clamp_min(SHORTEST**2).rsqrt()).to(x.dtype)


def cosine(q: Query, unit_k: Key, strength: float) -> Logits:
    """score(q, k) = β cos(q, k)  [B,H,T,S], for keys of length 1.  Graves et al. 2014, eq. 5 and 6."""
    return strength * (unit(q) @ unit_k.mT)


@dataclass(frozen=True, config=PART)
class Cosine(Part):
    """Cosine similarity.  Scores lie within ±`strength` (β), so small values keep attention flat."""

    strength: PositiveFloat = 1.0

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "cosine"
    formula: ClassVar[str] = "β q·k / (|q| |k|)"
    paper: ClassVar[str] = "Graves et al. 2014, eq. 5 and 6"
    learns: ClassVar[bool] = False
    two_widths: ClassVar[bool] = False
    positional: ClassVar[bool] = False
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = True
    has_native_scores: ClassVar[bool] = False
    numbers_per_pair: ClassVar[int] = 1

    def build(self, dims: Dims) -> Any:
        """The score itself: it owns no parameters."""
        return self

    def prepare(self, k: Key) -> Key:
        """The keys scaled to length 1."""
        return unit(k)

    def __call__(self, q: Query, prepared: Key, at: TokenPositions | None = None) -> Logits:
        """Scores of every query with every prepared key."""
        return cosine(q, prepared, self.strength)
