"""Finds the device on which a trained model computes."""

from typing import Any

import torch

from qkv.errors import UnknownName


def find_device(name: Any) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Args:
        name: what torch calls the device, such as "cuda:1", or "auto".

    Raises:
        UnknownName: there is no such device, or not on this machine.
    """
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if _count_devices(kind))
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UnknownName(f"no device {name!r}: use cpu, cuda, cuda:1, mps or auto") from None
    if (device.index or 0) >= _count_devices(device.type):
        raise UnknownName(f"torch finds no device '{device}' on this machine: use 'cpu' or 'auto'")
    return device


def _count_devices(kind: str) -> int:
    """The number of devices of a kind on this machine."""
    if kind == "cuda":
        return torch.cuda.device_count()
    return int(kind == "cpu" or (kind == "mps" and torch.backends.mps.is_available()))
