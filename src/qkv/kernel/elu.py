"""The linear Transformer's feature map: no random numbers, no parameters (Katharopoulos et al. 2020)."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.kernel.kind import BackendMap, Kind
from qkv.kernel.linear import Linear
from qkv.kernel.sums import Features
from qkv.part import Part
from qkv.shapes import Dims
from qkv.strict import PART

# Every feature is positive: the floor only keeps the denominator away from what float32 cannot hold.
FLOOR = 1e-20


def elu_features(x: Float[Tensor, "B H N D"]) -> Features:
    """φ(x) = elu(x) + 1 [B,H,N,D], exact also where it is tiny.  Katharopoulos et al. 2020, eq. 7."""
    return x.clamp_max(0).exp() + x.relu()


class EluMap(BackendMap):
    """φ(x) = elu(x) + 1 of queries and of keys."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.width = dims.query

    def draw(self) -> None:
        """Nothing is random here."""

    def queries(self, x: Float[Tensor, "B H N D"], projections: None) -> Features:
        """φ(q) [B,H,T,D]."""
        return elu_features(x)

    def keys(self, x: Float[Tensor, "B H N D"], projections: None) -> tuple[Features, None]:
        """φ(k) [B,H,S,D]; every key has mass 1."""
        return elu_features(x), None

    def log_mass(self, x: Float[Tensor, "B H N D"]) -> None:
        """Every key has mass 1."""

    def kind(self, projections: None) -> Kind:
        """The same map for the fast engines."""
        return Kind("elu")


@dataclass(frozen=True, config=PART)
class Elu(Part):
    """The linear Transformer: positive features that estimate nothing, and cost least."""

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "elu"
    formula: ClassVar[str] = "φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k),  φ(x) = elu(x) + 1"
    paper: ClassVar[str] = "Katharopoulos et al. 2020, eq. 7"
    estimates: ClassVar[str] = ""
    forms_weights: ClassVar[bool] = False
    is_gated: ClassVar[bool] = False

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Linear:
        """The linear evaluator with this feature map."""
        return Linear(dims, EluMap(dims), FLOOR, parts.causal)
