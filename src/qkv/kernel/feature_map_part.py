"""The base class of the parts that choose attention through a feature map."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from qkv.kernel.linear import Linear
from qkv.kernel.operation_counts import LinearSizes, count_linear_operations
from qkv.part import Part
from qkv.shapes import Dims


class FeatureMapPart(Part):
    """Base class: a subclass builds the feature map, and says how many features it has.

    Attributes:
        has_key_weights: Whether keys have weights: factors of their features, or a gate.
    """

    axis: ClassVar[str] = "kernel"
    forms_weights: ClassVar[bool] = False
    is_gated: ClassVar[bool] = False
    has_key_weights: ClassVar[bool] = False

    def build_core(self, dims: Dims, parts: Any, generator: torch.Generator | None = None) -> Linear:
        """Build the linear evaluator with this feature map.

        Args:
            dims: Heads, and the widths per head.
            parts: The other choices of the attention; only `causal` is read.
            generator: Draws the fixed projections; None uses torch's global generator.

        Returns:
            The evaluator.
        """
        feature_map, floor = self._build_map_and_floor(dims, generator)
        return Linear(dims, feature_map, floor, parts.causal, self.is_gated)

    def count_operations(self, dims: Dims, queries: int, keys: int, pairs: int) -> int:
        """Count the operations of the random projections; see `Part.count_operations`.

        Args:
            dims: The number of heads, and the widths per head.
            queries: T.
            keys: S.
            pairs: The pairs of a query and a key that are computed.

        Returns:
            2·H·R·D for each query and key; 0 for a map without projections.
        """
        return 2 * dims.heads * self._count_projections() * dims.query * (queries + keys)

    def count_core_operations(self, dims: Dims, parts: Any, queries: int, keys: int) -> int:
        """Count the operations of the evaluator for one sequence.

        Args:
            dims: Heads, and the widths per head.
            parts: The other choices of the attention; only `causal` is read.
            queries: T.
            keys: S.

        Returns:
            The operations of a forward pass.
        """
        sizes = LinearSizes(dims, self._count_features(dims), parts.causal, self.has_key_weights)
        return count_linear_operations(self, sizes, queries, keys)

    @abstractmethod
    def _build_map_and_floor(self, dims: Dims, generator: torch.Generator | None) -> tuple[nn.Module, float]:
        """The feature map, and the smallest denominator (see `sums`)."""

    def _count_projections(self) -> int:
        """R, the number of random vectors; 0 for a map without."""
        return 0

    @abstractmethod
    def _count_features(self, dims: Dims) -> int:
        """F, the number of features."""
