"""The masks of `torch.nn.MultiheadAttention` in this library's terms: who may be seen, and what is added.

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
    """What a key_padding_mask [B,S] or [S] and an attn_mask [T,S] or [B·H,T,S] say together.

    For a feature map it holds `keep` alone, and `is_causal` is left to the caller.  Raises BadMask for a mask
    of another type or shape, or that the kernel cannot honour.
    """
    queries, keys = q.shape[2], k.shape[2]
    pairs = (*q.shape[:2], queries, keys)
    if is_causal and (mask is None or not kernel.forms_weights):
        _check_square(queries, keys)
    padding, whole = _of_keys(padding, pairs), _of_pairs(mask, pairs)
    keep, bias = _read(padding, "key_padding_mask", kernel, q.dtype)
    keep = None if keep is None else keep[:, 0, 0]
    if not kernel.forms_weights:
        _refuse(None if is_causal else mask, kernel)
        return Masking(keep)
    if is_causal and mask is None:
        return Masking(keep, masks.causal(queries, keys, q.device)[None, None], bias)
    allow, added = _read(whole, "attn_mask", kernel, q.dtype)
    return Masking(keep, allow, added if bias is None else bias if added is None else bias + added)


def hide_padding(
    inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor, batch_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """query, key and value without what a key_padding_mask [B,S] or [S] hides, in their own layout.

    Raises BadMask for a mask of another shape.
    """
    query, key, value = inputs
    rows, own = 0 if batch_first else 1, query is key
    batch, keys = (1, key.shape[0]) if key.dim() == 2 else (key.shape[rows], key.shape[1 - rows])
    keep = _real_keys(mask, batch, keys)
    if keep is None:
        return inputs
    keep = keep[0] if key.dim() == 2 else keep if batch_first else keep.mT
    query = masks.bound_queries(query, keep) if own else query
    hidden = masks.hide_keys(key, keep)
    return query, hidden, hidden if value is key else masks.hide_keys(value, keep)


def _real_keys(mask: Tensor | None, batch: int, keys: int) -> Tensor | None:
    """keep [B,S]; None where the mask hides no key for certain."""
    padding = _of_keys(mask, (batch, 1, 1, keys))
    if padding is None or not (padding.dtype == torch.bool or padding.dtype.is_floating_point):
        return None
    return (~padding if padding.dtype == torch.bool else ~torch.isneginf(padding))[:, 0, 0]


def pad_masking(masking: Masking, count: int) -> Masking:
    """The same, with `count` keys that everyone sees before the others."""
    keep = None if masking.keep is None else F.pad(masking.keep, (count, 0), value=True)
    allow = None if masking.allow is None else F.pad(masking.allow, (count, 0), value=True)
    bias = None if masking.bias is None else F.pad(masking.bias, (count, 0))
    return masking._replace(keep=keep, allow=allow, bias=bias)


def _of_keys(mask: Tensor | None, pairs: tuple[int, ...]) -> Tensor | None:
    if mask is None:
        return None
    batch, keys = pairs[0], pairs[3]
    if mask.shape != (batch, keys) and not (batch == 1 and mask.shape == (keys,)):
        raise BadMask(f"key_padding_mask must be [batch, keys] = {(batch, keys)}, got {tuple(mask.shape)}")
    return mask.reshape(batch, 1, 1, keys)


def _of_pairs(mask: Tensor | None, pairs: tuple[int, ...]) -> Tensor | None:
    if mask is None:
        return None
    batch, heads, queries, keys = pairs
    whole = (batch * heads, queries, keys)
    if mask.shape != whole[1:] and mask.shape != whole:  # torch.compile cannot search a tuple for sizes
        raise BadMask(
            f"attn_mask must be [queries, keys] = {whole[1:]} or [batch · heads, queries, keys] = {whole}, "
            f"got {tuple(mask.shape)}"
        )
    return mask.reshape(pairs) if mask.dim() == 3 else mask[None, None]


def _read(
    mask: Tensor | None, name: str, kernel: Any, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    if mask is None:
        return None, None
    if mask.dtype == torch.bool:
        return ~mask, None
    if not mask.dtype.is_floating_point:
        raise BadMask(
            f"{name} must be boolean (True = ignore) or float (added to the scores), got {mask.dtype}: "
            f"write {name}.bool() if 1 means ignore, {name} == 0 if 1 means a real token"
        )
    mask = mask.to(dtype)  # where a large negative number may become -inf
    hidden = torch.isneginf(mask)
    added = mask.masked_fill(hidden, 0)
    if not kernel.forms_weights:
        problem = _adds_to_scores(kernel)
        if mask.requires_grad:
            raise BadMask(problem)
        require(added == 0, BadMask, problem)
        return ~hidden, None
    # Reading costs less than the slower route that adds.  A mask that learns may be zero today.
    is_zero = can_read(added) and not mask.requires_grad and not bool(added.any())
    return ~hidden, None if is_zero else added


def _adds_to_scores(kernel: Any) -> str:
    # torch.compile cannot trace the repr of a dataclass.
    shown = type(kernel).__name__ if torch.compiler.is_compiling() else repr(kernel)
    return (
        f"this key_padding_mask adds to the scores, and {shown} has none: pass a mask of booleans, or of 0 "
        "and -inf, or use kernel=Softmax()"
    )


def _refuse(mask: Tensor | None, kernel: Any) -> None:
    if mask is not None:
        raise BadMask(
            f"attn_mask cannot be honoured by {kernel!r}, which sums over all keys or a prefix: if it is the "
            "causal mask, pass is_causal=True as well; padding goes in key_padding_mask; for any other mask "
            "use kernel=Softmax()"
        )


def _check_square(queries: int, keys: int) -> None:
    if queries != keys:
        raise BadMask(
            f"is_causal=True leaves open where {queries} queries stand among {keys} keys: pass attn_mask=, "
            "or use qkv.Attention(causal=True), which aligns the last query with the last key"
        )
