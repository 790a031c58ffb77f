"""The scope that hides nothing."""

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Allow, Dims, Query, Weights
from qkv.strict import PART


@dataclass(frozen=True, config=PART)
class Global(Part):
    """Every key may be seen (masks and `causal` still hold)."""

    axis: ClassVar[str] = "scope"
    name: ClassVar[str] = "global"
    formula: ClassVar[str] = "all s"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"
    normalised: ClassVar[bool] = True

    def build(self, dims: Dims) -> Any:
        """The scope itself: it owns no parameters."""
        return self

    def allow(self, q: Query, keys: int) -> Allow | None:
        """None: nothing is hidden."""
        return None

    def reweight(self, weights: Weights, q: Query) -> Weights:
        """The weights as they are."""
        return weights
