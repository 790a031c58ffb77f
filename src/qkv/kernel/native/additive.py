"""The additive score as a torch operator of the native engine: neither sums nor their tanh are stored."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.errors import BadShape
from qkv.kernel import double_backward
from qkv.kernel.native.library import call, rows
from qkv.kernel.query_blocks import compute_queries_per_block


@torch.library.custom_op("qkv::additive_score", mutates_args=(), device_types="cpu")
def additive_score(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores [B,H,T,S] = v·tanh(q + k) of projected q [B,H,T,A] and k [B,H,S,A], with v [H,A]; float32."""
    (batch, heads, _, width), keys = q.shape, k.shape[2]
    fits = k.shape == (batch, heads, keys, width) and v.shape == (heads, width)
    if not (fits and q.dtype == k.dtype == v.dtype == torch.float32):
        raise BadShape(
            "additive scores need float32 q [B,H,T,A], k [B,H,S,A] and v [H,A], got "
            + ", ".join(f"{x.dtype} {list(x.shape)}" for x in (q, k, v))
        )
    scores = q.new_empty(*q.shape[:3], keys)
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
    if double_backward.needs_double_backward():
        return _differentiable(grad, *ctx.saved_tensors)
    of_q, of_k, of_v = additive_score_backward(grad, *ctx.saved_tensors)
    return of_q, of_k, of_v.sum(0)


def _differentiable(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same gradients by torch's operators: block after block of queries, recomputed when they are
    differentiated.
    """
    rows = compute_queries_per_block(q.shape[0], q.shape[1], k.shape[2], q.shape[3])
    with torch.autocast("cpu", enabled=False):
        blocks = [
            checkpoint(_gradients_of_pairs, *block, k, v, use_reentrant=False, preserve_rng_state=False)
            for block in zip(grad.split(rows, 2), q.split(rows, 2), strict=True)
        ]
    of_q, of_k, of_v = zip(*blocks, strict=True)
    return torch.cat(of_q, 2), torch.stack(of_k).sum(0), torch.stack(of_v).sum(0)


def _gradients_of_pairs(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inner = torch.tanh(q[:, :, :, None] + k[:, :, None])
    slope = grad[..., None] * (1 - inner.square()) * v[:, None, None]
    return slope.sum(3), slope.sum(2), torch.einsum("bhts,bhtsa->ha", grad, inner)


additive_score.register_autograd(_backward, setup_context=_remember)
