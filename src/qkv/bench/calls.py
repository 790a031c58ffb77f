"""What is timed: one pass forward, one forward and backward, or steps of decoding, as functions to call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.bench.sdpa import FusedSoftmax
from qkv.bench.specs import DTYPES, Contender, Setting
from qkv.kernel.given import Given
from qkv.layer import Attention
from qkv.state import Shared

WHATS = {
    "forward": "one pass over the whole sequence",
    "backward": "forward and backward together",
    "decode": "one step of the whole layer after so many tokens",
}
STEPS = 16


class Inputs(NamedTuple):
    """[B,N,M] each: what queries, keys and values are split from; the first is also the input of a layer."""

    q: Tensor
    k: Tensor
    v: Tensor


class Ready(NamedTuple):
    """call: what is timed.  passes: how many of what is reported one call makes.  state: bytes of one decode
    state, 0 where there is none.
    """

    call: Callable[[], Any]
    passes: int = 1
    state: int = 0


def draw(length: int, setting: Setting) -> Inputs:
    """Inputs from N(0, 1), the same for every contender."""
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, length, setting.width)
    drawn = (torch.randn(shape, generator=generator) for _ in range(3))
    return Inputs(*(x.to(setting.device, DTYPES[setting.dtype]) for x in drawn))


def ready(what: str, contender: Contender, inputs: Inputs, setting: Setting) -> Ready:
    """The call of one contender.  Raises IncompatibleParts for one that cannot step."""
    layer = _layer(contender, setting)
    if what == "decode":
        return _decoding(layer, inputs)
    if what == "forward":
        call = _pass(layer, inputs, setting)
        return Ready(torch.no_grad()(call))
    leaves = Inputs(*(x.detach().requires_grad_() for x in inputs))
    call = _pass(layer, leaves, setting)
    wanted = [leaves.q] if setting.layer else list(leaves)
    wanted += list(layer.parameters() if setting.layer else layer.core.parameters())
    return Ready(lambda: _gradients(call, wanted))


def state_bytes(state: Any) -> int:
    """Bytes of a decode state that every sequence has for itself: what is Shared does not count."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Shared):
        return 0
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return sum(map(state_bytes, inside))


def _layer(contender: Contender, setting: Setting) -> Attention:
    torch.manual_seed(setting.seed)
    layer = contender.spec.build()
    if contender.fused:
        layer.core = FusedSoftmax(contender.spec.causal)
    return layer.to(setting.device, DTYPES[setting.dtype]).eval()


def _pass(layer: Attention, inputs: Inputs, setting: Setting) -> Callable[[], Tensor]:
    if setting.layer:
        return lambda: layer(inputs.q)
    q = _split(inputs.q, layer.dims.heads, layer.dims.query)
    k, v, gate = _keys_values(layer, inputs)
    return lambda: layer.core(q, k, v, Given(own=True, gate=gate))


def _gradients(call: Callable[[], Tensor], wanted: list[Tensor]) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        out = call()
        return torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)


def _decoding(layer: Attention, inputs: Inputs) -> Ready:
    k, v, gate = _keys_values(layer, inputs)
    x = inputs.q[:, 0]

    @torch.no_grad()
    def context() -> Any:
        return type(layer.start(batch=len(x)))(layer.core.start(k, v, Given(gate=gate)))

    @torch.no_grad()
    def steps() -> Any:
        # On from where the last call ended, as decoding does, for a second future of one state copies its
        # cache; but not so far that the context is another.
        nonlocal state, more
        if more > inputs.q.shape[1] // 8:
            state, more = before, 0
        for _ in range(STEPS):
            _, state = layer.step(x, state)
        more += STEPS
        return state

    before, more = context(), 0
    state = before
    return Ready(steps, STEPS, state_bytes(before))


def _keys_values(layer: Attention, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    dims, spec = layer.dims, layer.spec
    shared = spec.kv_heads or dims.heads
    # A gate's logits begin around 3, which remembers about twenty positions.
    gate = inputs.v[..., : dims.heads].mT + 3 if spec.gated else None
    return _split(inputs.k, shared, dims.key), _split(inputs.v, shared, dims.value), gate


def _split(x: Tensor, heads: int, width: int) -> Tensor:
    """[B,N,M] -> [B,heads,N,width], laid out as a layer's projections leave it."""
    return x[..., : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)
