"""Conversion of the masks of `torch.nn.MultiheadAttention` to `Masking`.

There True or -inf means ignore, and every other float is added to the scores.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv import masks
from qkv.errors import BadMask
from qkv.kernel.masking import Masking
from qkv.shapes import Key, Query
from qkv.tracing import can_read, require


def build_masking(
    q: Query, k: Key, padding: Tensor | None, mask: Tensor | None, is_causal: bool, kernel: Any
) -> Masking:
    """Convert a key_padding_mask and an attn_mask.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,H,S,D].
        padding: key_padding_mask, [B,S] or [S].
        mask: attn_mask, [T,S] or [B·H,T,S].
        is_causal: The hint that the mask is causal.  Without a mask it builds one.
        kernel: The kernel.  For a feature map the result has only `keep`; the caller applies `is_causal`.

    Returns:
        The masks and the bias.

    Raises:
        BadMask: A mask has another type or shape, or the kernel cannot apply it.
    """
    queries, keys = q.shape[2], k.shape[2]
    pairs = (*q.shape[:2], queries, keys)
    if is_causal and (mask is None or not kernel.forms_weights):
        _check_square(queries, keys)
    padding, pair_mask = _expand_padding(padding, pairs), _expand_pairs(mask, pairs)
    keep, bias = _split_mask(padding, "key_padding_mask", kernel, q.dtype)
    keep = None if keep is None else keep[:, 0, 0]
    if not kernel.forms_weights:
        _refuse_pair_mask(None if is_causal else mask, kernel)
        return Masking(keep)
    if is_causal and mask is None:
        return Masking(keep, masks.causal(queries, keys, q.device)[None, None], bias)
    allow, added = _split_mask(pair_mask, "attn_mask", kernel, q.dtype)
    return Masking(keep, allow, added if bias is None else bias if added is None else bias + added)


def zero_padding(
    inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Set the padded keys and values to zero, so that their content cannot reach any output.

    Args:
        inputs: query, key and value in the layout of the layer.
        mask: key_padding_mask, [B,S] or [S].
        batch_first: Whether the batch is the first dimension.

    Returns:
        query, key and value.

    Raises:
        BadMask: The mask has another shape.
    """
    query, key, value = inputs
    batch_dim, is_self = 0 if batch_first else 1, query is key
    batch, keys = (1, key.shape[0]) if key.dim() == 2 else (key.shape[batch_dim], key.shape[1 - batch_dim])
    keep = _read_keep(mask, batch, keys)
    if keep is None:
        return inputs
    keep = keep[0] if key.dim() == 2 else keep if batch_first else keep.mT
    query = masks.zero_unusable_queries(query, keep) if is_self else query
    real_keys = masks.zero_keys(key, keep)
    return query, real_keys, real_keys if value is key else masks.zero_keys(value, keep)


def _read_keep(mask: Tensor | None, batch: int, keys: int) -> Tensor | None:
    """keep [B,S]; None for a mask that only adds to the scores."""
    padding = _expand_padding(mask, (batch, 1, 1, keys))
    if padding is None or not (padding.dtype == torch.bool or padding.dtype.is_floating_point):
        return None
    return (~padding if padding.dtype == torch.bool else ~torch.isneginf(padding))[:, 0, 0]


def prepend_keys(masking: Masking, count: int) -> Masking:
    """Extend the masks by keys before the others that every query may attend to.

    Args:
        masking: The masks and the bias.
        count: The number of added keys.

    Returns:
        The extended masks and bias.
    """
    keep = None if masking.keep is None else F.pad(masking.keep, (count, 0), value=True)
    allow = None if masking.allow is None else F.pad(masking.allow, (count, 0), value=True)
    bias = None if masking.bias is None else F.pad(masking.bias, (count, 0))
    return Masking(keep, allow, bias, masking.is_self, masking.gate)  # torch 2.6 compiles no _replace


def _expand_padding(mask: Tensor | None, pairs: tuple[int, ...]) -> Tensor | None:
    """A key_padding_mask as [B,1,1,S]."""
    if mask is None:
        return None
    batch, keys = pairs[0], pairs[3]
    if mask.shape != (batch, keys) and not (batch == 1 and mask.shape == (keys,)):
        raise BadMask(
            f"key_padding_mask must be [batch, keys] = {(batch, keys)}, got {tuple(mask.shape)}; transpose "
            "or repeat it"
        )
    return mask.reshape(batch, 1, 1, keys)


def _expand_pairs(mask: Tensor | None, pairs: tuple[int, ...]) -> Tensor | None:
    """An attn_mask as [1,1,T,S] or [B,H,T,S]."""
    if mask is None:
        return None
    batch, heads, queries, keys = pairs
    full = (batch * heads, queries, keys)
    if mask.shape != full[1:] and mask.shape != full:  # torch.compile cannot search a tuple for sizes
        raise BadMask(
            f"attn_mask must be [queries, keys] = {full[1:]} or [batch · heads, queries, keys] = {full}, "
            f"got {tuple(mask.shape)}"
        )
    return mask.reshape(pairs) if mask.dim() == 3 else mask[None, None]


def _split_mask(
    mask: Tensor | None, name: str, kernel: Any, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """A mask of torch as a boolean mask (True = may be attended) and what it adds to the scores."""
    if mask is None:
        return None, None
    if mask.dtype == torch.bool:
        return ~mask, None
    if not mask.dtype.is_floating_point:
        raise BadMask(
            f"{name} must be boolean (True = ignore) or float (added to the scores), got {mask.dtype}: "
            f"write {name}.bool() if 1 means ignore, {name} == 0 if 1 means a real token"
        )
    mask = mask.to(dtype)  # a large negative number may become -inf here
    hidden = torch.isneginf(mask)
    added = mask.masked_fill(hidden, 0)
    if not kernel.forms_weights:
        problem = _describe_added_scores(kernel)
        if mask.requires_grad:
            raise BadMask(problem)
        require(added == 0, BadMask, problem)
        return ~hidden, None
    # Reading the values costs less than the slower route that adds a bias.  A learned mask may be zero today.
    is_zero = can_read(added) and not mask.requires_grad and not bool(added.any())
    return ~hidden, None if is_zero else added


def _describe_added_scores(kernel: Any) -> str:
    # torch.compile cannot trace the repr of a dataclass.
    shown = type(kernel).__name__ if torch.compiler.is_compiling() else repr(kernel)
    return (
        f"this key_padding_mask adds to the scores, but {shown} has no scores: pass a mask of booleans, or "
        "of 0 and -inf, or use kernel=Softmax()"
    )


def _refuse_pair_mask(mask: Tensor | None, kernel: Any) -> None:
    if mask is not None:
        raise BadMask(
            f"attn_mask cannot be applied by {kernel!r}, which sums over all keys or a prefix: if it is the "
            "causal mask, pass is_causal=True as well; padding goes in key_padding_mask; for any other mask "
            "use kernel=Softmax()"
        )


def _check_square(queries: int, keys: int) -> None:
    if queries != keys:
        raise BadMask(
            f"is_causal=True is ambiguous for {queries} queries and {keys} keys: pass attn_mask=, or use "
            "qkv.Attention(causal=True), which aligns the last query with the last key"
        )
