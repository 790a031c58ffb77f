"""The part that chooses exact attention."""

from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass

from qkv.kernel.exact import Exact
from qkv.kernel.operation_counts import count_exact_operations
from qkv.part import Part
from qkv.shapes import Dims
from qkv.strict import PART


@dataclass(frozen=True, config=PART)
class Softmax(Part):
    """Exact attention: forms the weights from any score, scope and selection, softmax by default.

    References:
        Vaswani et al. 2017, eq. 1.

    Example:
        >>> import qkv, torch
        >>> layer = qkv.Attention(16, heads=2, kernel=qkv.Softmax()).eval()
        >>> weights = layer.attend(torch.randn(1, 5, 16)).weights
        >>> torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 5))
    """

    axis: ClassVar[str] = "kernel"
    name: ClassVar[str] = "softmax"
    formula: ClassVar[str] = "select(score(q, k)) v"
    paper: ClassVar[str] = "Vaswani et al. 2017, eq. 1"
    forms_weights: ClassVar[bool] = True
    is_gated: ClassVar[bool] = False
    estimates: ClassVar[str] = ""

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of the average of the values; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·E for each pair.
        """
        return 2 * dims.heads * dims.value * pairs

    def count_core_operations(self, dims: Dims, parts: Any, queries: int, keys: int) -> int:
        """Count the operations of the evaluator for one sequence.

        Args:
            dims: Heads, and the widths per head.
            parts: The other choices of the attention: `score`, `scope`, `select` and `causal`.
            queries: T.
            keys: S.

        Returns:
            The operations of a forward pass.
        """
        return count_exact_operations(self, dims, parts, queries, keys)

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Exact:
        """Build the exact evaluator.

        Args:
            dims: Heads, and the widths per head.
            parts: The other choices of the attention: `score`, `scope`, `select`, `causal` and `dropout`.
            generator: Not used: scores and scopes initialise their parameters from torch's global generator.

        Returns:
            The evaluator.
        """
        return Exact(dims, parts.score, parts.scope, parts.select, parts.causal, parts.dropout)
