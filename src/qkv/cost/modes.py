"""Modes that watch a step on the meta device: operations, stored tensors, masks without values."""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from qkv.tracing import find_backend_device

aten: Any = torch.ops.aten

# The output layer adds products in place, which FlopCounterMode does not know.
FORMULAS = {**flop_registry, aten.addmm_: flop_registry[aten.addmm]}

DRAWING_FUNCTIONS = frozenset(
    [
        *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
        *(nn.init.kaiming_uniform_, nn.init.xavier_uniform_, Tensor.normal_, Tensor.uniform_),
    ]
)


class KnownValues(TorchDispatchMode):
    """Answers what a step reads from the values of meta tensors: which rows a mask selects, and their order.

    Args:
        selected: how many rows a mask selects; None: all.
    """

    def __init__(self, selected: int | None = None) -> None:
        super().__init__()
        self.selected = selected

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator."""
        if func is aten.index.Tensor and (mask := _find_meta_mask(args)) is not None:
            source = args[0]
            return source.new_empty(self.selected or mask.numel(), *source.shape[mask.dim() :])
        if func is aten.nonzero.default and args[0].is_meta:
            return args[0].new_empty(args[0].numel(), args[0].dim(), dtype=torch.int64)
        if func is aten._to_copy.default and args[0].is_meta and _is_cpu((kwargs or {}).get("device")):
            # packing sequences reads the order of the rows: it stays as it is
            return torch.arange(args[0].numel(), device="cpu").view(args[0].shape)
        return func(*args, **(kwargs or {}))


class OperationCounter(TorchDispatchMode):
    """Counts the operations of matrix products and convolutions by component, as FlopCounterMode counts them.

    Args:
        get_component: returns the name of the component that runs.
    """

    def __init__(self, get_component: Callable[[], str]) -> None:
        super().__init__()
        self.get_component = get_component
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in FORMULAS:
            operations = FORMULAS[func._overloadpacket](*args, **kwargs, out_val=out)
            self.operations[self.get_component()] += operations
        return out


class LiveMemory(TorchDispatchMode):
    """Follows the bytes of all storages that operators return: those alive, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def add(self, tensors: Any) -> None:
        """Add the storages of tensors that exist already.

        Args:
            tensors: any nesting of tensors.
        """
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                self._add_storage(tensor.untyped_storage())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and add what it returns."""
        out = func(*args, **(kwargs or {}))
        self.add(out)
        return out

    def _add_storage(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def drop(_: Any) -> None:
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, drop)
        self.live += size
        self.peak = max(self.peak, self.live)


class NoInitialValues(TorchFunctionMode):
    """Leaves new weights on the meta device as they are, where drawing values takes most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in DRAWING_FUNCTIONS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


class FusedAttentionOfCPU(TorchFunctionMode):
    """Lets fused attention on the meta device store what torch's operator for CPUs stores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and find_backend_device(args[0]) == "cpu":
            return _attend_as_on_cpu(*args, **kwargs)
        return func(*args, **kwargs)


def _attend_as_on_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The operator that torch chooses on a CPU: one that stores no weights, unless it cannot be used."""
    if dropout or enable_gqa or q.shape[-1] != v.shape[-1] or 0 in q.shape or 0 in k.shape:
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, **options)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    attend = aten._scaled_dot_product_flash_attention_for_cpu
    return attend(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)[0]


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _find_meta_mask(args: tuple[Any, ...]) -> Tensor | None:
    """The only index of a tensor, where it is a boolean mask on the meta device."""
    indices = args[1]
    mask = indices[0]
    is_mask = len(indices) == 1 and isinstance(mask, Tensor) and mask.is_meta and mask.dtype == torch.bool
    return mask if is_mask else None
