"""The attention layer: project, split heads, evaluate, merge heads, project."""

from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv import layer_inputs, masks, nan
from qkv.errors import BadMask
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.kernel.native.small_linear import apply_linear
from qkv.kernel.reset_parameters import reset_parameters_of_nearest_descendants
from qkv.layer_inputs import MemoryState, SelfState, check_width, split_heads, zero_padding
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Key, Query, Value
from qkv.spec import AttentionSpec
from qkv.state import batch_size

Sequence = Float[Tensor, "B T M"]
Memory = Float[Tensor, "B S M2"]


class Attention(nn.Module):
    """Multi-head attention of any legal combination of parts, to the input itself or to a memory.

        out = merge(core(split(x W_q), split(m W_k), split(m W_v))) W_o          m = memory, or x itself

    Vaswani et al. 2017, section 3.2.2.

    Args:
        d_model: M, the width of queries and output.
        heads: H, the number of heads, a divisor of `d_model`.
        score: Similarity of a query and a key; None is ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.
        causal: Whether queries see no later keys; the last query is aligned with the last key.
        d_memory: Width of the memory; None takes `d_model`.
        kv_heads: Heads of keys and values, a divisor of `heads` (grouped queries); None takes `heads`.
        dropout: Probability with which weights are dropped in training.
        bias: Whether the projections have a bias.
        project: Whether there are projections; without them there is one head.

    Raises:
        IncompatibleParts: The parts clash; the message lists the single changes that fix it.
        BadShape: The sizes do not divide each other.

    Example:
        >>> qkv.Attention(512, heads=8, kernel=qkv.RFA(64), causal=True)(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
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
        parts = (score, scope, select, kernel)
        spec = AttentionSpec(d_model, heads, *parts, causal, d_memory, kv_heads, dropout, bias, project)
        self._build(spec)

    @classmethod
    def from_spec(cls, spec: AttentionSpec) -> "Attention":
        """Build the layer of a spec, which is not validated again; `__init__` of a subclass is not called.

        Args:
            spec: The spec, with `d_model`.

        Returns:
            The layer.
        """
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
        """Attend from x to a memory, or to x itself.  All masks intersect, also with `causal`.

        Args:
            x: Queries [B,T,M].
            memory: Keys and values [B,S,d_memory]; None takes x.
            keep: [B,S] bool, True = a real key.
            allow: [T,S], [B,T,S] or [B,H,T,S] bool, True = may be attended.
            bias: [T,S], [B,T,S] or [B,H,T,S], added to the scores.

        Returns:
            The output [B,T,M].

        Raises:
            BadShape: The shapes do not fit together.
            BadMask: A mask has another type or shape, or a feature map cannot apply it.
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
        """Compute `forward` together with the weights; asking for them does not change the output.

        Args and errors are those of `forward`.

        Returns:
            The output [B,T,M], the weights [B,H,T,S], and log_prob [B,H,T] where the selection sampled.
        """
        q, k, v, masking = self._prepare(x, memory, keep, allow, bias)
        attended = self.core.attend(q, k, v, masking)
        return attended._replace(out=self._merge(attended.out))

    def start(
        self,
        memory: Memory | None = None,
        *,
        keep: Tensor | None = None,
        batch: int | None = None,
        return_weights: bool = False,
    ) -> SelfState | MemoryState:
        """Build the decode state before the first step.

        Args:
            memory: Keys and values [B,S,d_memory]; None for causal self-attention, which starts empty.
            keep: [B,S] bool, the real positions of the memory.
            batch: B, for self-attention; None is 1.
            return_weights: Whether the state keeps what `attend_step` needs to return weights.

        Returns:
            The state, a nested tuple of tensors with the batch first.
        """
        layer_inputs.check_start(self.spec.causal, memory, keep)
        if memory is not None:
            memory = zero_padding(memory, keep, self.memory_width)
            nan.check_inputs(memory=memory)
            k, v = self._project_keys_values(memory)
            return MemoryState(self.core.start(k, v, Masking(keep), return_weights))
        like = next(chain(self.parameters(), self.buffers()), torch.empty(0))
        no_tokens = like.new_zeros(batch or 1, 0, self.memory_width)
        k, v = self._project_keys_values(no_tokens)
        return SelfState(self.core.start(k, v, Masking(gate=self._gate_logits(no_tokens)), return_weights))

    def step(
        self, x: Tensor, state: SelfState | MemoryState, *, keep: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend from the next position(s).

        Args:
            x: The next positions [B,t,M], or the next one [B,M].
            state: The state after the positions before.
            keep: [B,t] bool, which of the new positions are real (self-attention); None: all.

        Returns:
            The output, shaped like x, and the state after it.
        """
        attended, state = self.attend_step(x, state, keep=keep)
        return attended.out, state

    def attend_step(
        self, x: Tensor, state: SelfState | MemoryState, *, keep: Tensor | None = None
    ) -> tuple[Attended, Any]:
        """Compute `step` together with the weights.

        Args and errors are those of `step`.

        Returns:
            The output with the weights [B,H,t,S so far] (None where the state was started without
            `return_weights`), and the state after it.
        """
        is_single = x.dim() == 2
        x = x[:, None] if is_single else x
        check_width(x, self.spec.width, "x")
        layer_inputs.check_state_batch(x.shape[0], batch_size(state))
        if isinstance(state, MemoryState) and keep is not None:
            raise BadMask("this state's memory was marked in start(memory, keep=): leave keep= out of step()")
        source = zero_padding(x, keep, self.memory_width)
        x = x if keep is None else masks.zero_unusable_queries(x, keep)
        nan.check_inputs(x=x)
        if keep is None and isinstance(state, SelfState) and (result := self._layer_step(x, state.core)):
            out, core = result
            return Attended(out[:, 0] if is_single else out, None), SelfState(core)
        q = self._project_queries(x)
        if isinstance(state, MemoryState):
            attended, core = self.core.attend_to_state(q, state.core)
        else:
            k, v = self._project_keys_values(source)
            masking = Masking(keep, is_self=True, gate=self._gate_logits(source))
            attended, core = self.core.extend(state.core, q, k, v, masking)
        out = self._merge(attended.out)
        return attended._replace(out=out[:, 0] if is_single else out), type(state)(core)

    def explain(self, queries: int, keys: int) -> str:
        """Explain which backend runs for these sizes, and why.

        Args:
            queries: T, the number of queries.
            keys: S, the number of keys.

        Returns:
            One sentence or more.
        """
        heads = self.dims.heads
        layer = f"{heads} head{'s' * (heads > 1)} of {self.dims.query}, kernel {self.spec.kernel!r}"
        return f"{layer}: {self.core.explain(queries, keys)}"

    def extra_repr(self) -> str:
        """Show the arguments of the spec that differ from the defaults."""
        return ", ".join(f"{name}={value!r}" for name, value in self.spec.to_dict().items())

    def reset_parameters(self) -> None:
        """Initialise all weights at random."""
        if self.spec.project:
            layer_inputs.initialise_projections(self.to_q, self.to_kv, self.to_out)
        if self.spec.is_gated:
            layer_inputs.initialise_gate(self.to_gate)
        reset_parameters_of_nearest_descendants(self.core)

    def _build(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec, self.dims, self.memory_width = spec, spec.dims, spec.memory_width
        if spec.project:
            key_width = (spec.kv_heads or self.dims.heads) * self.dims.key
            self.to_q = nn.Linear(spec.width, self.dims.heads * self.dims.query, bias=spec.bias)
            self.to_kv = nn.Linear(self.memory_width, 2 * key_width, bias=spec.bias)
            self.to_out = nn.Linear(self.dims.heads * self.dims.value, spec.width, bias=spec.bias)
            layer_inputs.initialise_projections(self.to_q, self.to_kv, self.to_out)
        if spec.is_gated:
            self.to_gate = nn.Linear(self.memory_width, self.dims.heads)
            layer_inputs.initialise_gate(self.to_gate)
        self.core = spec.kernel.build_core(self.dims, spec.choice)

    def _prepare(
        self, x: Tensor, memory: Tensor | None, keep: Tensor | None, allow: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Masking]:
        is_self, source = memory is None or memory is x, x if memory is None else memory
        if keep is not None:
            check_width(x, self.spec.width, "x")
            source = zero_padding(source, keep, self.memory_width)
            x = masks.zero_unusable_queries(x, keep) if is_self else x
        nan.check_inputs(x=x, memory=None if is_self else source, bias=bias)
        q, (k, v) = self._project_queries(x), self._project_keys_values(source)
        layer_inputs.check_batch(x, source)
        gate = self._gate_logits(source)
        if keep is None and allow is None and bias is None:
            return q, k, v, Masking(is_self=is_self, gate=gate)
        allow, bias = masks.as_allow(allow), masks.as_bias(bias)
        masks.check_pairs(allow, bias, (x.shape[0], self.dims.heads, x.shape[1], source.shape[1]))
        return q, k, v, Masking(keep, allow, bias, is_self, gate)

    def _layer_step(self, x: Tensor, state: Any) -> tuple[Tensor, Any] | None:
        """One native call for projections and core; None where it is not available."""
        equal_heads = self.spec.kv_heads in (None, self.dims.heads)
        if not (self.spec.project and equal_heads and self.core.has_layer_step):
            return None
        return self.core.step_layer_natively_or_none((self.to_q, self.to_kv, self.to_out), x, state)

    def _project_queries(self, x: Tensor) -> Query:
        check_width(x, self.spec.width, "x")
        return split_heads(apply_linear(self.to_q, x), self.dims.heads) if self.spec.project else x[:, None]

    def _project_keys_values(self, memory: Tensor) -> tuple[Key, Value]:
        check_width(memory, self.memory_width, "memory")
        if not self.spec.project:
            return memory[:, None], memory[:, None]
        k, v = apply_linear(self.to_kv, memory).chunk(2, -1)
        heads = self.spec.kv_heads or self.dims.heads
        return split_heads(k, heads), split_heads(v, heads)

    def _gate_logits(self, source: Tensor) -> Float[Tensor, "B H S"] | None:
        return self.to_gate(source).mT if self.spec.is_gated else None

    def _merge(self, out: Tensor) -> Tensor:
        merged = out.transpose(1, 2).flatten(2)
        return apply_linear(self.to_out, merged) if self.spec.project else merged
