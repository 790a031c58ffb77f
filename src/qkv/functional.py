"""Attention as a function, for parts without parameters: `attention`, and `attend` with weights."""

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

# Evaluators cached for calls with the same parts and sizes.  The largest part of one is the projections of a
# feature map: 128 KB for 8 heads of 64 with 64 features.
MAX_EVALUATORS = 128


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
    """Compute attention without weights, with the fastest backend for its parts.

        out = select(score(q, k) + bias) v          or, with a feature map, φ(q)·Σ φ(k)⊗v / φ(q)·Σ φ(k)

    A linear or banded mechanism never allocates T×S memory.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D]; where Hk < H, groups of H/Hk query heads share a key head.
        v: Values [B,Hk,S,E].
        score: Similarity of a query and a key; None is ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to.  Where k is q itself, queries have the positions of keys.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.
        causal: Whether queries see no later keys; the last query is aligned with the last key.
        keep: [B,S] bool, True = a real key.
        allow: [T,S], [B,T,S] or [B,H,T,S] bool, True = may be attended.
        bias: [T,S], [B,T,S] or [B,H,T,S], added to the scores.
        generator: Draws new projections of a feature map; None uses those of seed 0, drawn once.

    Returns:
        out [B,H,T,E]; 0 for a query that may attend to nothing.

    Raises:
        BadShape: The shapes do not fit together, or have no dimension of heads.
        BadMask: A mask has another type or shape, or a feature map cannot apply it.
        IncompatibleParts: The parts clash, or one has parameters: use `Attention` for it.

    References:
        Vaswani et al. 2017, eq. 1; with a feature map Peng et al. 2021, eq. 5.

    Example:
        >>> q, k, v = (torch.randn(2, 8, 100, 64) for _ in range(3))
        >>> qkv.attention(q, k, v, kernel=qkv.RFA(64), causal=True).shape
        torch.Size([2, 8, 100, 64])
    """
    parts = (score, scope, select, kernel)
    evaluator = _find_evaluator(q, k, v, parts, causal, generator)
    return evaluator(*_prepare(q, k, v, keep, allow, bias))


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
    """Compute `attention` together with the weights, which take T×S memory.

    Args:
        q: Queries [B,H,T,D].
        k: Keys [B,Hk,S,D]; where Hk < H, groups of H/Hk query heads share a key head.
        v: Values [B,Hk,S,E].
        score: Similarity of a query and a key; None is ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to.  Where k is q itself, queries have the positions of keys.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.
        causal: Whether queries see no later keys; the last query is aligned with the last key.
        keep: [B,S] bool, True = a real key.
        allow: [T,S], [B,T,S] or [B,H,T,S] bool, True = may be attended.
        bias: [T,S], [B,T,S] or [B,H,T,S], added to the scores.
        generator: Draws new projections of a feature map; None uses those of seed 0, drawn once.

    Returns:
        out [B,H,T,E], weights [B,H,T,S], and log_prob [B,H,T] where the selection sampled.

    Raises:
        BadShape: The shapes do not fit together, or have no dimension of heads.
        BadMask: A mask has another type or shape, or a feature map cannot apply it.
        IncompatibleParts: The parts clash, or one has parameters: use `Attention` for it.

    References:
        Vaswani et al. 2017, eq. 1; weights of a feature map: φ(q)·φ(k) / Σ φ(q)·φ(k).

    Example:
        >>> q, k, v = (torch.randn(2, 8, 10, 64) for _ in range(3))
        >>> qkv.attend(q, k, v, kernel=qkv.RFA(64)).weights.shape
        torch.Size([2, 8, 10, 10])
    """
    parts = (score, scope, select, kernel)
    evaluator = _find_evaluator(q, k, v, parts, causal, generator)
    return evaluator.attend(*_prepare(q, k, v, keep, allow, bias))


def _prepare(
    q: Query, k: Key, v: Value, keep: Tensor | None, allow: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Masking]:
    """Check the inputs and zero their padding; returns q, k, v and the masks."""
    is_self = q is k
    if keep is not None:
        masks.check_keep(keep, k[:, 0])
        is_real = keep[:, None]
        k, v = masks.zero_keys(k, is_real), masks.zero_keys(v, is_real)
        q = masks.zero_unusable_queries(q, is_real) if is_self else q
    nan.check_inputs(q=q, k=k, v=v, bias=bias)
    if allow is not None or bias is not None:
        allow, bias = masks.as_allow(allow), masks.as_bias(bias)
        masks.check_pairs(allow, bias, (*q.shape[:3], k.shape[2]))
    return q, k, v, Masking(keep, allow, bias, is_self)


def _find_evaluator(
    q: Query, k: Key, v: Value, parts: tuple[Any, ...], causal: bool, generator: torch.Generator | None
) -> Any:
    """Build the evaluator for these parts and sizes, or take it from the cache."""
    _check_shapes(q, k, v)
    sizes = (q.shape[1], q.shape[3], v.shape[3])
    if generator is not None:
        return _build(_read_parts(parts), causal, sizes, q.device, generator)
    if torch.compiler.is_compiling():
        static = [len(range(size)) for size in sizes]  # a range has no symbolic length
        return getattr(
            _traced, _cache_for_tracing(*parts, causal, *static, q.device, torch.get_default_dtype())
        )
    return _build_once(_read_parts(parts), causal, sizes, q.device, torch.get_default_dtype())


# Evaluators that torch.compile has traced, as attributes: its guard on one does not depend on the others.
_traced = SimpleNamespace()


@torch.compiler.assume_constant_result
def _cache_for_tracing(*options: Any) -> str:
    """Build an evaluator while torch.compile traces; returns the name of its attribute of `_traced`."""
    *parts, causal, heads, width, value_width, device, dtype = options
    evaluator = _build_once(_read_parts(parts), causal, (heads, width, value_width), device, dtype)
    name = f"evaluator_{id(evaluator)}"
    setattr(_traced, name, evaluator)
    return name


def _read_parts(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The parts of every axis, where each may be a part, its name or a mapping."""
    return tuple(read_part(axis, value) for axis, value in zip(rules.AXES, parts, strict=True))


@lru_cache(MAX_EVALUATORS)
def _build_once(
    parts: tuple[Any, ...], causal: bool, sizes: tuple[int, int, int], device: torch.device, _: torch.dtype
) -> Any:
    """Build an evaluator in a separate thread, where no mode of the first caller is active.

    Later callers share it, so that inference mode, torch.func or a default device must not affect it.
    torch's default dtype, the last argument, applies to all threads.
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
    with_parameters = [part for part in (spec.score, spec.scope) if part is not None and part.learns]
    if spec.kernel.is_gated:
        with_parameters.append(spec.kernel)
    if with_parameters:
        raise IncompatibleParts(
            f"{with_parameters[0]!r} has parameters to learn: use qkv.Attention, or a part without parameters"
        )
    heads, width, value_width = sizes
    evaluator = spec.kernel.build_core(Dims(heads, width, width, value_width), spec.choice, generator)
    return evaluator.to(device).eval().requires_grad_(False)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            fix = f": for one head pass {name}[:, None]" if x.dim() == 3 else ""
            raise BadShape(f"{name} must be [batch, heads, positions, width], got {tuple(x.shape)}{fix}")
    agree = q.shape[0] == k.shape[0] == v.shape[0] and k.shape[1:3] == v.shape[1:3]
    if not (agree and q.shape[3] == k.shape[3] and k.shape[1] and q.shape[1] % k.shape[1] == 0):
        raise BadShape(
            "q [B,H,T,D], k [B,Hk,S,D] and v [B,Hk,S,E] must agree in B, Hk, S and D, and H be a multiple "
            f"of Hk; got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
