"""Who looks at what is done with a tensor: where nobody does, it may be done out of torch's sight."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from qkv.transforms import transformed


def seen_by_none(tensors: Iterable[Any]) -> bool:
    """Whether these are numbers only: nobody wants gradients, traces or counts what is done with them.

    The memory of a view that negates does not hold its numbers, so such a view is not.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if traced or transformed() or is_in_torch_dispatch_mode():
        return False
    return all(x is None or (type(x) is Tensor and not x.requires_grad and not x.is_neg()) for x in tensors)
