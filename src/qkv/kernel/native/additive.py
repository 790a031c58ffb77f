"""The additive score as a torch operator of the native engine: neither sums nor their tanh are stored."""

from typing import Any

import torch
from torch import Tensor

from qkv.kernel import differentiable
from qkv.kernel.native.library import call, rows
from qkv.score.additive import additive


@torch.library.custom_op("qkv::additive_score", mutates_args=(), device_types="cpu")
def additive_score(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores [B,H,T,S] = v·tanh(q + k) of projected q [B,H,T,A] and k [B,H,S,A], with v [H,A]; float32."""
    scores = q.new_empty(*q.shape[:3], k.shape[2])
    call("qkv_additive", **_fields(q, k, v), scores=scores)
    return scores


@additive_score.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:3], k.shape[2])


@torch.library.custom_op("qkv::additive_score_backward", mutates_args=(), device_types="cpu")
def additive_score_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and of v [B,H,A], every row's its own."""
    grads = _grads(q, k, v)
    of = dict(zip(("grad_q", "grad_k"), [rows(x) for x in grads[:2]], strict=True))
    call("qkv_additive_backward", **_fields(q, k, v), **of, grad=grad.contiguous(), grad_v=grads[2])
    return grads


@additive_score_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _grads(q, k, v)


def _fields(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Any]:
    sizes = zip(("batch", "heads", "queries", "width"), q.shape, strict=True)
    return {**dict(sizes), "keys": k.shape[2], "q": rows(q), "k": rows(k), "v": v.contiguous()}


def _grads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(len(q), *v.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if differentiable.is_wanted():
        q, k, v = differentiable.gradients(additive, ctx.saved_tensors, grad)
        return q, k, v
    of_q, of_k, of_v = additive_score_backward(grad, *ctx.saved_tensors)
    return of_q, of_k, of_v.sum(0)


additive_score.register_autograd(_backward, setup_context=_remember)
