"""The native engine as torch operators, with the shapes of what they return and their gradients.

A backward pass recomputes the features chunk by chunk and keeps nothing of size N×F.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qkv.errors import BadShape
from qkv.kernel import double_backward
from qkv.kernel.feature_map import MAP_NUMBERS, RESCALING_MAP_NUMBERS
from qkv.kernel.memory_pool import pooled_empty
from qkv.kernel.native.library import call, flat, rows

# q, k, v, matrix, keep, written, decay, sums, plain, scale; and map, unit, causal, square, floor.
Inputs = tuple[Any, ...]
Numbers = tuple[int, bool, bool, float, float]


@torch.library.custom_op("qkv::linear_attention", mutates_args=(), device_types="cpu")
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
    """out [B,H,T,E]; what the backward pass needs of every query [4,B,H,T]; and the sums, plain sums and
    scale after the last key, as `sums.Sums`.

    causal: query t sees what the state has read and keys 0 … t; otherwise it sees them all.
    """
    tensors = (q, k, v, matrix, keep, written, decay, sums, plain, scale)
    noted = torch.empty(4, *q.shape[:3], dtype=torch.float32, device="cpu")
    out, *after = compute(tensors, (map, unit, causal, square, floor), noted)
    return out, noted, after[0], after[1], after[2]


def compute(tensors: Inputs, numbers: Numbers, noted: Tensor | None = None) -> list[Tensor]:
    """out, sums, plain sums and scale of `linear_attention`, whose arguments these are, without torch's
    dispatcher; `noted` is filled where it is given.
    """
    q, k, v, matrix, keep, written, decay, sums, plain, scale = tensors
    map, unit, causal, square, floor = numbers
    sizes = features_of(k.shape[-1], matrix, map)
    _check(tensors, sizes, causal)
    out = pooled_empty((*q.shape[:3], v.shape[-1]), q.dtype)
    after = state_like(pooled_empty, (q.shape[0], q.shape[1], sizes[1], v.shape[-1]))
    fields = _fields(q, k, v, matrix, keep, written, decay, map)
    fields |= {"sums0": flat(sums), "plain0": flat(plain), "scale0": flat(scale), "out": rows(out)}
    fields |= {"sums": after[0], "plain": after[1], "scale": after[2]}
    if noted is not None:
        fields |= dict(zip(("total", "count", "squares", "top"), noted, strict=True))
    call("qkv_forward", **fields, unit=unit, causal=causal, square=square, floor=floor)
    return [out, *after]


@linear_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, matrix: Any, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    noted = q.new_empty(4, *q.shape[:3], dtype=torch.float32)
    sizes = (q.shape[0], q.shape[1], features_of(k.shape[-1], matrix, rest[6])[1], v.shape[-1])
    return q.new_empty(*q.shape[:3], v.shape[-1]), noted, *state_like(q.new_empty, sizes)


def features_of(width: Any, matrix: Tensor | None, map: int) -> tuple[Any, Any]:
    """R, and the F features that it makes of vectors so wide; symbolic where torch traces."""
    features = width if matrix is None else matrix.shape[1]
    return features, 2 * features if map == MAP_NUMBERS["gaussian"] else features


def state_like(new: Callable[..., Tensor], sizes: tuple[Any, Any, Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """What sums, plain sums and scale of B, H, F and E will be written to."""
    batch, heads, features, value = sizes
    shapes = ((features, value + 1), (1, value + 2), (1, 1))
    sums, plain, scale = (new((batch, heads, *shape), dtype=torch.float32) for shape in shapes)
    return sums, plain, scale


def _fields(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor | None,
    keep: Tensor | None,
    written: Tensor | None,
    decay: Tensor | None,
    map: int,
) -> dict[str, Any]:
    batch, heads, queries, width = q.shape
    sizes = {"batch": batch, "heads": heads, "queries": queries, "keys": k.shape[2], "width": width}
    sizes |= {"value": v.shape[3], "features": width if matrix is None else matrix.shape[1]}
    given = {"matrix": flat(matrix), "keep": flat(keep), "written": flat(written), "decay": flat(decay)}
    weighed = written is not None or map in RESCALING_MAP_NUMBERS
    inputs = {"q": rows(q), "k": rows(k), "v": rows(v), "half": q.dtype == torch.bfloat16}
    return sizes | given | inputs | {"map": map, "weighed": weighed}


def _check(tensors: Inputs, sizes: tuple[int, int], causal: bool) -> None:
    """Raise BadShape where these tensors do not fit together: the library would read past the end of one.

    sizes: R and F, as `features_of` gives them.
    """
    q, k, v, matrix, keep, written, decay, sums, plain, scale = tensors
    batch, heads, queries, width = q.shape
    keys, value = queries if causal else k.shape[2], v.shape[3]
    of_keys = (batch, heads, keys)
    fits = (
        (k.shape == (*of_keys, width) and v.shape == (*of_keys, value) and q.dtype == k.dtype == v.dtype)
        and (matrix is None or matrix.shape == (heads, sizes[0], width))
        and (keep is None or keep.shape == (batch, keys))
        and (written is None or written.shape == of_keys)
        and (decay is None or decay.shape == of_keys)
        and (sums is None or sums.shape == (batch, heads, sizes[1], value + 1))
        and (plain is None or plain.shape == (batch, heads, 1, value + 2))
        and (scale is None or scale.shape == (batch, heads, 1, 1))
    )
    if not fits:
        names = ("q", "k", "v", "W", "keep", "masses", "gates", "sums", "plain sums", "scale")
        pairs = (f"{name} {list(x.shape)}" for name, x in zip(names, tensors, strict=True) if x is not None)
        raise BadShape(
            f"the native engine got tensors that do not fit together: {', '.join(pairs)}; they must agree in "
            "type, batch, heads, positions and widths"
        )


@torch.library.custom_op("qkv::linear_attention_backward", mutates_args=(), device_types="cpu")
def linear_attention_backward(  # noqa: PLR0913, PLR0917
    grad_out: Tensor,
    grad_sums: Tensor | None,
    grad_plain: Tensor | None,
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
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, matrix [B,H,R,D], written, decay, sums and plain; empty where none."""
    grads = _grads(pooled_empty, q, k, v, matrix, written, decay, sums0, plain0)
    names = ("grad_matrix", "grad_written", "grad_decay", "grad_sums0", "grad_plain0")
    fields = _fields(q, k, v, matrix, keep, written, decay, map)
    fields |= {"sums0": flat(sums0), "plain0": flat(plain0), "scale0": flat(scale0), "out": rows(out)}
    fields |= {
        "total": noted[0],
        "count": noted[1],
        "squares": noted[2],
        "top": noted[3],
        "sums": sums,
        "plain": plain,
        "scale": scale,
    }
    fields |= {"grad_out": rows(grad_out), "grad_sums": flat(grad_sums), "grad_plain": flat(grad_plain)}
    fields |= dict(zip(("grad_q", "grad_k", "grad_v"), [rows(grad) for grad in grads[:3]], strict=True))
    fields |= {name: grad if grad.numel() else None for name, grad in zip(names, grads[3:], strict=True)}
    call("qkv_backward", **fields, unit=unit, causal=causal, square=square, floor=floor)
    return grads


@linear_attention_backward.register_fake
def _(*given: Any) -> tuple[Tensor, ...]:
    q, k, v, matrix, _, written, decay, sums0, plain0 = given[3:12]
    return _grads(q.new_empty, q, k, v, matrix, written, decay, sums0, plain0)


def _grads(
    new: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, matrix: Tensor | None, *others: Tensor | None
) -> Any:
    def like(x: Tensor | None) -> Tensor:
        none = q.new_empty(0, dtype=torch.float32)  # not one for all: outputs of an operator are no aliases
        return none if x is None else new(x.shape, dtype=x.dtype)

    of_rows = None if matrix is None else matrix.new_empty(len(q), *matrix.shape)
    return tuple(like(x) for x in (q, k, v, of_rows, *others))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:10], *output)
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
    grads = linear_attention_backward(grad_out, *grad_after[:2], *inputs, *ctx.numbers, *output)
    q, k, v, per_row, written, decay, sums, plain = grads
    matrix = None if inputs[3] is None else per_row.sum(0)
    optional = (written, decay, sums, plain)
    places = (inputs[5], inputs[6], inputs[7], inputs[8])
    found = [None if place is None else grad for place, grad in zip(places, optional, strict=True)]
    return (q, k, v, matrix, None, *found, None, *(None,) * 5)


linear_attention.register_autograd(_backward, setup_context=_remember)
