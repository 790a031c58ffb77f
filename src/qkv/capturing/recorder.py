"""Records the weights of one attention layer, by replacing methods of its evaluator during a capture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkv.capturing.storage import Storage, count_bytes, pool_weights
from qkv.errors import BadData
from qkv.kernel.masking import Masking
from qkv.shapes import Attended

METHODS = ("forward", "attend", "start", "extend", "attend_to_state")


class CapturedCall(NamedTuple):
    """What one call of an attention layer computed, for the captured heads.

    Args:
        attended: The output per head [B,H,T,E], the weights [B,H,T,S], and log_prob [B,H,T] where the
            selection sampled.
        is_self: Whether the queries are the keys.
        is_step: Whether the call was a step of decoding, over all keys so far.
        keep: [B,S], True for real keys; None where all are real.
        positions: [B,H,T], the positions that a predictive scope computed from the queries; None for others.
        gate: [B,H,S], the values of the forget gate, between 0 and 1; None without a gate.
    """

    attended: Attended
    is_self: bool
    is_step: bool
    keep: Tensor | None = None
    positions: Tensor | None = None
    gate: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """The weights [B,H,T,S]."""
        assert self.attended.weights is not None
        return self.attended.weights


class Recorder:
    """Records the calls of one layer between `attach` and `detach`.

    A call without weights runs unchanged, so that its output is that of the fast backend. The weights are
    then computed by a second call with the same random numbers, without gradients. Where the selection
    samples, one call returns both, so that the sample is the one that the output used.

    Args:
        name: The name of the layer in its model.
        layer: The layer, with `core` and `spec`.
        heads: The heads to keep; None keeps all.
        storage: Counts the bytes that are kept.
    """

    def __init__(self, name: str, layer: Any, heads: tuple[int, ...] | None, storage: Storage) -> None:
        self.name, self.spec, self.heads, self.storage = name, layer.spec, heads, storage
        self.core: Any = layer.core
        self.calls: list[CapturedCall] = []
        self._original: dict[str, Callable[..., Any]] = {}
        self._replaced: list[tuple[nn.Module, str, Any]] = []
        self._is_inside = False
        self._predicted: list[Tensor] = []
        self._memory_keep: Tensor | None = None  # of the last state that `start` returned

    def attach(self) -> None:
        """Replace the methods of the evaluator by methods that record."""
        self._original = {name: getattr(self.core, name) for name in METHODS}
        for name in METHODS:
            self._replace(self.core, name, getattr(self, f"_{name}"))
        if self.spec.scope.predicts_positions:
            predict = self.core.scope.predict
            self._replace(self.core.scope, "predict", lambda *inputs: self._keep_predicted(predict(*inputs)))

    def detach(self) -> None:
        """Give the evaluator its own methods back."""
        while self._replaced:
            module, name, previous = self._replaced.pop()
            delattr(module, name)
            if previous is not None:
                setattr(module, name, previous)

    def _replace(self, module: nn.Module, name: str, method: Callable[..., Any]) -> None:
        self._replaced.append((module, name, module.__dict__.get(name)))
        setattr(module, name, method)

    def _forward(self, q: Tensor, k: Tensor, v: Tensor, masking: Masking = Masking()) -> Tensor:
        if self._is_inside:
            return self._original["forward"](q, k, v, masking)
        if self.spec.select.samples and self.core.training:
            return self._attend(q, k, v, masking).out
        replay = _save_random_state(q) if self.core.training else nullcontext
        with self._enter():
            out = self._original["forward"](q, k, v, masking)
        self.storage.check(self.name, self._estimate_bytes(q, k))
        with torch.no_grad(), replay(), self._enter():
            examples = self._slice_examples(q, k, v, masking)
            parts = [self._read(self._original["attend"](*inputs)) for inputs in examples]
        self._record(_concatenate(parts)._replace(out=self._select(out).detach()), masking, is_step=False)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, masking: Masking = Masking()) -> Attended:
        if self._is_inside:
            return self._original["attend"](q, k, v, masking)
        self.storage.check(self.name, self._estimate_bytes(q, k))
        with self._enter():
            attended = self._original["attend"](q, k, v, masking)
        self._record(self._read(attended), masking, is_step=False)
        return attended

    def _start(self, k: Tensor, v: Tensor, masking: Masking = Masking(), return_weights: bool = False) -> Any:
        if self._is_inside:
            return self._original["start"](k, v, masking, return_weights)
        self._memory_keep = masking.keep
        with self._enter():
            return self._original["start"](k, v, masking, True)

    def _extend(
        self, state: Any, q: Tensor, k: Tensor, v: Tensor, masking: Masking = Masking()
    ) -> tuple[Attended, Any]:
        with self._enter() as was_inside:
            attended, state = self._original["extend"](state, q, k, v, masking)
        if not was_inside:
            self._record_step(attended, masking._replace(keep=None, is_self=True))
        return attended, state

    def _attend_to_state(self, q: Tensor, state: Any) -> tuple[Attended, Any]:
        with self._enter() as was_inside:
            attended, after = self._original["attend_to_state"](q, state)
        if not was_inside:
            is_same_batch = self._memory_keep is not None and len(self._memory_keep) == len(q)
            self._record_step(attended, Masking(keep=self._memory_keep if is_same_batch else None))
        return attended, after

    def _record_step(self, attended: Attended, masking: Masking) -> None:
        if attended.weights is None:
            raise BadData(
                f"the decode state of {self.name} was started outside of the capture and keeps no weights: "
                "call start() inside `with qkv.capture(...)`"
            )
        self._record(self._read(attended), masking, is_step=True)

    def _record(self, attended: Attended, masking: Masking, is_step: bool) -> None:
        positions = torch.cat(self._predicted, 2)[..., 0] if self._predicted else None
        gate = None if masking.gate is None else masking.gate.detach().sigmoid()
        call = CapturedCall(
            attended=attended,
            is_self=masking.is_self,
            is_step=is_step,
            keep=masking.keep,
            positions=None if positions is None else self._select(positions),
            gate=None if gate is None else self._select(gate),
        )
        self._predicted = []
        self.storage.add(self.name, count_bytes(attended))
        self.calls.append(call)

    def _read(self, attended: Attended) -> Attended:
        """The captured heads of a result, without gradients, pooled."""
        out, weights, log_prob = (None if x is None else self._select(x.detach()) for x in attended)
        if weights is not None and self.storage.pool > 1:
            weights = pool_weights(weights, self.storage.pool)
        assert out is not None
        return Attended(out, weights, log_prob)

    def _select(self, x: Tensor) -> Tensor:
        return x if self.heads is None else x[:, list(self.heads)]

    def _estimate_bytes(self, q: Tensor, k: Tensor) -> int:
        """The bytes of the weights that one call forms: of all heads, and of one example where it pools."""
        batch, heads, queries, _ = q.shape
        return (1 if self.storage.pool > 1 else batch) * heads * queries * k.shape[2] * q.element_size()

    def _slice_examples(self, q: Tensor, k: Tensor, v: Tensor, masking: Masking) -> Iterator[tuple[Any, ...]]:
        """The inputs of every call of `attend`: all, or those of one example where weights are pooled."""
        if self.storage.pool == 1 or q.shape[0] == 1:
            yield q, k, v, masking
            return
        for row in range(q.shape[0]):
            keep, allow, bias, gate = (
                x if x is None or len(x) != len(q) else x[row : row + 1]
                for x in (masking.keep, masking.allow, masking.bias, masking.gate)
            )
            sliced = Masking(keep, allow, bias, masking.is_self, gate)
            yield *(x[row : row + 1] for x in (q, k, v)), sliced

    def _keep_predicted(self, positions: Tensor) -> Tensor:
        self._predicted.append(positions.detach())
        return positions

    @contextmanager
    def _enter(self) -> Iterator[bool]:
        """Mark calls that the evaluator makes of its own methods, which are not recorded."""
        was_inside, self._is_inside = self._is_inside, True
        if not was_inside:
            self._predicted = []
        try:
            yield was_inside
        finally:
            self._is_inside = was_inside


def _concatenate(parts: list[Attended]) -> Attended:
    """One result from those of the examples of a batch."""
    out, weights, log_prob = (
        None if any(x is None for x in values) else torch.cat(values) if len(parts) > 1 else values[0]
        for values in zip(*parts, strict=True)
    )
    assert out is not None
    return Attended(out, weights, log_prob)


def _save_random_state(like: Tensor) -> Callable[[], Any]:
    """A context in which torch draws again the numbers that it draws from now on."""
    devices = [like.device] if like.device.type == "cuda" else []
    cpu, device_states = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]

    @contextmanager
    def replay() -> Iterator[None]:
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(cpu)
            for device, state in zip(devices, device_states, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    return replay
