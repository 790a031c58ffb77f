"""Scores that multiply queries and keys."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from qkv.score.product import ProductScore
from qkv.shapes import Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


def dot(q: Query, k: Key) -> Logits:
    """Compute score(q, k) = q·k.  Luong et al. 2015, section 3.1, dot.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,H,S,D].

    Returns:
        Scores [B,H,T,S].
    """
    return q @ k.mT


def scaled_dot(q: Query, k: Key) -> Logits:
    """Compute score(q, k) = q·k / sqrt(D).  Vaswani et al. 2017, eq. 1.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,H,S,D].

    Returns:
        Scores [B,H,T,S].
    """
    return (q * q.shape[-1] ** -0.5) @ k.mT  # scaling first keeps half precision from overflowing


class DotProduct(ProductScore):
    """Base of the dot-product scores, which use the keys as they are."""

    is_dot_product: ClassVar[bool] = True

    def prepare(self, k: Key) -> Key:
        """Return the keys unchanged: nothing can be computed without the queries.

        Args:
            k: Keys [B,H,S,D].

        Returns:
            The same keys.
        """
        return k


@dataclass(frozen=True, config=PART)
class Dot(DotProduct):
    """Dot product.  Its variance grows with the width, so softmax becomes sharper with the width.

    References:
        Luong et al. 2015, section 3.1.

    Example:
        >>> q, k, v = torch.ones(1, 1, 1, 4), torch.eye(4)[None, None], torch.eye(4)[None, None]
        >>> qkv.attention(q, k, v, score=qkv.Dot())
        tensor([[[[0.2500, 0.2500, 0.2500, 0.2500]]]])
    """

    name: ClassVar[str] = "dot"
    scale: ClassVar[float | None] = 1.0
    unprojected_by_default: ClassVar[bool] = True
    formula: ClassVar[str] = "q·k"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"

    def __call__(self, q: Query, prepared_keys: Key, positions: TokenPositions | None = None) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned: the keys [B,H,S,D].
            positions: Not used.

        Returns:
            Scores [B,H,T,S].
        """
        return dot(q, prepared_keys)


@dataclass(frozen=True, config=PART)
class ScaledDot(DotProduct):
    """Dot product divided by the square root of the width: unit-variance inputs have unit-variance scores.

    References:
        Vaswani et al. 2017, eq. 1.

    Example:
        >>> q, k, v = (torch.randn(2, 8, 10, 64) for _ in range(3))
        >>> expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        >>> torch.testing.assert_close(qkv.attention(q, k, v, score=qkv.ScaledDot()), expected)
    """

    name: ClassVar[str] = "scaled_dot"
    scale: ClassVar[float | None] = None
    unprojected_by_default: ClassVar[bool] = False
    formula: ClassVar[str] = "q·k / sqrt(D)"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"

    def __call__(self, q: Query, prepared_keys: Key, positions: TokenPositions | None = None) -> Logits:
        """Compute the scores of all pairs.

        Args:
            q: Queries [B,H,T,D].
            prepared_keys: What `prepare` returned: the keys [B,H,S,D].
            positions: Not used.

        Returns:
            Scores [B,H,T,S].
        """
        return scaled_dot(q, prepared_keys)
