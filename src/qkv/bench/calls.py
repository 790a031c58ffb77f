"""The calls that are timed: a forward pass, a forward and backward pass, or steps of decoding."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qkv.bench.sdpa import FusedSoftmax
from qkv.bench.specs import DTYPES, Contender, Setting
from qkv.kernel.masking import Masking
from qkv.layer import Attention
from qkv.state import Shared

MODES = {
    "forward": "one pass over the whole sequence",
    "backward": "forward and backward together",
    "decode": "one step of the whole layer after so many tokens",
}
STEPS = 16


class Inputs(NamedTuple):
    """What queries, keys and values are split from.

    Args:
        q: [B, N, M]; also the input of a whole layer.
        k: [B, N, M].
        v: [B, N, M].
    """

    q: Tensor
    k: Tensor
    v: Tensor


class TimedCall(NamedTuple):
    """A call that is ready to be timed.

    Args:
        call: the function.
        passes: passes or decoding steps that one call makes.
        state: bytes that the decode state holds after the context; 0 without a state.
        allocated: bytes of the memory behind that state, which may have room for further tokens.
    """

    call: Callable[[], Any]
    passes: int = 1
    state: int = 0
    allocated: int = 0


def draw_inputs(length: int, setting: Setting) -> Inputs:
    """Inputs from N(0, 1) for `length` tokens, the same for every contender."""
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.batch, length, setting.width)
    tensors = (torch.randn(shape, generator=generator) for _ in range(3))
    return Inputs(*(x.to(setting.device, DTYPES[setting.dtype]) for x in tensors))


def prepare_call(mode: str, contender: Contender, inputs: Inputs, setting: Setting) -> TimedCall:
    """Build a contender's layer and return the call to time.

    Args:
        mode: a key of `MODES`.
        contender: the attention.
        inputs: what it attends from and to.
        setting: what all contenders share.

    Raises:
        IncompatibleParts: for "decode" with an attention that cannot step.
    """
    layer = _build_layer(contender, setting)
    if mode == "decode":
        return _prepare_decoding(layer, inputs)
    if mode == "forward":
        call = _make_forward(layer, inputs, setting)
        return TimedCall(torch.no_grad()(call))
    leaves = Inputs(*(x.detach().requires_grad_() for x in inputs))
    call = _make_forward(layer, leaves, setting)
    targets = [leaves.q] if setting.layer else list(leaves)
    targets += list(layer.parameters() if setting.layer else layer.core.parameters())
    return TimedCall(lambda: _compute_gradients(call, targets))


def state_bytes(state: Any) -> int:
    """Bytes of the tensors in a decode state that every sequence has for itself, `Shared` ones excluded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _iterate_tensors(state))


def allocated_bytes(state: Any) -> int:
    """Bytes of the storages behind the same tensors: a view of a large tensor keeps all of it alive."""
    storages = [tensor.untyped_storage() for tensor in _iterate_tensors(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _iterate_tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor of a decode state except those in `Shared`."""
    if isinstance(state, Tensor):
        yield state
    elif not isinstance(state, Shared):
        parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
        for part in parts:
            yield from _iterate_tensors(part)


def _build_layer(contender: Contender, setting: Setting) -> Attention:
    torch.manual_seed(setting.seed)
    layer = contender.spec.build()
    if contender.is_fused:
        layer.core = FusedSoftmax(contender.spec.causal)
    return layer.to(setting.device, DTYPES[setting.dtype]).eval()


def _make_forward(layer: Attention, inputs: Inputs, setting: Setting) -> Callable[[], Tensor]:
    """The forward pass of the whole layer, or of its core on split heads."""
    if setting.layer:
        return lambda: layer(inputs.q)
    q = _split_heads(inputs.q, layer.dims.heads, layer.dims.query)
    k, v, gate = _split_keys_values(layer, inputs)
    return lambda: layer.core(q, k, v, Masking(is_self=True, gate=gate))


def _compute_gradients(call: Callable[[], Tensor], targets: list[Tensor]) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        out = call()
        return torch.autograd.grad(out, targets, torch.ones_like(out), allow_unused=True)


def _prepare_decoding(layer: Attention, inputs: Inputs) -> TimedCall:
    x = inputs.q[:, -1]
    context, position = _read_context(layer, inputs), 0
    state = context

    @torch.no_grad()
    def decode_steps() -> Any:
        # Each call continues from the state of the call before: a second continuation of one state would
        # copy its cache. After an eighth more tokens it returns to the context, so that the length holds.
        nonlocal state, position
        if position > inputs.q.shape[1] // 8:
            state, position = context, 0
        for _ in range(STEPS):
            _, state = layer.step(x, state)
        position += STEPS
        return state

    return TimedCall(decode_steps, STEPS, state_bytes(context), allocated_bytes(context))


@torch.no_grad()
def _read_context(layer: Attention, inputs: Inputs) -> Any:
    """The decode state after all inputs, as decoding leaves it.

    The last positions are read step by step: a step drops the keys that no later step reaches, and the next
    step reserves room.
    """
    k, v, gate = _split_keys_values(layer, inputs)
    first = max(k.shape[2] - 2, 0)
    masking = Masking(gate=None if gate is None else gate[..., :first])
    core_state = layer.core.start(k[:, :, :first], v[:, :, :first], masking)
    state = type(layer.start(batch=len(inputs.q)))(core_state)
    for position in range(first, k.shape[2]):
        _, state = layer.step(inputs.q[:, position], state)
    return state


def _split_keys_values(layer: Attention, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys [B, Hk, N, D], values [B, Hk, N, E], and the logits [B, H, N] of a gate if there is one."""
    dims, spec = layer.dims, layer.spec
    kv_heads = spec.kv_heads or dims.heads
    # A gate's logits begin around 3, which remembers about twenty positions.
    gate = inputs.v[..., : dims.heads].mT + 3 if spec.is_gated else None
    return _split_heads(inputs.k, kv_heads, dims.key), _split_heads(inputs.v, kv_heads, dims.value), gate


def _split_heads(x: Tensor, heads: int, width: int) -> Tensor:
    """[B, N, M] -> [B, heads, N, width], laid out as a layer's projections leave it."""
    return x[..., : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)
