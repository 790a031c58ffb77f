"""The cosine score, which ignores the lengths of vectors (content addressing of Neural Turing Machines)."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.score.product import ProductScore
from qkv.shapes import Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions

# Shorter vectors are divided by this length instead of their own: the gradient is at most 1 divided by it.
MIN_VECTOR_LENGTH = 1e-3


def scale_to_unit_length(x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
    """Compute x / max(|x|, MIN_VECTOR_LENGTH), the direction of every vector; zero stays zero.

    Args:
        x: Vectors [B,H,N,D].

    Returns:
        Vectors of length 1 in the dtype of x, [B,H,N,D].
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # The square is clamped, not the length, which has no second derivative at zero (padding, unused keys).
    return (wide * wide.square().sum(-1, keepdim=True).clamp_min(MIN_VECTOR_LENGTH**2).rsqrt()).to(x.dtype)


def cosine(q: Query, unit_keys: Key, strength: float) -> Logits:
    """Compute score(q, k) = β cos(q, k).  Graves et al. 2014, eq. 5 and 6.

    Args:
        q: Queries [B,H,T,D].
        unit_keys: Keys of length 1, [B,H,S,D].
        strength: β, the largest possible score.

    Returns:
        Scores [B,H,T,S].
    """
    return strength * (scale_to_unit_length(q) @ unit_keys.mT)


@dataclass(frozen=True, config=PART)
class Cosine(ProductScore):
    """Cosine similarity of the query and the key.

    Args:
        strength: β, the largest possible score; small values keep the weights nearly uniform.

    References:
        Graves et al. 2014, eq. 5 and 6.

    Example:
        >>> q, k, v = (torch.randn(1, 1, 3, 8) for _ in range(3))
        >>> weak = qkv.attend(q, k, v, score=qkv.Cosine(strength=0.1)).weights
        >>> bool((weak - 1 / 3).abs().max() < 0.03)
        True
    """

    strength: PositiveFloat = 1.0

    name: ClassVar[str] = "cosine"
    formula: ClassVar[str] = "β q·k / (|q| |k|)"
    paper: ClassVar[str] = "Graves et al. 2014, eq. 5 and 6"
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = True

    def prepare(self, k: Key) -> Key:
        """Scale the keys to length 1.

        Args:
            k: Keys [B,H,S,D].

        Returns:
            Keys of length 1, [B,H,S,D].
        """
        return scale_to_unit_length(k)

    def __call__(self, q: Query, prepared_keys: Key, positions: TokenPositions | None = None) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned, [B,H,S,D].
            positions: Not used.

        Returns:
            Scores [B,H,T,S].
        """
        return cosine(q, prepared_keys, self.strength)
