"""Boolean masks, True = may be attended, or is a real token.  All masks intersect.

`keep` [B,S] marks real keys; `allow` [..,T,S] marks the keys that each query may attend to.  A query without
any key gets output 0, weights 0 and finite gradients.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import BadMask
from qkv.shapes import Allow, Keep
from qkv.tracing import require


def check_boolean(mask: Tensor, name: str) -> Tensor:
    """Check that a mask is boolean.

    Args:
        mask: The mask, of any shape.
        name: The name of the argument, for the message.

    Returns:
        The mask itself.

    Raises:
        BadMask: It has another dtype; the message says how to convert it.
    """
    if mask.dtype == torch.bool:
        return mask
    if mask.dtype.is_floating_point:
        fix = "pass additive scores as bias=, or convert with qkv.masks.from_torch_mha"
    else:
        fix = f"write {name}.bool() if 1 means a real token, or use qkv.masks.from_huggingface / from_fairseq"
    raise BadMask(f"{name} must be boolean (True = may be attended), got {mask.dtype}: {fix}")


def causal(queries: int, keys: int, device: torch.device | None = None) -> Bool[Tensor, "T S"]:
    """Build the causal mask allow[t,s] = s <= t + S - T, where the last query is aligned with the last key.

    Args:
        queries: T.
        keys: S.
        device: Where to create it.

    Returns:
        The mask [T,S].
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def intersect(*masks: Tensor | None) -> Tensor | None:
    """Intersect masks.

    Args:
        *masks: Boolean masks that broadcast to each other; None allows everything.

    Returns:
        The intersection; None where every mask is None.
    """
    intersection = None
    for mask in masks:
        if mask is not None:
            intersection = mask if intersection is None else intersection & mask
    return intersection


def expand_keep(keep: Keep | None) -> Allow | None:
    """Give `keep` the dimensions of an allow mask.

    Args:
        keep: [B,S], or None.

    Returns:
        A view [B,1,1,S]; None for None.
    """
    return None if keep is None else keep[:, None, None, :]


def as_allow(allow: Tensor | None) -> Tensor | None:
    """Check an allow mask and give it four dimensions.

    Args:
        allow: [T,S], [B,T,S] or [B,H,T,S] bool, or None.

    Returns:
        A view [1 or B, 1 or H, T, S]; None for None.

    Raises:
        BadMask: It has another dtype or number of dimensions.
    """
    return None if allow is None else _with_four_dimensions(check_boolean(allow, "allow"), "allow")


def as_bias(bias: Tensor | None) -> Tensor | None:
    """Check a bias and give it four dimensions.

    Args:
        bias: [T,S], [B,T,S] or [B,H,T,S] float, or None.

    Returns:
        A view [1 or B, 1 or H, T, S]; None for None.

    Raises:
        BadMask: It has another dtype or number of dimensions.
    """
    if bias is not None and not bias.dtype.is_floating_point:
        raise BadMask(f"bias= is added to the scores: it must be float, got {bias.dtype}; masks go in allow=")
    return None if bias is None else _with_four_dimensions(bias, "bias")


def _with_four_dimensions(x: Tensor, name: str) -> Tensor:
    dims = x.dim()
    if not 2 <= dims <= 4:
        raise BadMask(f"{name} must be [T,S], [B,T,S] or [B,H,T,S], got {list(x.shape)}")
    return x[:, None] if dims == 3 else x.expand(*(1,) * (4 - dims), *x.shape)


def check_keep(keep: Tensor | None, memory: Tensor) -> Tensor | None:
    """Check that `keep` is boolean and fits the memory.

    Args:
        keep: [B,S] bool, or None.
        memory: [B,S,*].

    Returns:
        `keep` itself.

    Raises:
        BadMask: It has another dtype or shape.
    """
    if keep is not None and check_boolean(keep, "keep").shape != memory.shape[:2]:
        raise BadMask(f"keep must be [batch, keys] = {tuple(memory.shape[:2])}, got {tuple(keep.shape)}")
    return keep


def zero_keys(x: Tensor, keep: Tensor) -> Tensor:
    """Set padding to zero.  Apply it before a projection, whose gradient would otherwise be 0 · NaN.

    Args:
        x: [..,S,*], which may hold anything at padding.
        keep: [..,S] bool, True at real positions.

    Returns:
        x with zeros at padding.
    """
    return torch.where(keep[..., None], x, 0)


def zero_unusable_queries(x: Tensor, keep: Tensor) -> Tensor:
    """Set padded queries to zero where they are NaN, infinite or so large that products would overflow.

    Other padded queries stay: they have an output, which the caller may ignore or compare.

    Args:
        x: [..,T,*].
        keep: [..,T] bool, True at real positions.

    Returns:
        x with zeros at unusable padding.
    """
    bound = torch.finfo(x.dtype).max ** 0.75
    usable = keep | (torch.linalg.vector_norm(x, dim=-1) < bound)  # False for NaN
    return torch.where(usable[..., None], x, 0)


def count_real_positions(keep: Keep) -> Int[Tensor, "B"]:
    """Count the real positions of every row, on the CPU, as packing needs them.

    Args:
        keep: [B,S] bool, True at real positions.

    Returns:
        [B]; S for every row of a meta tensor, which has no values.
    """
    if keep.is_meta:
        return torch.full(keep.shape[:1], keep.shape[1], device="cpu")
    return keep.sum(1).cpu()


def check_pairs(allow: Tensor | None, bias: Tensor | None, pairs: tuple[int, ...]) -> None:
    """Check that a mask and a bias of four dimensions broadcast to all pairs of queries and keys.

    Args:
        allow: The mask, or None.
        bias: The bias, or None.
        pairs: (B, H, T, S).

    Raises:
        BadMask: One of them does not broadcast.
    """
    for name, x in (("allow", allow), ("bias", bias)):
        if x is not None and not _broadcasts(x.shape, pairs):
            raise BadMask(
                f"{name} must broadcast to [batch, heads, queries, keys] = {list(pairs)}, got {list(x.shape)}"
            )


def _broadcasts(shape: torch.Size, target: tuple[int, ...]) -> bool:
    sizes = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (full, 1) for size, full in sizes)


def from_torch_mha(mask: Bool[Tensor, "..."] | Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Convert a mask of torch.nn.MultiheadAttention, where True or -inf means ignore.

    Args:
        mask: A boolean mask, or a float mask of 0 and -inf.

    Returns:
        The boolean mask, True = may be attended.

    Raises:
        BadMask: A float mask has other values: these are scores, which belong in bias=.

    Example:
        >>> qkv.masks.from_torch_mha(torch.tensor([0.0, float("-inf")]))
        tensor([ True, False])
    """
    if mask.dtype == torch.bool:
        return ~mask
    if not mask.dtype.is_floating_point:
        raise BadMask(f"torch masks are boolean or float, got {mask.dtype}: write mask.bool() if 1 = ignore")
    hidden = torch.isneginf(mask)
    problem = "this float mask holds scores other than 0 and -inf: pass it as bias= instead"
    require((mask == 0) | hidden, BadMask, problem)
    return ~hidden


def from_huggingface(mask: Tensor) -> Bool[Tensor, "..."]:
    """Convert a two-dimensional attention_mask of Hugging Face, where 1 is a real token.

    Args:
        mask: Of 0 and 1, in any dtype.

    Returns:
        The boolean mask, True = a real token.

    Raises:
        BadMask: A float mask has other values: these are scores, which belong in bias=.

    Example:
        >>> qkv.masks.from_huggingface(torch.tensor([1, 1, 0]))
        tensor([ True,  True, False])
    """
    if mask.dtype.is_floating_point:
        problem = "expected a 0/1 attention_mask, got additive scores: pass those as bias="
        require((mask == 0) | (mask == 1), BadMask, problem)
    return mask != 0


def from_fairseq(mask: Tensor) -> Bool[Tensor, "..."]:
    """Convert a padding mask of fairseq, where 1 or True is padding.

    Args:
        mask: Boolean, or of 0 and 1.

    Returns:
        The boolean mask, True = a real token.

    Example:
        >>> qkv.masks.from_fairseq(torch.tensor([False, True]))
        tensor([ True, False])
    """
    return mask == 0
