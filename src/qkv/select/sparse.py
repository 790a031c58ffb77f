"""Sparse selection: maps from scores to weights that leave most keys with exactly nothing.

Both are members of one family, α-entmax with α = 2 and α > 1:

    p = argmax over the simplex of p·z + H_α(p)        p_s = [(α-1) z_s - τ]₊ ^ 1/(α-1),   τ such that Σ p = 1
"""

import math
from typing import Annotated, Any, ClassVar, no_type_check

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.part import Part
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART
from qkv.tracing import is_transformed

# With the highest (α-1) z moved to 0 the threshold is at least -1, so a key at -2 is outside the support.
OUTSIDE = -2.0


def sparsemax(logits: Logits, allow: Allow | None) -> Weights:
    """argmin over the simplex of |p - z|², over the allowed keys; a row that allows nothing is all zeros.

    Martins & Astudillo 2016, eq. 1 and algorithm 1.
    """
    return entmax(logits, allow, 2.0)


def entmax(logits: Logits, allow: Allow | None, alpha: float) -> Weights:
    """[(α-1) z_s - τ]₊ ^ 1/(α-1) over the allowed keys; a row that allows nothing is all zeros.

    Exact by sorting for α = 1.5 and α = 2, by bisection for any other α > 1.  Computed in float32 at least.
    Peters et al. 2019, proposition 1 (the Jacobian) and algorithms 1 and 2.
    """
    if logits.shape[-1] == 0:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if is_transformed():
        return _transformable(wide, allow, alpha).to(logits.dtype)
    return _Entmax.apply(wide, allow, alpha).to(logits.dtype)


@no_type_check  # torch.compile cannot trace into a forward that a shape checker has wrapped
class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
        return _normalised(_scaled(logits, allow, alpha), allow, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.alpha = inputs[2]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """s ∘ (g - s·g / Σ s) with s = p^(2-α) on the support and 0 elsewhere; made of the weights, through
        which it can be differentiated in turn.
        """
        (weights,) = ctx.saved_tensors
        support = weights > 0
        slope = weights.masked_fill(~support, 1).pow(2 - ctx.alpha) * support
        total = slope.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        mean = (slope * grad).sum(-1, keepdim=True) / total
        return slope * (grad - mean), None, None


def _transformable(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    """The weights made of torch's operators, which vmap, jvp and all they are nested in can transform.

    Two Newton steps from the solution leave it where it is, and move with the logits as it does: an error of
    the first is squared by the second, so that derivatives up to the third are exact.
    """
    x = _scaled(logits, allow, alpha)
    weights = _normalised(x.detach(), allow, alpha)
    support, power = weights > 0, 1 / (alpha - 1)
    above = weights.masked_fill(~support, 1).pow(alpha - 1) + (x - x.detach())
    inside, shift = torch.where(support, above, 1), torch.zeros_like(x[..., :1])
    for _ in range(2):
        moved = torch.where(support, inside - shift, 1)
        slope = power * (moved.pow(power - 1) * support).sum(-1, keepdim=True)
        excess = ((moved.pow(power) - weights) * support).sum(-1, keepdim=True)
        shift = shift + excess / torch.where(slope > 0, slope, 1)
    return torch.where(support, inside - shift, 1).pow(power) * support


def _normalised(x: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    weights = _weights(x, alpha)
    weights = weights if allow is None else weights * allow
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def _scaled(logits: Tensor, allow: Tensor | None, alpha: float) -> Tensor:
    seen = logits if allow is None else logits.masked_fill(~allow, torch.finfo(logits.dtype).min)
    scaled = (alpha - 1) * (logits - seen.detach().amax(-1, keepdim=True))
    scaled = scaled if allow is None else scaled.masked_fill(~allow, OUTSIDE)
    return scaled.clamp_min(OUTSIDE)


def _weights(x: Tensor, alpha: float) -> Tensor:
    if alpha == 2:
        return (x - _threshold_2(*_ordered(x))).clamp_min(0)
    if alpha == 1.5:
        return (x - _threshold_1_5(*_ordered(x))).clamp_min(0).square()
    return _bisected(x, alpha)


def _ordered(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sort(-1, descending=True).values, torch.arange(1, x.shape[-1] + 1, device=x.device)


def _threshold_2(ordered: Tensor, rank: Tensor) -> Tensor:
    sums = ordered.cumsum(-1)
    return _last((sums - 1) / rank, 1 + rank * ordered > sums)


def _threshold_1_5(ordered: Tensor, rank: Tensor) -> Tensor:
    mean = ordered.cumsum(-1) / rank
    spread = ordered.square().cumsum(-1) - rank * mean.square()
    threshold = mean - ((1 - spread) / rank).clamp_min(0).sqrt()
    return _last(threshold, threshold <= ordered)


def _last(thresholds: Tensor, inside: Tensor) -> Tensor:
    """The threshold of the lowest key inside; of the first key where scores that are NaN leave none."""
    return thresholds.gather(-1, inside.sum(-1, keepdim=True).clamp_min(1) - 1)


def _bisected(x: Tensor, alpha: float) -> Tensor:
    """Bisects the highest weight on a log scale: it lies between 1/S and 1, and fixes τ = -highest^(α-1)."""
    high = torch.ones_like(x[..., :1])
    low = high / x.shape[-1]
    for _ in range(5 - round(math.log2(torch.finfo(x.dtype).eps))):
        middle = (low * high).sqrt()
        enough = _below(middle, x, alpha).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return _below(high, x, alpha)


def _below(highest: Tensor, x: Tensor, alpha: float) -> Tensor:
    # A power of 1/(α-1) by log1p and exp stays exact as α nears 1, where x is tiny and the power huge.
    share = (x / highest.pow(alpha - 1)).clamp_min(-1)
    return highest * (share.log1p() / (alpha - 1)).exp()


@dataclass(frozen=True, config=PART)
class Sparsemax(Part):
    """The point of the simplex that is nearest to the scores: entmax with α = 2."""

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "sparsemax"
    formula: ClassVar[str] = "argmin_p |p - e|² = [e_s - τ]₊"
    paper: ClassVar[str] = "Martins & Astudillo 2016, eq. 1"
    sparse: ClassVar[bool] = True
    samples: ClassVar[bool] = False
    is_softmax: ClassVar[bool] = False
    gives_log_prob: ClassVar[bool] = False
    is_annealed: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The selection itself: it owns no parameters."""
        return self

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Weights [B,H,T,S] and the log-probability of what was sampled: None, nothing is sampled."""
        return sparsemax(logits, allow), None


@dataclass(frozen=True, config=PART)
class Entmax(Part):
    """Between softmax (α → 1) and sparsemax (α = 2).

    alpha: 1 < α <= 4; larger is sparser.  Above 2 the gradient has no bound where a key enters the support.
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
    is_annealed: ClassVar[bool] = False

    def build(self, dims: Dims) -> Any:
        """The selection itself: it owns no parameters."""
        return self

    def __call__(self, logits: Logits, allow: Allow | None) -> tuple[Weights, Tensor | None]:
        """Weights [B,H,T,S] and the log-probability of what was sampled: None, nothing is sampled."""
        return entmax(logits, allow, self.alpha), None
