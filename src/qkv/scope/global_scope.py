"""The global scope: every key."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from qkv.part import Part
from qkv.shapes import Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions


@dataclass(frozen=True, config=PART)
class Global(Part):
    """Every query may attend to every key, within the masks and `causal`.

    References:
        Luong et al. 2015, section 3.1.

    Example:
        >>> q, k, v = (torch.randn(1, 1, 5, 8) for _ in range(3))
        >>> weights = qkv.attend(q, k, v, scope=qkv.Global()).weights
        >>> bool((weights > 0).all())
        True
    """

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

    def __call__(self, q: Query, positions: TokenPositions | None = None) -> tuple[None, None]:
        """Return no mask and no change of the weights.

        Args:
            q: Not used.
            positions: Not used.

        Returns:
            `(None, None)`.
        """
        return None, None
