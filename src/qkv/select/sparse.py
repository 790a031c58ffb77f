"""Sparse selection: sparsemax and entmax, whose weights are exactly 0 for most keys.

Both are members of one family, α-entmax, with α = 2 and α > 1:

    p = argmax over the simplex of p·z + H_α(p)        p_s = [(α-1) z_s - τ]₊ ^ 1/(α-1),   τ such that Σ p = 1
"""

import math
from typing import Annotated, Any, ClassVar, no_type_check

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Allow, Logits, Weights
from qkv.strict import PART
from qkv.tracing import is_transformed

# With the largest (α-1) z shifted to 0 the threshold τ is at least -1: a key at -2 gets no weight.
OUTSIDE_SUPPORT = -2.0


def sparsemax(logits: Logits, allow: Allow | None) -> Weights:
    """Compute argmin_p |p - z|² over the simplex of the allowed keys.

    Martins & Astudillo 2016, eq. 1 and algorithm 1.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

    Returns:
        Weights [B,H,T,S]; zeros in rows that allow no key.
    """
    return entmax(logits, allow, 2.0)


def entmax(logits: Logits, allow: Allow | None, alpha: float) -> Weights:
    """Compute [(α-1) z_s - τ]₊ ^ 1/(α-1) over the allowed keys, with τ such that the weights sum to 1.

    τ is exact for α = 1.5 and α = 2, found by sorting; any other α is solved by bisection.  Computed in
    float32 at least.  Peters et al. 2019, proposition 1 (the Jacobian) and algorithms 1 and 2.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.
        alpha: α > 1; larger is sparser.

    Returns:
        Weights [B,H,T,S]; zeros in rows that allow no key.
    """
    if logits.shape[-1] == 0:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_transformed():
        return _entmax_by_operators(wide, allow, alpha).to(logits.dtype)
    return _Entmax.apply(wide, allow, alpha).to(logits.dtype)


@no_type_check  # torch.compile cannot trace into a forward that a shape checker has wrapped
class _Entmax(torch.autograd.Function):
    """Entmax with its closed-form gradient."""

    @staticmethod
    def forward(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
        return _solve(_scale_logits(logits, allow, alpha), allow, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.alpha = inputs[2]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Compute s ∘ (g - s·g / Σ s) with s = p^(2-α) on the support and 0 elsewhere.

        It is a function of the weights, so that it can be differentiated again.
        """
        (weights,) = ctx.saved_tensors
        support = weights > 0
        slope = weights.masked_fill(~support, 1).pow(2 - ctx.alpha) * support
        total = slope.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        mean = (slope * grad).sum(-1, keepdim=True) / total
        return slope * (grad - mean), None, None


def _entmax_by_operators(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    """Entmax as a composition of torch operators, which vmap, jvp and nested transforms support.

    Two Newton steps for τ start at the solution.  They do not change its value but make it depend on the
    logits; since Newton's error is squared by every step, derivatives up to the third are exact.
    """
    x = _scale_logits(logits, allow, alpha)
    weights = _solve(x.detach(), allow, alpha)
    support, power = weights > 0, 1 / (alpha - 1)
    x_minus_tau = weights.masked_fill(~support, 1).pow(alpha - 1) + (x - x.detach())
    base, shift = torch.where(support, x_minus_tau, 1), torch.zeros_like(x[..., :1])
    for _ in range(2):
        shifted = torch.where(support, base - shift, 1)
        slope = power * (shifted.pow(power - 1) * support).sum(-1, keepdim=True)
        excess = ((shifted.pow(power) - weights) * support).sum(-1, keepdim=True)
        shift = shift + excess / torch.where(slope > 0, slope, 1)
    return torch.where(support, base - shift, 1).pow(power) * support


def _solve(x: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    """The weights of scaled scores, masked and normalised against rounding."""
    weights = _solve_unmasked(x, alpha)
    weights = weights if allow is None else weights * allow
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _scale_logits(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    """(α-1) z with the largest allowed score shifted to 0, clamped to [OUTSIDE_SUPPORT, 0]."""
    allowed = logits if allow is None else logits.masked_fill(~allow, torch.finfo(logits.dtype).min)
    scaled = (alpha - 1) * (logits - allowed.detach().amax(-1, keepdim=True))
    scaled = scaled if allow is None else scaled.masked_fill(~allow, OUTSIDE_SUPPORT)
    return scaled.clamp_min(OUTSIDE_SUPPORT)


def _solve_unmasked(x: Tensor, alpha: float) -> Tensor:
    if alpha == 2:
        return (x - _threshold_2(*_sort_with_ranks(x))).clamp_min(0)
    if alpha == 1.5:
        return (x - _threshold_1_5(*_sort_with_ranks(x))).clamp_min(0).square()
    return _solve_by_bisection(x, alpha)


def _sort_with_ranks(x: Tensor) -> tuple[Tensor, Tensor]:
    """x in descending order, and the ranks 1 to S."""
    return x.sort(-1, descending=True).values, torch.arange(1, x.shape[-1] + 1, device=x.device)


def _threshold_2(ordered: Tensor, rank: Tensor) -> Tensor:
    """τ of sparsemax from scores in descending order."""
    sums = ordered.cumsum(-1)
    return _select_last((sums - 1) / rank, 1 + rank * ordered > sums)


def _threshold_1_5(ordered: Tensor, rank: Tensor) -> Tensor:
    """τ of 1.5-entmax from scores in descending order."""
    mean = ordered.cumsum(-1) / rank
    spread = ordered.square().cumsum(-1) - rank * mean.square()
    threshold = mean - ((1 - spread) / rank).clamp_min(0).sqrt()
    return _select_last(threshold, threshold <= ordered)


def _select_last(thresholds: Tensor, in_support: Tensor) -> Tensor:
    """The threshold of the lowest key in the support; of the first key where NaN leaves the support empty."""
    return thresholds.gather(-1, in_support.sum(-1, keepdim=True).clamp_min(1) - 1)


def _solve_by_bisection(x: Tensor, alpha: float) -> Tensor:
    """Bisects the largest weight on a log scale: it is between 1/S and 1, and τ = -largest^(α-1)."""
    high = torch.ones_like(x[..., :1])
    low = high / x.shape[-1]
    for _ in range(5 - round(math.log2(torch.finfo(x.dtype).eps))):
        middle = (low * high).sqrt()
        is_too_large = _compute_from_largest(middle, x, alpha).sum(-1, keepdim=True) >= 1
        low, high = torch.where(is_too_large, low, middle), torch.where(is_too_large, middle, high)
    return _compute_from_largest(high, x, alpha)


def _compute_from_largest(largest: Tensor, x: Tensor, alpha: float) -> Tensor:
    """All weights where the largest one is known."""
    # log1p and exp keep the power 1/(α-1) exact as α approaches 1, where x is tiny and the power is huge.
    ratio = (x / largest.pow(alpha - 1)).clamp_min(-1)
    return largest * (ratio.log1p() / (alpha - 1)).exp()


@dataclass(frozen=True, config=PART)
class Sparsemax(Part):
    """Sparsemax, the point of the simplex that is nearest to the scores: entmax with α = 2.

    References:
        Martins & Astudillo 2016, eq. 1.

    Example:
        >>> q, k, v = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [0.5], [3.0]]]]), torch.zeros(1, 1, 3, 1)
        >>> qkv.attend(q, k, v, select=qkv.Sparsemax()).weights
        tensor([[[[0., 0., 1.]]]])
    """

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "sparsemax"
    formula: ClassVar[str] = "argmin_p |p - e|² = [e_s - τ]₊"
    paper: ClassVar[str] = "Martins & Astudillo 2016, eq. 1"
    sparse: ClassVar[bool] = True
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = False
    gives_log_prob: ClassVar[bool] = False

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Compute the weights.

        Args:
            logits: Scores [B,H,T,S].
            allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

        Returns:
            The weights [B,H,T,S], and None: nothing is sampled, so there is no log-probability.
        """
        return sparsemax(logits, allow), None


@dataclass(frozen=True, config=PART)
class Entmax(Part):
    """α-entmax, a family between softmax (α → 1) and sparsemax (α = 2).

    Args:
        alpha: 1 < α <= 4; larger is sparser.  Above 2 the gradient is unbounded where a weight becomes 0.

    References:
        Peters et al. 2019, algorithms 1 and 2.

    Example:
        >>> q, k, v = torch.ones(1, 1, 1, 1), torch.tensor([[[[0.0], [1.0], [1.5]]]]), torch.zeros(1, 1, 3, 1)
        >>> qkv.attend(q, k, v, select=qkv.Entmax(1.5)).weights
        tensor([[[[0.0048, 0.3240, 0.6712]]]])
    """

    alpha: Annotated[float, Field(gt=1, le=4)] = 1.5

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "entmax"
    formula: ClassVar[str] = "[(α-1) e_s - τ]₊ ^ 1/(α-1)"
    paper: ClassVar[str] = "Peters et al. 2019, algorithms 1 and 2"
    sparse: ClassVar[bool] = True
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = False
    gives_log_prob: ClassVar[bool] = False

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Compute the weights.

        Args:
            logits: Scores [B,H,T,S].
            allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

        Returns:
            The weights [B,H,T,S], and None: nothing is sampled, so there is no log-probability.
        """
        return entmax(logits, allow, self.alpha), None
