"""A feature map as the fast engines know it: by name and numbers, so that they need none of its code."""

from typing import NamedTuple

from torch import Tensor

MAPS = {"gaussian": 0, "arccos": 1, "favor": 2, "elu": 3}


class Kind(NamedTuple):
    """What a feature map is to an engine: its name in MAPS, W [H,R,D] with everything that scales it,
    whether vectors are scaled to length 1, and what |k|² lowers a key's log mass by.
    """

    map: str
    matrix: Tensor | None = None
    unit: bool = False
    square: float = 0.0
