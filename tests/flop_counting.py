"""torch's counter of operations, for what a step on the meta device computes."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten: Any = torch.ops.aten


class NoModules:
    """In place of the counter's module tracker, which is slow, and fails where hooks cannot follow."""

    parents = frozenset({"Global"})

    def __enter__(self) -> "NoModules":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def count_addmm_in_place(*args: Any, **kwargs: Any) -> int:
    """The operations of `addmm_`, which the counter leaves out."""
    return flop_registry[aten.addmm](*args, **kwargs)


count_addmm_in_place._get_raw = True


def make_counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping={aten.addmm_: count_addmm_in_place})
    counter.mod_tracker = NoModules()  # pyright: ignore[reportAttributeAccessIssue]
    return counter
