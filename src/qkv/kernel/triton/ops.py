"""The Triton route as torch operators, with the shapes of what they return and their gradients.

A backward pass works out the sums of every chunk and the features again and keeps nothing of size N×F.
"""

from typing import Any

import torch
from torch import Tensor

from qkv.kernel import double_backward
from qkv.kernel.feature_map import MAP_NUMBERS
from qkv.kernel.triton.call import Sizes, rows, sizes_of
from qkv.kernel.triton.shares import Masses
from qkv.kernel.triton.state import packed, scaled, unpacked

NAMES = tuple(MAP_NUMBERS)


@torch.library.custom_op("qkv::linear_attention_by_triton", mutates_args=())
def linear_attention(  # noqa: PLR0913, PLR0917 -- an operator takes tensors and numbers, not values
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor | None,
    keep: Tensor | None,
    written: Tensor | None,
    decay: Tensor | None,
    sums: Tensor | None,
    plain: Tensor | None,
    scale: Tensor | None,
    map: int,
    unit: bool,
    causal: bool,
    square: float,
    floor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out [B,H,T,E]; what the backward pass needs of every query [3,B·H,T]; and the sums, plain sums and
    scale after the last key, as `sums.Sums`.

    causal: query t sees what the state has read and keys 0 … t; otherwise it sees them all.
    """
    from qkv.kernel.triton import sweeps
    from qkv.kernel.triton.inputs import prepared

    s = sizes_of(NAMES[map], unit, causal, q, v, matrix)
    masses = _masses(k, keep, written, decay, plain, scale)
    call = prepared(s, (q, k, v), keep, matrix, square, masses)
    states, after = sweeps.sums_of_keys(call, _before(q, s, sums, plain))
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    noted = sweeps.read(call, states, out, floor)
    return out, noted, *unpacked(after, s.heads, s), call.shares.scale.view(*q.shape[:2], 1, 1).clone()


@linear_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, matrix: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    s = sizes_of(NAMES[rest[6]], rest[7], rest[8], q, v, matrix)
    lead, value = q.shape[:2], v.shape[3]
    shapes = (
        (3, lead[0] * lead[1], q.shape[2]),
        (*lead, s.mapped, value + 1),
        (*lead, 1, value + 2),
        (*lead, 1, 1),
    )
    noted, sums, plain, scale = (q.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return q.new_empty(*q.shape[:3], value), noted, sums, plain, scale


def _masses(
    k: Tensor,
    keep: Tensor | None,
    written: Tensor | None,
    decay: Tensor | None,
    plain: Tensor | None,
    scale: Tensor | None,
) -> Masses:
    """Log masses of all keys [B·H,S], also where every real key has mass 1; and the state's scale [B·H]."""
    if written is None:
        written = k.new_zeros(k.shape[:3], dtype=torch.float32)
        written = written if keep is None else written.masked_fill(~keep[:, None], float("-inf"))
    if scale is None:
        scale = k.new_full(k.shape[:2], float("-inf") if plain is None else 0.0, dtype=torch.float32)
    decay = None if decay is None else decay.float().flatten(0, 1).contiguous()
    return Masses(written.float().flatten(0, 1).contiguous(), decay, scale.float().flatten())


def _before(q: Tensor, s: Sizes, sums: Tensor | None, plain: Tensor | None) -> Tensor:
    if sums is None or plain is None:
        return q.new_zeros(q.shape[0] * q.shape[1], s.state, dtype=torch.float32)
    return packed(sums, plain)


@torch.library.custom_op("qkv::linear_attention_by_triton_backward", mutates_args=())
def linear_attention_backward(  # noqa: PLR0913, PLR0917
    grad_out: Tensor,
    grad_sums: Tensor | None,
    grad_plain: Tensor | None,
    of_matrix: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor | None,
    keep: Tensor | None,
    written: Tensor | None,
    decay: Tensor | None,
    sums0: Tensor | None,
    plain0: Tensor | None,
    scale0: Tensor | None,
    map: int,
    unit: bool,
    causal: bool,
    square: float,
    floor: float,
    out: Tensor,
    noted: Tensor,
    sums: Tensor,
    plain: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, matrix (`of_matrix`), written, decay, sums and plain; empty where none."""
    from qkv.kernel.triton import sweeps
    from qkv.kernel.triton.inputs import prepared

    s = sizes_of(NAMES[map], unit, causal, q, v, matrix)
    masses = _masses(k, keep, written, decay, plain0, scale0)
    call = prepared(s, (q, k, v), keep, matrix, square, masses)
    grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    after = packed(sums, plain)
    states = sweeps.sums_of_keys(call, _before(q, s, sums0, plain0))[0] if causal else after[:, None]
    grad = rows(grad_out)
    slopes = sweeps.slopes_of(call, grad, rows(out), states, noted, floor)
    by_queries = sweeps.grad_queries(call, grad, slopes, states, grads[0], of_matrix)
    del states

    wanted = packed(_or_zeros(grad_sums, sums), _or_zeros(grad_plain, plain))
    reaching = (wanted * after).sum(1) + wanted[:, -1] * after[:, -1]  # squares grow twice as fast
    of_states = sweeps.sums_of_slopes(call, grad, slopes, wanted)
    mass = sweeps.grad_values(call, grad, slopes, of_states, grads[2])
    by_keys = sweeps.grad_keys(call, grad, slopes, -2 * square * mass, of_states, grads[1], of_matrix)
    of_gates = (reaching[:, None] - mass.double().flip(1).cumsum(1).flip(1)).float()
    of_before = unpacked(scaled(wanted, call.shares.left), s.heads, s)
    found = (by_queries + by_keys, mass.view(k.shape[:3]), of_gates.view(k.shape[:3]), *of_before)
    return _given((*grads, *found), (q, k, v, matrix if of_matrix else None, written, decay, sums0, plain0))


def _or_zeros(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad


def _given(grads: tuple[Tensor, ...], of: tuple[Tensor | None, ...]) -> Any:
    """Gradients, empty where there is none to be of: no two outputs of an operator may be one tensor."""
    return tuple(
        grad.new_empty(0, dtype=torch.float32) if x is None else grad.to(x.dtype)
        for grad, x in zip(grads, of, strict=True)
    )


@linear_attention_backward.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    of_matrix, q, k, v, matrix, _, written, decay, sums0, plain0 = given[3:13]
    likes = (q, k, v, matrix if of_matrix else None, written, decay, sums0, plain0)
    return tuple(
        q.new_empty(0, dtype=torch.float32)
        if x is None
        else torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in likes
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:10], *output[:4])
    ctx.numbers = inputs[10:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Any, *grad_after: Tensor | None) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    inputs, output = saved[:10], saved[10:]
    if double_backward.needs_double_backward():
        found = double_backward.compute_gradients(
            double_backward.BackendInputs(*inputs),
            double_backward.BackendOptions(*ctx.numbers),
            (grad_out, *grad_after[:2]),
        )
        return (*found, *(None,) * 5)
    grad_out = torch.zeros_like(output[0]) if grad_out is None else grad_out
    of_matrix = ctx.needs_input_grad[3]
    grads = linear_attention_backward(grad_out, *grad_after[:2], of_matrix, *inputs, *ctx.numbers, *output)
    q, k, v, matrix, *others = grads
    places = (inputs[5], inputs[6], inputs[7], inputs[8])
    found = [None if place is None else grad for place, grad in zip(places, others, strict=True)]
    return (q, k, v, matrix if of_matrix else None, None, *found, None, *(None,) * 5)


linear_attention.register_autograd(_backward, setup_context=_remember)
