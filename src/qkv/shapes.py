"""The letters every shape in this library is written with, and what attention returns.

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
    """The sizes a part needs to build itself: heads, and the widths per head of queries, keys and values."""

    heads: int
    query: int
    key: int
    value: int


class Attended(NamedTuple):
    """What attention returns when it is asked to explain itself.

    out: [B,T,M] from a layer, [B,H,T,E] from the functional `attend`.
    weights: [B,H,T,S], zero where nothing may be attended; None where a step was not asked to keep them.
    log_prob: [B,H,T], the log-probability of a sampled selection; None where nothing was sampled.
    """

    out: Tensor
    weights: Tensor | None
    log_prob: Tensor | None = None
