"""The layer: project, split heads, let the core average, merge."""

from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv import masks, nan
from qkv.errors import BadMask, BadShape, IncompatibleParts
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.kernel.native import few
from qkv.kernel.reset_parameters import reset_children
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Key, Query, Value
from qkv.spec import AttentionSpec
from qkv.state import batch_of

Sequence = Float[Tensor, "B T M"]
Memory = Float[Tensor, "B S M2"]


class Growing(NamedTuple):
    """State of causal self-attention: every step adds what it reads."""

    core: Any


class Fixed(NamedTuple):
    """State of attention to a memory that is there from the start."""

    core: Any


class Attention(nn.Module):
    """Attention of any legal combination of parts, to itself or to a memory.

        out = merge(core(split(x W_q), split(m W_k), split(m W_v))) W_o          m = memory, or x itself

    The arguments are those of `AttentionSpec`; an illegal combination raises IncompatibleParts when it is
    built. Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(  # noqa: PLR0913 -- the fixed public signature
        self,
        d_model: int,
        heads: int = 1,
        *,
        score: Any = None,
        scope: Any = Global(),
        select: Any = Soft(),
        kernel: Any = Softmax(),
        causal: bool = False,
        d_memory: int | None = None,
        kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        project: bool = True,
    ) -> None:
        places = {"causal": causal, "d_memory": d_memory, "kv_heads": kv_heads}
        layer = {"dropout": dropout, "bias": bias, "project": project}
        parts = {"score": score, "scope": scope, "select": select, "kernel": kernel}
        self._build(AttentionSpec(d_model, heads, **parts, **places, **layer))

    @classmethod
    def from_spec(cls, spec: AttentionSpec) -> "Attention":
        """The layer of a spec, which is not checked again; the `__init__` of a subclass is not called."""
        layer = cls.__new__(cls)
        layer._build(spec)
        return layer

    def forward(
        self,
        x: Sequence,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        allow: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Sequence:
        """Attend from x [B,T,M] to memory [B,S,d_memory], or to x itself; returns [B,T,M].

        keep [B,S] bool: real keys.  allow [T,S], [B,T,S] or [B,H,T,S] bool: what each query may see.
        bias [T,S], [B,T,S] or [B,H,T,S]: added to the scores.  All masks intersect, also with causal.
        """
        q, k, v, masking = self._prepare(x, memory, keep, allow, bias)
        return self._merge(self.core(q, k, v, masking))

    def attend(
        self,
        x: Sequence,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        allow: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Attended:
        """The same with the weights [B,H,T,S] that made it; asking for them changes no output."""
        q, k, v, masking = self._prepare(x, memory, keep, allow, bias)
        attended = self.core.attend(q, k, v, masking)
        return attended._replace(out=self._merge(attended.out))

    def start(
        self,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        batch: int | None = None,
        remember: bool = False,
    ) -> Growing | Fixed:
        """The state before the first step: of a memory [B,S,d_memory], or empty for causal self-attention.

        keep [B,S]: the memory's real positions.  batch: rows, where there is no memory to tell (default 1).
        remember: keep what `attend_step` needs to show the weights.
        """
        if memory is None and keep is not None:
            raise BadMask(
                "start(keep=) marks a memory's real positions; without a memory pass keep= to each step"
            )
        if memory is not None:
            if self.spec.causal:
                raise IncompatibleParts(
                    "step over a memory: the layer is causal=True, its memory has no steps"
                )
            memory = self._hide_padding(memory, keep)
            nan.check(memory=memory)
            k, v = self._keys_values(memory)
            return Fixed(self.core.start(k, v, Masking(keep), remember))
        if not self.spec.causal:
            raise IncompatibleParts(
                "stepping through self-attention needs causal=True: without it every output depends on "
                "later inputs"
            )
        like = next(chain(self.parameters(), self.buffers()), torch.empty(0))
        nothing = like.new_zeros(batch or 1, 0, self.spec.d_memory or self.spec.width)
        k, v = self._keys_values(nothing)
        return Growing(self.core.start(k, v, Masking(gate=self._gates(nothing)), remember))

    def step(self, x: Tensor, state: Growing | Fixed, *, keep: Tensor | None = None) -> tuple[Tensor, Any]:
        """Attend from the next position(s) x [B,t,M] (or one, [B,M]); returns the output and the state after
        it.

        keep [B,t]: which of the new positions are real (self-attention; default all).
        """
        attended, state = self.attend_step(x, state, keep=keep)
        return attended.out, state

    def attend_step(
        self, x: Tensor, state: Growing | Fixed, *, keep: Tensor | None = None
    ) -> tuple[Attended, Any]:
        """`step` with the weights [B,H,t,S so far]; None where the state was started without `remember`."""
        single = x.dim() == 2
        x = x[:, None] if single else x
        _check_width(x, self.spec.width, "x")
        _check_rows(x.shape[0], batch_of(state))
        if isinstance(state, Fixed) and keep is not None:
            raise BadMask("step(keep=) marks new positions; a memory's were marked in start(memory, keep=)")
        source = self._hide_padding(x, keep)
        x = x if keep is None else masks.bound_queries(x, keep)
        nan.check(x=x)
        if keep is None and isinstance(state, Growing) and (done := self._at_once(x, state.core)):
            out, core = done
            return Attended(out[:, 0] if single else out, None), Growing(core)
        q = self._queries(x)
        if isinstance(state, Fixed):
            attended, core = self.core.read(q, state.core)
        else:
            k, v = self._keys_values(source)
            masking = Masking(keep, is_self=True, gate=self._gates(source))
            attended, core = self.core.extend(state.core, q, k, v, masking)
        out = self._merge(attended.out)
        return attended._replace(out=out[:, 0] if single else out), type(state)(core)

    def explain(self, queries: int, keys: int) -> str:
        """In words: which route runs for T queries and S keys, and why."""
        heads = self.dims.heads
        what = f"{heads} head{'s' * (heads > 1)} of {self.dims.query}, kernel {self.spec.kernel!r}"
        return f"{what}: {self.core.explain(queries, keys)}"

    def extra_repr(self) -> str:
        """The spec, as it was written."""
        return ", ".join(f"{name}={value!r}" for name, value in self.spec.to_dict().items())

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        if self.spec.project:
            self._initialise_projections()
        if self.spec.gated:
            _initialise_gate(self.to_gate)
        reset_children(self.core)

    def _build(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec, self.dims = spec, spec.dims
        if spec.project:
            self._make_projections()
        if spec.gated:
            self.to_gate = nn.Linear(spec.d_memory or spec.width, self.dims.heads)
            _initialise_gate(self.to_gate)
        self.core = spec.kernel.build_core(self.dims, spec.choice)

    def _make_projections(self) -> None:
        spec, dims = self.spec, self.dims
        shared = (spec.kv_heads or self.dims.heads) * dims.key
        self.to_q = nn.Linear(spec.width, dims.heads * dims.query, bias=spec.bias)
        self.to_kv = nn.Linear(spec.d_memory or spec.width, 2 * shared, bias=spec.bias)
        self.to_out = nn.Linear(dims.heads * dims.value, spec.width, bias=spec.bias)
        self._initialise_projections()

    def _initialise_projections(self) -> None:
        for weight in (self.to_q.weight, *self.to_kv.weight.chunk(2), self.to_out.weight):
            nn.init.xavier_uniform_(weight.data)
        for linear in (self.to_q, self.to_kv, self.to_out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def _prepare(
        self, x: Tensor, memory: Tensor | None, keep: Tensor | None, allow: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Masking]:
        own, source = memory is None or memory is x, x if memory is None else memory
        if keep is not None:
            _check_width(x, self.spec.width, "x")
            source = self._hide_padding(source, keep)
            x = masks.bound_queries(x, keep) if own else x
        nan.check(x=x, memory=None if own else source, bias=bias)
        q, (k, v) = self._queries(x), self._keys_values(source)
        if x.shape[0] != source.shape[0]:
            raise BadShape(f"x and memory must have one batch size, got {x.shape[0]} and {source.shape[0]}")
        gate = self._gates(source)
        if keep is None and allow is None and bias is None:
            return q, k, v, Masking(is_self=own, gate=gate)
        masking = Masking(keep, masks.as_allow(allow), masks.as_bias(bias), own, gate)
        masks.check_pairs(
            masking.allow, masking.bias, (x.shape[0], self.dims.heads, x.shape[1], source.shape[1])
        )
        return q, k, v, masking

    def _hide_padding(self, source: Tensor, keep: Tensor | None) -> Tensor:
        if keep is None:
            return source
        _check_width(source, self.spec.d_memory or self.spec.width, "memory")
        masks.checked_keep(keep, source)
        return masks.hide_keys(source, keep)

    def _at_once(self, x: Tensor, state: Any) -> tuple[Tensor, Any] | None:
        shared = self.spec.kv_heads in (None, self.dims.heads)
        if not (self.spec.project and shared and self.core.has_layer_step):
            return None
        return self.core.step((self.to_q, self.to_kv, self.to_out), x, state)

    def _queries(self, x: Tensor) -> Query:
        _check_width(x, self.spec.width, "x")
        return self._split(few.linear(self.to_q, x), self.dims.heads) if self.spec.project else x[:, None]

    def _keys_values(self, memory: Tensor) -> tuple[Key, Value]:
        spec = self.spec
        _check_width(memory, spec.d_memory or spec.width, "memory")
        if not spec.project:
            return memory[:, None], memory[:, None]
        k, v = few.linear(self.to_kv, memory).chunk(2, -1)
        shared = spec.kv_heads or self.dims.heads
        return self._split(k, shared), self._split(v, shared)

    def _gates(self, source: Tensor) -> Float[Tensor, "B H S"] | None:
        return self.to_gate(source).mT if self.spec.gated else None

    @staticmethod
    def _split(x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)

    def _merge(self, out: Tensor) -> Tensor:
        flat = out.transpose(1, 2).flatten(2)
        return few.linear(self.to_out, flat) if self.spec.project else flat


def _initialise_gate(gate: nn.Linear) -> None:
    """g = sigmoid(w·x + b) of every head begins with a memory of about twenty positions."""
    nn.init.xavier_uniform_(gate.weight)
    nn.init.constant_(gate.bias, 3.0)


def _check_width(x: Tensor, width: int, name: str) -> None:
    if x.is_nested:
        raise BadShape(
            f"{name} is a nested tensor: pass it padded, {name}.to_padded_tensor(0.0), and mark its real "
            "positions with keep="
        )
    if x.dim() != 3 or x.shape[-1] != width:
        raise BadShape(f"{name} must be [batch, positions, {width}], got {tuple(x.shape)}")


def _check_rows(rows: int, state_rows: int) -> None:
    if rows != state_rows:
        raise BadShape(
            f"x has {rows} rows, the state {state_rows}: start with batch={rows}, or reorder the state"
        )
