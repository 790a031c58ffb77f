"""What is timed: one pass forward, one forward and backward, or steps of decoding, as functions to call."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.bench.sdpa import FusedSoftmax
from qkv.bench.specs import DTYPES, Contender, Setting
from qkv.kernel.masking import Masking
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
    """call: what is timed.  passes: how many of what is reported one call makes.

    state: bytes that the decode state holds after the context, 0 where there is none.
    allocated: bytes of the memory behind it, which may have room for further tokens.
    """

    call: Callable[[], Any]
    passes: int = 1
    state: int = 0
    allocated: int = 0


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
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def allocated_bytes(state: Any) -> int:
    """Bytes of the memory that the same tensors keep alive: a view of a large tensor keeps all of it."""
    storages = [tensor.untyped_storage() for tensor in _tensors(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of a decode state except what is Shared."""
    if isinstance(state, Tensor):
        yield state
    elif not isinstance(state, Shared):
        parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
        for part in parts:
            yield from _tensors(part)


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
    return lambda: layer.core(q, k, v, Masking(is_self=True, gate=gate))


def _gradients(call: Callable[[], Tensor], wanted: list[Tensor]) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        out = call()
        return torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)


def _decoding(layer: Attention, inputs: Inputs) -> Ready:
    x = inputs.q[:, -1]
    before, more = _context(layer, inputs), 0
    state = before

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

    return Ready(steps, STEPS, state_bytes(before), allocated_bytes(before))


@torch.no_grad()
def _context(layer: Attention, inputs: Inputs) -> Any:
    """The decode state after all inputs, as decoding leaves it: the last ones are read step by step, since a
    step drops the keys that no later step reaches, and the next one reserves room.
    """
    k, v, gate = _keys_values(layer, inputs)
    first = max(k.shape[2] - 2, 0)
    masking = Masking(gate=None if gate is None else gate[..., :first])
    core_state = layer.core.start(k[:, :, :first], v[:, :, :first], masking)
    state = type(layer.start(batch=len(inputs.q)))(core_state)
    for position in range(first, k.shape[2]):
        _, state = layer.step(inputs.q[:, position], state)
    return state


def _keys_values(layer: Attention, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    dims, spec = layer.dims, layer.spec
    shared = spec.kv_heads or dims.heads
    # A gate's logits begin around 3, which remembers about twenty positions.
    gate = inputs.v[..., : dims.heads].mT + 3 if spec.is_gated else None
    return _split(inputs.k, shared, dims.key), _split(inputs.v, shared, dims.value), gate


def _split(x: Tensor, heads: int, width: int) -> Tensor:
    """[B,N,M] -> [B,heads,N,width], laid out as a layer's projections leave it."""
    return x[..., : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)
