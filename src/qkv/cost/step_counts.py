"""Traces of one training step on the meta device: its operations by component, and the memory it needs."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkv.cost.components import OTHERS, PROJECTIONS, RECOMPUTED, ComponentStack
from qkv.cost.modes import FusedAttentionOfCPU, KnownValues, LiveMemory, OperationCounter
from qkv.cost.precision import Autocast
from qkv.cost.workload import Workload
from qkv.tracing import use_backends_of


class Operations(NamedTuple):
    """The operations of one step; a multiplication and an addition are two.

    Args:
        forward: component -> operations of a forward pass with its loss, in evaluation.
        training: component -> operations of a forward and backward pass.
    """

    forward: dict[str, int]
    training: dict[str, int]


class Memory(NamedTuple):
    """The memory of one training step, in bytes.

    Args:
        weights: parameters and buffers.
        gradients: of the parameters.
        optimizer: the two moments of Adam.
        saved: the tensors that the forward pass stores for the backward pass, weights excluded; with several
            passes, those of the one that stores most.
        peak: the largest sum of all of these and of temporary tensors at any time of the step.
    """

    weights: int
    gradients: int
    optimizer: int
    saved: int
    peak: int


def count_operations(workload: Workload) -> Operations:
    """Count the operations of a step as torch's FlopCounterMode counts them on the meta device.

    They are those of the plain operators, whatever backend runs, and those of all pairs under a causal mask.

    Args:
        workload: the step, on the meta device.

    Returns:
        The operations by component.  What the backward pass computes again is a component of its own.
    """
    stack, objective = ComponentStack(workload.model), workload.objective
    forward = OperationCounter(stack.get)
    objective.eval()
    with torch.no_grad(), KnownValues(workload.selected), forward:
        for turn in workload.turns:
            workload.compute_loss(turn)
    in_forward, running = OperationCounter(stack.get), GradientComponents(stack.get)
    in_backward = OperationCounter(running.get)
    objective.train()
    with KnownValues(workload.selected):
        for turn in workload.turns:
            with in_forward, running.watch():
                loss = workload.compute_loss(turn)
            with in_backward:
                loss.backward()
            _clear_gradients(workload.model)
    return Operations(dict(forward.operations), dict(in_forward.operations + in_backward.operations))


class GradientComponents:
    """Knows whose gradients the backward pass computes, from the stored tensors that it reads.

    Args:
        get_component: returns the name of the component that runs in the forward pass.
    """

    def __init__(self, get_component: Callable[[], str]) -> None:
        self._get_component = get_component
        self._component = OTHERS

    def watch(self) -> Any:
        """A context for the forward pass, in which every stored tensor is noted with its component."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def get(self) -> str:
        """The component whose gradient is computed, or `RECOMPUTED`."""
        if not torch.is_grad_enabled():
            return self._component
        # Only cores of attention are computed again, after the gradient of the projection of their output.
        self._component = self._component.removesuffix(PROJECTIONS)
        return RECOMPUTED

    def _pack(self, tensor: Tensor) -> tuple[Tensor, str]:
        return tensor, self._get_component()

    def _unpack(self, packed: tuple[Tensor, str]) -> Tensor:
        tensor, self._component = packed
        return tensor


def measure_memory_of_step(workload: Workload, dtype: torch.dtype | None = None) -> Memory:
    """Follow the memory of a training step, as a CPU would need it.

    Args:
        workload: the step, on the meta device or on a CPU.
        dtype: the half-precision format of matrix products on the meta device; None: single precision.

    Returns:
        The memory.
    """
    model = workload.model
    workload.objective.train()
    weights = _sum_bytes([*model.parameters(), *model.buffers()])
    gradients = _sum_bytes([weight for weight in model.parameters() if weight.requires_grad])
    most_saved = 0
    memory = LiveMemory()
    memory.add(tuple(workload.batch))
    with ExitStack() as modes:
        modes.enter_context(use_backends_of("cpu"))
        modes.enter_context(FusedAttentionOfCPU())
        modes.enter_context(KnownValues(workload.selected))
        modes.enter_context(memory)
        for turn in workload.turns:
            saved = SavedTensors([*model.parameters(), *model.buffers()])
            with saved.watch(), Autocast(dtype):
                loss = workload.compute_loss(turn)
            saved.release()
            most_saved = max(most_saved, saved.bytes)
            loss.backward()
            del loss
            _clear_gradients(model)
    optimizer = 2 * gradients
    return Memory(weights, gradients, optimizer, most_saved, weights + optimizer + memory.peak)


class SavedTensors:
    """The storages that autograd stores in a forward pass.

    Args:
        excluded: tensors whose storages do not count, such as weights.
    """

    def __init__(self, excluded: list[Tensor]) -> None:
        self._excluded = {tensor.untyped_storage()._cdata for tensor in excluded}
        self._storages: dict[int, Any] = {}
        self.bytes = 0

    def watch(self) -> Any:
        """A context in which every stored tensor is noted."""
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def release(self) -> None:
        """Let go of the storages, which kept their addresses from being used again."""
        self._storages.clear()

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._excluded and storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor


def _clear_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _sum_bytes(tensors: list[Any]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
