"""Attention as a function, for parts without parameters: `attention` is fast, `attend` returns weights."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from qkv import masks, nan, rules
from qkv.errors import BadShape, IncompatibleParts
from qkv.kernel import Softmax
from qkv.kernel.masking import Masking
from qkv.scope import Global
from qkv.select import Soft
from qkv.shapes import Attended, Dims, Key, Out, Query, Value
from qkv.spec import AttentionSpec, read_part

# Evaluators kept for the next call with the same parts and sizes.  The largest thing that one holds is the
# projections of a feature map: 128 KB for 8 heads of 64 with 64 features.
MOST_EVALUATORS = 128


def attention(  # noqa: PLR0913 -- the fixed public signature
    q: Query,
    k: Key,
    v: Value,
    *,
    score: Any = None,
    scope: Any = Global(),
    select: Any = Soft(),
    kernel: Any = Softmax(),
    causal: bool = False,
    keep: Bool[Tensor, "B S"] | None = None,
    allow: Tensor | None = None,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Out:
    """Attention without weights, through the fastest route of its parts: fused, banded, linear or explicit.

        out = select(score(q, k) + bias) v          or, with a feature map, φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k)

    A linear or banded mechanism never takes memory for all T×S pairs.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D]; where Hk < H, groups of H/Hk query heads share a key head.
        v: Values [B,Hk,S,E].
        score: Similarity of a query and a key; None is the kernel's own (ScaledDot for Softmax).
        scope: Which keys a query may see.  Where k is q itself, queries count their positions with the keys.
        select: From scores to weights.
        kernel: Softmax(), or a feature map.
        causal: The last query is aligned with the last key, and sees no later key.
        keep: [B,S] bool, True = a real key.
        allow: [T,S], [B,T,S] or [B,H,T,S] bool, True = may be attended.
        bias: [T,S], [B,T,S] or [B,H,T,S], added to the scores.
        generator: Draws the projections of a feature map anew; None uses those of seed 0, drawn once.

    Returns:
        out [B,H,T,E]; 0 for a query that may attend to nothing.

    Raises:
        BadShape: The shapes do not fit together, or have no dimension of heads.
        BadMask: A mask has another type or shape, or a feature map cannot honour it.
        IncompatibleParts: Parts that clash, or that learn parameters: those live in `Attention`.

    Example:
        >>> q, k, v = (torch.randn(2, 8, 100, 64) for _ in range(3))
        >>> qkv.attention(q, k, v, kernel=qkv.RFA(64), causal=True).shape
        torch.Size([2, 8, 100, 64])
    """
    parts = (score, scope, select, kernel)
    evaluator = _evaluator(q, k, v, parts, causal, generator)
    return evaluator(*_inputs(q, k, v, keep, allow, bias))


def attend(  # noqa: PLR0913 -- the fixed public signature
    q: Query,
    k: Key,
    v: Value,
    *,
    score: Any = None,
    scope: Any = Global(),
    select: Any = Soft(),
    kernel: Any = Softmax(),
    causal: bool = False,
    keep: Bool[Tensor, "B S"] | None = None,
    allow: Tensor | None = None,
    bias: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Attended:
    """`attention` with the weights that made the output; they take memory for all T×S pairs.

    Args and errors are those of `attention`.

    Returns:
        Attended: out [B,H,T,E], weights [B,H,T,S], and log_prob [B,H,T] where the selection sampled.

    Example:
        >>> q, k, v = (torch.randn(2, 8, 10, 64) for _ in range(3))
        >>> qkv.attend(q, k, v, kernel=qkv.RFA(64)).weights.shape
        torch.Size([2, 8, 10, 10])
    """
    parts = (score, scope, select, kernel)
    evaluator = _evaluator(q, k, v, parts, causal, generator)
    return evaluator.attend(*_inputs(q, k, v, keep, allow, bias))


def _inputs(
    q: Query, k: Key, v: Value, keep: Tensor | None, allow: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Masking]:
    own = q is k
    if keep is not None:
        masks.checked_keep(keep, k[:, 0])
        real = keep[:, None]
        k, v = masks.hide_keys(k, real), masks.hide_keys(v, real)
        q = masks.bound_queries(q, real) if own else q
    nan.check(q=q, k=k, v=v, bias=bias)
    if allow is not None or bias is not None:
        allow, bias = masks.as_allow(allow), masks.as_bias(bias)
        masks.check_pairs(allow, bias, (*q.shape[:3], k.shape[2]))
    return q, k, v, Masking(keep, allow, bias, own)


def _evaluator(
    q: Query, k: Key, v: Value, parts: tuple[Any, ...], causal: bool, generator: torch.Generator | None
) -> Any:
    _check_shapes(q, k, v)
    sizes = (q.shape[1], q.shape[3], v.shape[3])
    if generator is not None:
        return _build(_read_parts(parts), causal, sizes, q.device, generator)
    if torch.compiler.is_compiling():
        static = [len(range(size)) for size in sizes]  # a range has no symbolic length
        return getattr(_traced, _name_of_traced(*parts, causal, *static, q.device, torch.get_default_dtype()))
    return _build_once(_read_parts(parts), causal, sizes, q.device, torch.get_default_dtype())


# The evaluators that torch.compile has traced, as attributes: a guard on one does not depend on the others.
_traced = SimpleNamespace()


@torch.compiler.assume_constant_result
def _name_of_traced(*options: Any) -> str:
    *parts, causal, heads, width, value_width, device, dtype = options
    evaluator = _build_once(_read_parts(parts), causal, (heads, width, value_width), device, dtype)
    name = f"evaluator_{id(evaluator)}"
    setattr(_traced, name, evaluator)
    return name


def _read_parts(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The parts of every axis, also where they are written as in a recipe: by name, or as a mapping."""
    return tuple(read_part(axis, written) for axis, written in zip(rules.AXES, parts, strict=True))


@lru_cache(MOST_EVALUATORS)
def _build_once(
    parts: tuple[Any, ...], causal: bool, sizes: tuple[int, int, int], device: torch.device, _: torch.dtype
) -> Any:
    """Build an evaluator without the modes of its first caller (inference mode, torch.func, a default
    device), because later callers get it too: in a thread of its own, where none is in force.

    torch's default dtype, the last argument, is in force in every thread.
    """
    generator = torch.Generator().manual_seed(0)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_build, parts, causal, sizes, device, generator).result()


def _build(
    parts: tuple[Any, ...],
    causal: bool,
    sizes: tuple[int, int, int],
    device: torch.device,
    generator: torch.Generator,
) -> Any:
    spec = AttentionSpec(**dict(zip(rules.AXES, parts, strict=True)), causal=causal)
    learning = [part for part in (spec.score, spec.scope) if part is not None and part.learns]
    if spec.kernel.is_gated:
        learning.append(spec.kernel)
    if learning:
        raise IncompatibleParts(
            f"{learning[0]!r} learns its weights: use qkv.Attention, or a part without any"
        )
    heads, width, value_width = sizes
    evaluator = spec.kernel.build_core(Dims(heads, width, width, value_width), spec.choice, generator)
    return evaluator.to(device).eval().requires_grad_(False)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            cure = f": for one head pass {name}[:, None]" if x.dim() == 3 else ""
            raise BadShape(f"{name} must be [batch, heads, positions, width], got {tuple(x.shape)}{cure}")
    same = q.shape[0] == k.shape[0] == v.shape[0] and k.shape[1:3] == v.shape[1:3]
    if not (same and q.shape[3] == k.shape[3] and k.shape[1] and q.shape[1] % k.shape[1] == 0):
        raise BadShape(
            "q [B,H,T,D], k [B,Hk,S,D] and v [B,Hk,S,E] must agree in B, Hk, S and D, and H be a multiple "
            f"of Hk; got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
