"""What a feature map provides to linear attention, and how a backend describes one.

`linear.Linear` accepts any module with the members of `FeatureMap`.  The backends in `native` and `triton`
have feature maps of their own.  They need no code of the module, only its `MapDescription`.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

# The number of every map that the backends know.  Operators accept numbers, not names.
MAP_NUMBERS = {"gaussian": 0, "arccos": 1, "favor": 2, "elu": 3}

# The maps whose features a backend divides by their maximum per key; it adds the log of the maximum to the
# log weight of the key.
RESCALING_MAPS = ("favor",)
RESCALING_MAP_NUMBERS = tuple(MAP_NUMBERS[name] for name in RESCALING_MAPS)


class KeyFeatures(NamedTuple):
    """The features of keys.

    Args:
        features: φ(k) [B,H,S,F].
        log_factor: log m [B,H,S] of the factors of φ(k); None for 0.
    """

    features: Tensor
    log_factor: Tensor | None


@runtime_checkable
class FeatureMap(Protocol):
    """A feature map φ, whose product φ(q)·φ(k) replaces a score."""

    width: int
    """F, the number of features."""

    def choose_projections(self) -> Any:
        """The random projections of one call, for queries and keys alike; None where nothing is random."""

    def map_queries(self, x: Tensor, projections: Any) -> Tensor:
        """φ(q) [B,H,T,F] of queries [B,H,T,D], up to a factor per query, which cancels.

        Args:
            x: Queries [B,H,T,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,T,F].
        """
        ...

    def map_keys(self, x: Tensor, projections: Any) -> KeyFeatures:
        """φ(k) [B,H,S,F] of keys [B,H,S,D], and log m [B,H,S] of the factors of φ(k); None for 0.

        Args:
            x: Keys [B,H,S,D].
            projections: What `choose_projections` returned.

        Returns:
            Features [B,H,S,F], and log factors [B,H,S] or None; any such pair will do.
        """
        ...


class MapDescription(NamedTuple):
    """A feature map as the backends know it.

    Args:
        map: A name in `MAP_NUMBERS`.
        matrix: The projections W [H,R,D] in float32, with everything that scales them; None for a map
            without.
        scales_to_unit_length: Whether vectors are scaled to length 1 first.
        squared_length_factor: The factor of |k|² that is subtracted from a key's log weight.
    """

    map: str
    matrix: Tensor | None = None
    scales_to_unit_length: bool = False
    squared_length_factor: float = 0.0


class BackendMap(nn.Module, ABC):
    """Base class of the feature maps that the backends know.  Any other map runs with torch operators."""

    @abstractmethod
    def describe_for_backends(self, projections: Any) -> MapDescription:
        """The same map for the backends.

        Args:
            projections: What `choose_projections` returned.

        Returns:
            The description.
        """

    @abstractmethod
    def compute_key_log_factor_outside_backend(self, x: Tensor) -> Tensor | None:
        """log m [B,H,S] of keys [B,H,S,D], without what a backend computes with the features; None for 0.

        Args:
            x: Keys [B,H,S,D].

        Returns:
            Log factors [B,H,S], or None.
        """
