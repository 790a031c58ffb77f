"""What decoding through a feature map carries from step to step."""

from typing import NamedTuple

import torch
from torch import Tensor

from qkv.kernel.masses import Masses, joined
from qkv.kernel.sums import Mapped, Sums
from qkv.shapes import Query
from qkv.state import Shared


class LinearState(NamedTuple):
    """Decode state of constant size.

    sums: [B,H,F,E+1], plain: [B,H,1,E+2], scale: [B,H,1,1] or None, as in `sums.Sums`.
    projections: what the feature map drew, so that keys and queries of one decode are mapped alike.
    seen: all keys, where the weights are to be shown; None otherwise.
    """

    sums: Tensor
    plain: Tensor
    scale: Tensor | None
    projections: Shared
    seen: "Seen | None" = None


class Seen(NamedTuple):
    """Everything a state has read, kept only where someone wants to look: φ(k) [B,H,S,F], keep [B,H,S] of 0
    and 1, and the masses.
    """

    phi: Tensor
    keep: Tensor
    masses: Masses | None


def sums_of(state: LinearState, q: Query) -> Sums:
    """The state's sums; an empty state cannot have known that float64 would be read."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    scale = None if state.scale is None else state.scale.to(dtype)
    return Sums(state.sums.to(dtype), state.plain.to(dtype), scale)


def seen_too(seen: Seen, keys: Mapped) -> Seen:
    """Everything seen, and these keys too."""
    masses = None if seen.masses is None or keys.masses is None else joined(seen.masses, keys.masses)
    keep = torch.cat([seen.keep, keys.values[..., -1]], 2)
    return Seen(torch.cat([seen.phi, keys.phi], 2), keep, masses)
