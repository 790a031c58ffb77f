"""The additive score as a torch operator; the native engine stores neither sums of pairs nor their tanh."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qkv.errors import BadShape
from qkv.kernel import double_backward
from qkv.kernel.native.library import fill_structure_and_call_library, make_strided
from qkv.kernel.query_blocks import compute_queries_per_block


@torch.library.custom_op("qkv::additive_score", mutates_args=(), device_types="cpu")
def compute_float32_additive_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """scores [B,H,T,S] = v·tanh(q + k), in float32.

    Args:
        q: [B,H,T,A], projected queries.
        k: [B,H,S,A], projected keys.
        v: [H,A].

    Raises:
        BadShape: the tensors do not fit together or are not float32.
    """
    (batch, heads, _, width), keys = q.shape, k.shape[2]
    fits = k.shape == (batch, heads, keys, width) and v.shape == (heads, width)
    if not (fits and q.dtype == k.dtype == v.dtype == torch.float32):
        raise BadShape(
            "additive scores need float32 q [B,H,T,A], k [B,H,S,A] and v [H,A], got "
            + ", ".join(f"{x.dtype} {list(x.shape)}" for x in (q, k, v))
            + ": convert and reshape them"
        )
    scores = q.new_empty(*q.shape[:3], keys)
    fill_structure_and_call_library("qkv_additive_score", **_make_call_fields(q, k, v), scores=scores)
    return scores


@compute_float32_additive_scores.register_fake
def _allocate_fake_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:3], k.shape[2])


@torch.library.custom_op("qkv::additive_score_backward", mutates_args=(), device_types="cpu")
def compute_additive_score_gradients_per_batch_row(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, of k, and of v [B,H,A] for every batch row separately.

    Args:
        grad: [B,H,T,S], the gradient of the scores.
        q: as for `compute_float32_additive_scores`.
        k: as for `compute_float32_additive_scores`.
        v: as for `compute_float32_additive_scores`.
    """
    grad_q, grad_k, grad_v = _allocate_gradients_with_v_per_batch_row(q, k, v)
    grads = {"grad_q": make_strided(grad_q), "grad_k": make_strided(grad_k), "grad_v": grad_v}
    fields = _make_call_fields(q, k, v) | grads
    fill_structure_and_call_library("qkv_additive_score_backward", **fields, grad_scores=grad.contiguous())
    return grad_q, grad_k, grad_v


@compute_additive_score_gradients_per_batch_row.register_fake
def _allocate_fake_gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _allocate_gradients_with_v_per_batch_row(q, k, v)


def _make_call_fields(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Any]:
    """The fields of `structures.AdditiveScore` that forward and backward pass share."""
    sizes = zip(("batch", "heads", "queries", "width"), q.shape, strict=True)
    return {
        **dict(sizes),
        "keys": k.shape[2],
        "q": make_strided(q),
        "k": make_strided(k),
        "v": v.contiguous(),
    }


def _allocate_gradients_with_v_per_batch_row(
    q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(len(q), *v.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if double_backward.is_backward_recorded_or_transformed():
        return _compute_differentiable_gradients(grad, *ctx.saved_tensors)
    grad_q, grad_k, grad_v = compute_additive_score_gradients_per_batch_row(grad, *ctx.saved_tensors)
    return grad_q, grad_k, grad_v.sum(0)


def _compute_differentiable_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same gradients with torch operators, for one block of queries after the other.

    A block is computed again when its gradients are differentiated.
    """
    rows = compute_queries_per_block(q.shape[0], q.shape[1], k.shape[2], q.shape[3])
    with torch.autocast("cpu", enabled=False):
        blocks = [
            checkpoint(
                _compute_gradients_of_query_block, *block, k, v, use_reentrant=False, preserve_rng_state=False
            )
            for block in zip(grad.split(rows, 2), q.split(rows, 2), strict=True)
        ]
    grad_q, grad_k, grad_v = zip(*blocks, strict=True)
    return torch.cat(grad_q, 2), torch.stack(grad_k).sum(0), torch.stack(grad_v).sum(0)


def _compute_gradients_of_query_block(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    tanh = torch.tanh(q[:, :, :, None] + k[:, :, None])
    grad_sums = grad[..., None] * (1 - tanh.square()) * v[:, None, None]
    return grad_sums.sum(3), grad_sums.sum(2), torch.einsum("bhts,bhtsa->ha", grad, tanh)


compute_float32_additive_scores.register_autograd(_backward, setup_context=_save_for_backward)
