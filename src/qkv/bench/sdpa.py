"""torch's fused softmax attention as a core, with no code of this library around it: the baseline."""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.kernel.masking import Masking
from qkv.shapes import Attended, Key, Query, Value


class Cache(NamedTuple):
    """Decode state: all keys and values so far.

    Args:
        keys: [B, Hk, S, D].
        values: [B, Hk, S, E].
    """

    keys: Tensor
    values: Tensor


class FusedSoftmax(nn.Module):
    """softmax(q k^T / sqrt(D)) v by `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        causal: whether a query attends to no later key.
    """

    has_layer_step: ClassVar[bool] = False

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Tensor:
        """The output [B, H, T, E]; `masking` is ignored."""
        return _attend(q, k, v, self.causal)

    def start(self, k: Key, v: Value, masking: Masking = Masking(), return_weights: bool = False) -> Cache:
        """The cache that holds these keys and values."""
        return Cache(k, v)

    def extend(
        self, state: Cache, q: Query, k: Key, v: Value, masking: Masking = Masking()
    ) -> tuple[Attended, Cache]:
        """Append one position to the cache and attend from it."""
        keys, values = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        return Attended(_attend(q, keys, values, causal=False), None), Cache(keys, values)


def _attend(q: Query, k: Key, v: Value, causal: bool) -> Tensor:
    options: dict[str, Any] = {"is_causal": causal, "enable_gqa": q.shape[1] != k.shape[1]}
    return F.scaled_dot_product_attention(q, k, v, **options)
