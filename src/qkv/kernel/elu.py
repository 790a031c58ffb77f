"""The feature map of the linear Transformer, without random numbers or parameters.

Katharopoulos et al. 2020.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.kernel.feature_map import BackendMap, KeyFeatures, MapDescription
from qkv.kernel.feature_map_part import FeatureMapPart
from qkv.kernel.sums import Features
from qkv.shapes import Dims
from qkv.strict import PART

# Every feature is positive: the floor only keeps the denominator in the range of float32.
FLOOR = 1e-20


def compute_elu_features(x: Float[Tensor, "B H N D"]) -> Features:
    """φ(x) = elu(x) + 1 [B,H,N,D], also precise where it is tiny.  Katharopoulos et al. 2020, eq. 7.

    Args:
        x: Queries or keys [B,H,N,D].

    Returns:
        Features [B,H,N,D], all positive.
    """
    return x.clamp_max(0).exp() + x.relu()


class EluMap(BackendMap):
    """φ(x) = elu(x) + 1 of queries and of keys.

    Args:
        dims: Heads, and the widths per head.
    """

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.width = dims.query

    def choose_projections(self) -> None:
        """None: this map has no random projections."""

    def map_queries(self, x: Float[Tensor, "B H N D"], projections: None) -> Features:
        """φ(q) [B,H,T,D]."""
        return compute_elu_features(x)

    def map_keys(self, x: Float[Tensor, "B H N D"], projections: None) -> KeyFeatures:
        """φ(k) [B,H,S,D]; every key has the weight 1."""
        return KeyFeatures(compute_elu_features(x), None)

    def compute_key_log_factor_outside_backend(self, x: Float[Tensor, "B H N D"]) -> None:
        """None: every key has the weight 1."""

    def describe_for_backends(self, projections: None) -> MapDescription:
        """The same map for the backends.

        Args:
            projections: None.

        Returns:
            The name of the map.
        """
        return MapDescription("elu")


@dataclass(frozen=True, config=PART)
class Elu(FeatureMapPart):
    """The linear Transformer: positive features at the lowest cost, which estimate no exact attention.

    References:
        Katharopoulos et al. 2020, eq. 7.

    Example:
        >>> import qkv, torch
        >>> layer = qkv.Attention(16, heads=2, kernel=qkv.Elu(), causal=True)
        >>> layer(torch.randn(1, 1000, 16)).shape
        torch.Size([1, 1000, 16])
    """

    name: ClassVar[str] = "elu"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = elu(x) + 1"
    paper: ClassVar[str] = "Katharopoulos et al. 2020, eq. 7"
    estimates: ClassVar[str] = ""

    def _build_map_and_floor(self, dims: Dims, generator: torch.Generator | None) -> tuple[EluMap, float]:
        return EluMap(dims), FLOOR

    def _count_features(self, dims: Dims) -> int:
        return dims.query
