"""The score that reads no key: the query says which positions it wants."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.errors import BadShape
from qkv.part import Part
from qkv.shapes import Dims, Key, Logits, Query
from qkv.strict import PART
from qkv.token_positions import TokenPositions
from qkv.tracing import always, can_read, is_recording, require


def location(q: Query, w: Float[Tensor, "H D L"], at: Int[Tensor, "#B S"]) -> Float[Tensor, "B H T S"]:
    """score(q, k at s) = (q W)[s]  [B,H,T,S].  Luong et al. 2015, section 3.1."""
    every = torch.einsum("bhtd,hdl->bhtl", q, w)
    # Padding ahead of the first key stands at -1; masks hide it, but it must point somewhere.
    return every.gather(-1, at.clamp_min(0)[:, None, None].expand(*q.shape[:3], -1))


class LocationScore(nn.Module):
    """score(q, k at s) = (q W)[s] with W [D,length] of every head its own."""

    numbers_per_pair = 1

    def __init__(self, dims: Dims, length: int) -> None:
        super().__init__()
        self.length = length
        self.w = nn.Parameter(torch.empty(dims.heads, dims.query, length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W anew: scores have a variance of 1 for unit-variance queries."""
        bound = (3 / self.w.shape[1]) ** 0.5
        nn.init.uniform_(self.w, -bound, bound)

    def prepare(self, k: Key) -> Float[Tensor, "B Hk S 0"]:
        """The number of keys is all that is needed of them."""
        return k[..., :0]

    def forward(self, q: Query, prepared: Float[Tensor, "B H S 0"], at: TokenPositions) -> Logits:
        """Scores of every query with every position that holds a key.

        Raises BadShape for more real keys than `length`.
        """
        keys = prepared.shape[2]
        # Counting real keys waits for the device, so it is left out where all of them fit anyway.
        if not always(keys <= self.length):
            problem = (
                f"knows {self.length} positions, got {_count(at)} keys: raise length, or pass fewer keys"
            )
            require(at.key_counts <= self.length, BadShape, f"Location(length={self.length}) {problem}")
        return location(q, self.w if is_recording(keys) else self.w[..., :keys], at.keys)


def _count(at: TokenPositions) -> str:
    """How many real keys the longest row has, where it can be told."""
    return str(int(at.key_counts.max())) if can_read(at.key_counts) else "more real"


@dataclass(frozen=True, config=PART)
class Location(Part):
    """Luong's location score.  `length` is the largest number of keys, padding not counted, that it serves;
    fewer use the first columns of W.
    """

    length: PositiveInt

    axis: ClassVar[str] = "score"
    name: ClassVar[str] = "location"
    formula: ClassVar[str] = "(q W)[s]"
    paper: ClassVar[str] = "Luong et al. 2015, section 3.1"
    learns: ClassVar[bool] = True
    two_widths: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    is_dot_product: ClassVar[bool] = False
    unprojected_by_default: ClassVar[bool] = False
    has_native_scores: ClassVar[bool] = False
    key_limit_option: ClassVar[str | None] = "length"

    def build(self, dims: Dims) -> LocationScore:
        """The module that owns W."""
        return LocationScore(dims, self.length)
