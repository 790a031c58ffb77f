"""The one mask convention: boolean, True = may be attended, or is a real token.  All masks intersect.

`keep` [B,S] marks real keys; `allow` [..,T,S] marks what each query may see.  A query that may see nothing
gets output 0, weights 0 and finite gradients.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.errors import BadMask
from qkv.shapes import Allow, Keep
from qkv.tracing import require


def checked(mask: Tensor, name: str) -> Tensor:
    """The mask itself, if it is boolean; BadMask with the way out otherwise."""
    if mask.dtype == torch.bool:
        return mask
    if mask.dtype.is_floating_point:
        cure = "pass additive scores as bias=, or convert with qkv.masks.from_torch_mha"
    else:
        cure = (
            f"write {name}.bool() if 1 means a real token, or use qkv.masks.from_huggingface / from_fairseq"
        )
    raise BadMask(f"{name} must be boolean (True = may be attended), got {mask.dtype}: {cure}")


def causal(queries: int, keys: int, device: torch.device | None = None) -> Bool[Tensor, "T S"]:
    """allow[t,s] = s <= t + S - T: the last query is aligned with the last key (lower right)."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def intersect(*masks: Tensor | None) -> Tensor | None:
    """What every mask allows; None stands for a mask that allows everything."""
    met = None
    for mask in masks:
        if mask is not None:
            met = mask if met is None else met & mask
    return met


def over_keys(keep: Keep | None) -> Allow | None:
    """`keep` [B,S] as an allow mask [B,1,1,S]."""
    return None if keep is None else keep[:, None, None, :]


def as_allow(allow: Tensor | None) -> Tensor | None:
    """An allow mask [T,S], [B,T,S] or [B,H,T,S] with four dimensions."""
    return None if allow is None else _of_pairs(checked(allow, "allow"), "allow")


def as_bias(bias: Tensor | None) -> Tensor | None:
    """A bias [T,S], [B,T,S] or [B,H,T,S] with four dimensions."""
    if bias is not None and not bias.dtype.is_floating_point:
        raise BadMask(f"bias= is added to the scores: it must be float, got {bias.dtype}; masks go in allow=")
    return None if bias is None else _of_pairs(bias, "bias")


def _of_pairs(given: Tensor, name: str) -> Tensor:
    dims = given.dim()
    if not 2 <= dims <= 4:
        raise BadMask(f"{name} must be [T,S], [B,T,S] or [B,H,T,S], got {list(given.shape)}")
    return given[:, None] if dims == 3 else given.expand(*(1,) * (4 - dims), *given.shape)


def checked_keep(keep: Tensor | None, memory: Tensor) -> Tensor | None:
    """`keep`, if it is boolean and [B,S] like the memory [B,S,*]; BadMask otherwise."""
    if keep is not None and checked(keep, "keep").shape != memory.shape[:2]:
        raise BadMask(f"keep must be [batch, keys] = {tuple(memory.shape[:2])}, got {tuple(keep.shape)}")
    return keep


def hide_keys(x: Tensor, keep: Tensor) -> Tensor:
    """x with zeros at padding: keep [..,S] marks the real positions of x [..,S,*].

    Apply it before a projection: afterwards the gradient of the weights would be 0 · NaN.
    """
    return torch.where(keep[..., None], x, 0)


def bound_queries(x: Tensor, keep: Tensor) -> Tensor:
    """x [..,T,*] with zeros at the padding of queries that is NaN, infinite or too large to be multiplied.

    Other padding stays: a padded query has an output, which its owner may ignore or compare.
    """
    bound = torch.finfo(x.dtype).max ** 0.75
    usable = keep | (torch.linalg.vector_norm(x, dim=-1) < bound)  # False for NaN
    return torch.where(usable[..., None], x, 0)


def check_pairs(allow: Tensor | None, bias: Tensor | None, pairs: tuple[int, ...]) -> None:
    """Raise BadMask where allow or bias, of four dimensions, does not broadcast to `pairs` = [B,H,T,S]."""
    for name, given in (("allow", allow), ("bias", bias)):
        if given is not None and not _broadcasts(given.shape, pairs):
            raise BadMask(
                f"{name} must broadcast to [batch, heads, queries, keys] = {list(pairs)}, "
                f"got {list(given.shape)}"
            )


def _broadcasts(shape: torch.Size, target: tuple[int, ...]) -> bool:
    sizes = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (wanted, 1) for size, wanted in sizes)


def from_torch_mha(mask: Bool[Tensor, "..."] | Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """torch.nn.MultiheadAttention's masks (True or -inf = ignore) in this library's polarity.

    Raises BadMask for a float mask with values other than 0 and -inf: those belong in bias=.
    """
    if mask.dtype == torch.bool:
        return ~mask
    if not mask.dtype.is_floating_point:
        raise BadMask(f"torch masks are boolean or float, got {mask.dtype}")
    hidden = torch.isneginf(mask)
    problem = "this float mask holds scores other than 0 and -inf: pass it as bias= instead"
    require((mask == 0) | hidden, BadMask, problem)
    return ~hidden


def from_huggingface(mask: Tensor) -> Bool[Tensor, "..."]:
    """Hugging Face's two-dimensional attention_mask (1 = real token) as a boolean mask."""
    if mask.dtype.is_floating_point:
        problem = "expected a 0/1 attention_mask, got additive scores: pass those as bias="
        require((mask == 0) | (mask == 1), BadMask, problem)
    return mask != 0


def from_fairseq(mask: Tensor) -> Bool[Tensor, "..."]:
    """fairseq's padding mask (1 or True = padding) in this library's polarity."""
    return mask == 0
