"""Where a trained model computes."""

from typing import Any

import torch

from qkv.errors import UnknownName


def find_device(wanted: Any) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises UnknownName for what is no device, or is not on this machine.
    """
    if wanted == "auto":
        wanted = next(kind for kind in ("cuda", "mps", "cpu") if _count(kind))
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError):
        raise UnknownName(f"no device {wanted!r}: use cpu, cuda, cuda:1, mps or auto") from None
    if (device.index or 0) >= _count(device.type):
        raise UnknownName(f"torch finds no device '{device}' on this machine: use 'cpu' or 'auto'")
    return device


def _count(kind: str) -> int:
    """How many devices of a kind there are here."""
    if kind == "cuda":
        return torch.cuda.device_count()
    return int(kind == "cpu" or (kind == "mps" and torch.backends.mps.is_available()))
