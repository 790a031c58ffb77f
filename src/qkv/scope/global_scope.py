"""The scope that hides nothing."""

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Dims, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


@dataclass(frozen=True, config=PART)
class Global(Part):
    """Every key may be seen (masks and `causal` still hold)."""

    axis: ClassVar[str] = "scope"
    name: ClassVar[str] = "global"
    formula: ClassVar[str] = "all s"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"
    learns: ClassVar[bool] = False
    normalised: ClassVar[bool] = True
    positional: ClassVar[bool] = False
    is_global: ClassVar[bool] = True
    reweights: ClassVar[bool] = False
    supports_causal: ClassVar[bool] = True
    reach: ClassVar[tuple[int, int] | None] = None

    def build(self, dims: Dims) -> Any:
        """The scope itself: it owns no parameters."""
        return self

    def __call__(self, q: Query, at: TokenPositions | None = None) -> tuple[None, None]:
        """Nothing is hidden, and the weights stay as they are."""
        return None, None
