"""A feature map as the fast engines know it: by name and numbers, so that they need none of its code."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

MAPS = {"gaussian": 0, "arccos": 1, "favor": 2, "elu": 3}


class Kind(NamedTuple):
    """What a feature map is to an engine: its name in MAPS, W [H,R,D] with everything that scales it,
    whether vectors are scaled to length 1, what |k|² lowers a key's log mass by, and whether the backend
    scales each key's features by their maximum and adds its logarithm to the key's log mass.
    """

    map: str
    matrix: Tensor | None = None
    unit: bool = False
    square: float = 0.0
    rescales_keys: bool = False


# The maps, by their number, that rescale keys: an operator takes numbers only.
RESCALING_MAPS = (MAPS["favor"],)


class BackendMap(nn.Module, ABC):
    """Base of the feature maps that the backends know.  Any other map runs with torch's operators."""

    @abstractmethod
    def kind(self, projections: Any) -> Kind:
        """The same map for the backends."""

    @abstractmethod
    def log_mass(self, x: Tensor) -> Tensor | None:
        """The log mass [B,H,S] of keys [B,H,S,D] without what the backend adds; None for 0."""
