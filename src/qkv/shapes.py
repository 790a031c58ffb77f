"""The shapes used in type annotations, and the result of attention with weights.

B batch · H heads · T query positions · S key positions · M model width
D query/key width per head · E value width per head · R random features · F features of a map · V vocabulary
"""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

Query = Float[Tensor, "B H T D"]
Key = Float[Tensor, "B Hk S D2"]
Value = Float[Tensor, "B Hk S E"]
Out = Float[Tensor, "B H T E"]
Logits = Float[Tensor, "B H T S"]
Weights = Float[Tensor, "B H T S"]
Keep = Bool[Tensor, "B S"]
Allow = Bool[Tensor, "#B #H #T #S"]


class Dims(NamedTuple):
    """The sizes that a part needs to build itself.

    Args:
        heads: H, the number of query heads.
        query: Width of a query per head.
        key: Width of a key per head.
        value: Width of a value per head.
    """

    heads: int
    query: int
    key: int
    value: int


class Attended(NamedTuple):
    """The output of attention together with the weights.

    Args:
        out: [B,T,M] from a layer, [B,H,T,E] from `qkv.attend`.
        weights: [B,H,T,S], zero where a key may not be attended; None where a step does not keep them.
        log_prob: [B,H,T], the log-probability of sampled keys; None where nothing was sampled.

    Example:
        >>> out, weights, log_prob = qkv.Attention(8, heads=2).attend(torch.randn(1, 5, 8))
        >>> weights.shape
        torch.Size([1, 2, 5, 5])
    """

    out: Tensor
    weights: Tensor | None
    log_prob: Tensor | None = None
