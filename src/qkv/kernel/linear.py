"""The linear evaluator: a feature map replaces the score, and sums over the keys replace the weights.

    w_ts = m_ts φ(q_t)·φ(k_s);   out_t = Σ_s w_ts v_s / Σ_s w_ts                    O(T + S) time and memory

with the masses m of `masses` (1 for most maps) and the sums of `sums`, which also say what happens where the
denominator is too small.  A feature map is a module with `width`, `draw() -> projections`,
`queries(x, projections) -> φ` and `keys(x, projections) -> (φ, log m or None)`: what a key is worth is
m·φ(k), and a factor that all features of a query share cancels.  A map that
the backends know is a `kind.BackendMap`; any other runs with torch's operators.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv import masks
from qkv.errors import BadMask, BadShape
from qkv.kernel import native, triton
from qkv.kernel.chunks import CHUNK, fold
from qkv.kernel.kind import BackendMap
from qkv.kernel.linear_state import LinearState, Seen, seen_too, sums_of
from qkv.kernel.masking import Masking, repeat_heads, wide
from qkv.kernel.masses import Masses, at_end, at_queries, highest, relative, weigh
from qkv.kernel.native import whole
from qkv.kernel.sums import Mapped, Sums, add_up, implied_weights, normalise, nothing, running
from qkv.shapes import Attended, Dims, Key, Query, Value, Weights
from qkv.state import Shared
from qkv.tracing import always, without_autocast

# Fast routes of the same sums, best first: each has `FEWEST` positions, `why_not(*tensors)`, `attend(...)`.
ENGINES = (native, triton)


class Linear(nn.Module):
    """Attention through a feature map: never forms the T×S weights unless it is asked to show them."""

    has_layer_step: ClassVar[bool] = True

    def __init__(self, dims: Dims, features: Any, floor: float, causal: bool, gated: bool = False) -> None:
        super().__init__()
        self.features, self.floor = features, floor
        self.has_backends = isinstance(features, BackendMap)
        self.heads, self.value, self.causal, self.gated = dims.heads, dims.value, causal, gated

    def forward(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Tensor:
        """out [B,H,T,E]; runs in float32 at least, whatever autocast says, for sums must not saturate."""
        self._check(masking)
        queries, keys = q.shape[2], k.shape[2]
        engine = self._engine_of(q, k, v)
        if engine is not None and not (always(queries == 0) or always(keys == 0)):
            if self.causal and queries != keys:
                return self._causal(q, k, v, masking)
            return self._by(engine, self.features.draw(), (q, k, v), masking, None, self.causal)[0]
        if self._short(queries, keys):
            return self.attend(q, k, v, masking).out
        if self.causal:
            return self._causal(q, k, v, masking)
        return self.read(q, self.start(k, v, masking))[0].out

    def attend(self, q: Query, k: Key, v: Value, masking: Masking = Masking()) -> Attended:
        """out [B,H,T,E] together with the weights [B,H,T,S] that the feature map implies."""
        self._check(masking)
        with without_autocast(q):
            projections = self.features.draw()
            phi_q = self.features.queries(wide(q), projections)
            keys = self._mapped(k, v, masking, projections)
            weights = self._shown(phi_q, keys.phi, masks.expand_keep(masking.keep), keys.masses, self.causal)
            out = weights @ keys.values[..., :-1]
        return Attended(out.to(v.dtype), weights.to(v.dtype))

    def start(self, k: Key, v: Value, masking: Masking = Masking(), remember: bool = False) -> LinearState:
        """The state that has read these keys and values; `remember` keeps φ(k), to show weights."""
        self._check(masking)
        engine = None if remember else self._engine_of(k, v)
        if engine is not None:
            projections, none = self.features.draw(), k.new_zeros(k.shape[0], self.heads, 0, k.shape[3])
            _, after = self._by(engine, projections, (none, k, v), masking, None, causal=False)
            return LinearState(*after, Shared(projections))
        with without_autocast(k):
            projections = self.features.draw()
            sums, seen = self._read_all(k, v, masking, projections), None
            if remember:
                keys = self._mapped(k, v, masking, projections)
                seen = Seen(keys.phi, keys.values[..., -1], keys.masses)
            return LinearState(*sums, Shared(projections), seen)

    def extend(
        self, state: LinearState, q: Query, k: Key, v: Value, masking: Masking = Masking()
    ) -> tuple[Attended, LinearState]:
        """Read further positions one after the other; each query sees the keys up to its own."""
        self._check(masking)
        self._check_state(state)
        engine = None if state.seen is not None else self._engine_of(q, k, v)
        if engine is not None and state.sums.dtype == torch.float32:
            before = Sums(state.sums, state.plain, state.scale)
            out, after = self._by(engine, state.projections.value, (q, k, v), masking, before, causal=True)
            return Attended(out, None), LinearState(*after, state.projections)
        with without_autocast(q):
            projections = state.projections.value
            out, after = self._run_along(sums_of(state, q), (q, k, v), masking, projections)
            seen, weights = state.seen, None
            if seen is not None:
                phi_q = self.features.queries(wide(q), projections)
                seen = seen_too(seen, self._mapped(k, v, masking, projections))
                weights = self._shown(phi_q, seen.phi, seen.keep[:, :, None] > 0, seen.masses, causal=True)
        return Attended(out, _like(weights, v)), LinearState(*after, state.projections, seen)

    def step(
        self, layers: tuple[nn.Module, nn.Module, nn.Module], x: Tensor, state: LinearState
    ) -> tuple[Tensor, LinearState] | None:
        """A layer's whole step from x [B,t,M] to its output, where one call can do it: see `native.whole`."""
        if self.gated or not self.has_backends or state.seen is not None or state.sums.dtype != torch.float32:
            return None
        if not whole.takes(layers, x):
            return None
        self._check_state(state)
        kind = self.features.kind(state.projections.value)
        if state.scale is not None and not kind.rescales_keys:
            return None
        before = Sums(state.sums, state.plain, state.scale)
        out, after = whole.step(layers, x, self.heads, kind, before, self.floor)
        return out, LinearState(*after, state.projections)

    def read(self, q: Query, state: LinearState) -> tuple[Attended, LinearState]:
        """Attend from further queries to everything the state has read, which leaves it as it is."""
        self._check_state(state)
        engine = None if state.seen is not None else self._engine_of(q)
        if engine is not None and state.sums.dtype == torch.float32:
            none = q.new_zeros(*q.shape[:2], 0, q.shape[3]), q.new_zeros(*q.shape[:2], 0, self.value)
            before = Sums(state.sums, state.plain, state.scale)
            projections = state.projections.value
            out, _ = self._by(engine, projections, (q, *none), Masking(), before, causal=False)
            return Attended(out, None), state
        with without_autocast(q):
            projections, seen, weights = state.projections.value, state.seen, None
            if seen is not None:
                phi_q = self.features.queries(wide(q), projections)
                weights = self._shown(phi_q, seen.phi, seen.keep[:, :, None] > 0, seen.masses, causal=False)
            out = self._read_from(sums_of(state, q), q, projections)
        return Attended(out, _like(weights, q)), state

    def explain(self, queries: int, keys: int) -> str:
        """Which route runs for T queries and S keys, and why."""
        if self._short(queries, keys):
            return (
                f"feature map, pairwise: at {queries}×{keys} the pairs cost less than the sums of "
                f"{self.features.width} features; the result is the same{self._instead(queries, keys)}"
            )
        features = f"{self.features.width} features, summed in chunks of {CHUNK}"
        return f"feature map, linear in {queries}+{keys}: {features}{self._instead(queries, keys)}"

    def _instead(self, queries: int, keys: int) -> str:
        if not self.has_backends:
            return "; no backend knows this feature map"
        told, longest = "", max(queries, keys)
        if not native.available():
            told += "; the native CPU engine is not built here"
        elif longest >= native.FEWEST:
            told += (
                "; where q, k and v are float32 or bfloat16 on a CPU, the native engine "
                f"({native.about()['instruction set']}) takes the same sums instead"
            )
        if triton.available() and longest >= triton.FEWEST:
            told += "; on a CUDA device, in float32 or half precision, Triton kernels do"
        return told

    def _engine_of(self, *tensors: Tensor) -> Any:
        """The first backend that supports these tensors and is faster; None for torch's operators."""
        for engine in ENGINES if self.has_backends else ():
            if any(always(x.shape[2] >= engine.FEWEST) for x in tensors) and not engine.why_not(*tensors):
                return engine
        return None

    def _by(
        self,
        engine: Any,
        projections: Tensor | None,
        tensors: tuple[Tensor, Tensor, Tensor],
        masking: Masking,
        before: Sums | None,
        causal: bool,
    ) -> tuple[Tensor, Sums]:
        q, k, v = tensors[0], *(repeat_heads(x, self.heads) for x in tensors[1:])
        with without_autocast(q):
            gate = None if masking.gate is None else wide(masking.gate)
            masses = weigh(self.features.log_mass(k), gate, masking.keep)
            kind = self.features.kind(projections)
            return engine.attend(kind, (q, k, v), (masses, masking.keep), before, causal, self.floor)

    def _short(self, queries: int, keys: int) -> bool:
        width, value = self.features.width, self.value + 1
        return always(queries * keys * (width + value) <= (queries + keys) * width * value)

    def _mapped(self, k: Key, v: Value, masking: Masking, projections: Tensor | None) -> Mapped:
        phi, log_mass = self.features.keys(wide(repeat_heads(k, self.heads)), projections)
        v1 = F.pad(wide(repeat_heads(v, self.heads)), (0, 1), value=1.0)
        if masking.keep is not None:
            phi, v1 = (x * masking.keep[:, None, :, None] for x in (phi, v1))
        gate = None if masking.gate is None else wide(masking.gate)
        return Mapped(phi, v1, weigh(log_mass, gate, masking.keep))

    def _read_all(self, k: Key, v: Value, masking: Masking, projections: Tensor | None) -> Sums:
        def step(before: Sums, now: slice, k: Key, v: Value, gate: Tensor | None) -> tuple[None, Sums]:
            return None, add_up(self._mapped(k, v, _of_chunk(masking, now, gate), projections), before)

        before = nothing(
            self._mapped(k[:, :, :0], v[:, :, :0], _of_positions(masking, slice(0)), projections)
        )
        return fold(step, before, k, v, masking.gate)[1]

    def _run_along(
        self, before: Sums, tensors: tuple[Query, Key, Value], masking: Masking, projections: Tensor | None
    ) -> tuple[Tensor, Sums]:
        def step(before: Sums, now: slice, q: Query, k: Key, v: Value, gate: Any) -> tuple[Tensor, Sums]:
            keys = self._mapped(k, v, _of_chunk(masking, now, gate), projections)
            out, after = running(self.features.queries(wide(q), projections), keys, before, self.floor)
            return out.to(v.dtype), after

        out, after = fold(step, before, *tensors, masking.gate)
        return _or_empty(out, tensors[0], tensors[2].shape[3], tensors[2].dtype), after

    def _read_from(self, sums: Sums, q: Query, projections: Tensor | None) -> Tensor:
        def step(sums: Sums, _: slice, q: Query) -> tuple[Tensor, Sums]:
            phi_q = self.features.queries(wide(q), projections)
            return normalise(phi_q @ sums.features, sums.plain, self.floor).to(q.dtype), sums

        return _or_empty(fold(step, sums, q)[0], q, self.value, q.dtype)

    def _causal(self, q: Query, k: Key, v: Value, masking: Masking) -> Tensor:
        ahead = k.shape[2] - q.shape[2]
        blind, seen = max(-ahead, 0), max(ahead, 0)
        state = self.start(k[:, :, :seen], v[:, :, :seen], _of_positions(masking, slice(seen)))
        after = _of_positions(masking, slice(seen, None))
        attended, _ = self.extend(state, q[:, :, blind:], k[:, :, seen:], v[:, :, seen:], after)
        return F.pad(attended.out, (0, 0, blind, 0)) if blind else attended.out

    def _shown(
        self, phi_q: Tensor, phi_k: Tensor, keep: Tensor | None, masses: Masses | None, causal: bool
    ) -> Weights:
        queries, keys = phi_q.shape[2], phi_k.shape[2]
        if masses is None:
            ahead = masks.causal(queries, keys, phi_q.device)[None, None] if causal else None
            seen = masks.intersect(ahead, keep)
        else:
            logs = at_queries(masses, queries) if causal else at_end(masses)
            seen = relative(logs, highest(logs))
        return implied_weights(phi_q, phi_k, seen, self.floor)

    def _check_state(self, state: LinearState) -> None:
        sizes = (self.heads, self.features.width, self.value + 1)
        if tuple(state.sums.shape[1:]) != sizes:
            raise BadShape(
                f"the state holds sums of {list(state.sums.shape[1:])} a row, this attention makes "
                f"{list(sizes)} [heads, features, value width + 1]: go on from a state that it started itself"
            )

    def _check(self, masking: Masking) -> None:
        for name in ("allow", "bias"):
            if getattr(masking, name) is not None:
                raise BadMask(
                    f"{name}= cannot be honoured by a feature-map kernel: it sums over all keys or a prefix. "
                    "Use keep= and causal=True, or kernel=Softmax()"
                )
        if self.gated and masking.gate is None:
            raise BadMask(
                "RFA(gate=True) needs the gate logits of every key, gate=; qkv.Attention computes them"
            )
        if masking.gate is not None and not self.gated:
            raise BadMask("gate= was passed to a kernel without a gate: use RFA(gate=True)")


def _of_chunk(masking: Masking, now: slice, gate: Tensor | None) -> Masking:
    return masking._replace(keep=None if masking.keep is None else masking.keep[:, now], gate=gate)


def _or_empty(out: Tensor | None, q: Query, width: int, dtype: torch.dtype) -> Tensor:
    return q.new_empty(*q.shape[:3], width, dtype=dtype) if out is None else out


def _of_positions(masking: Masking, part: slice) -> Masking:
    return _of_chunk(masking, part, None if masking.gate is None else masking.gate[:, :, part])


def _like(weights: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(x.dtype)
