"""Hard selection: all the weight on one key, drawn in training and the best one in evaluation.

s ~ Multinoulli(softmax(e)),   z = v_s
"""

from dataclasses import KW_ONLY
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from qkv.errors import BadRecipe
from qkv.part import Part
from qkv.select.soft import hide, softmax
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART

LogProb = Float[Tensor, "B H T"]


def hardmax(logits: Logits, allow: Allow | None) -> Weights:
    """1 for the highest allowed logit, the first of equals; a row that allows nothing is all zeros."""
    ranked = logits if allow is None else logits.masked_fill(~allow, -torch.inf)
    if logits.shape[-1] == 0:
        return ranked
    chosen = torch.zeros_like(logits).scatter(-1, ranked.argmax(-1, keepdim=True), 1)
    return chosen if allow is None else chosen * allow


def perturbed(logits: Logits) -> Logits:
    """e + G with G = -log(-log U): its argmax is a draw from softmax(e).  Jang et al. 2017, eq. 1."""
    smallest = torch.finfo(logits.dtype).tiny
    return logits - torch.empty_like(logits).exponential_().clamp_min(smallest).log()


def centred(logits: Logits, allow: Allow | None) -> Logits:
    """The logits without their highest one: noise would vanish beside numbers near the end of their range,
    and a division by τ would leave it.
    """
    visible = logits if allow is None else hide(logits, allow, allow.any(-1, keepdim=True))
    return visible - visible.detach().amax(-1, keepdim=True) if logits.shape[-1] else visible


def reinforce(logits: Logits, allow: Allow | None, expected: float) -> tuple[Weights, LogProb]:
    """One-hot draws without gradient and their log p(s) [B,H,T], which has one.  Xu et al. 2015, section 4.1.

    Each context by itself (row, head and query) takes, with probability `expected`, the softmax weights
    instead of a draw; its log-probability is 0.  (Xu et al. toss one coin for a whole minibatch.)
    """
    visible = centred(logits, allow)
    drawn = hardmax(perturbed(visible.detach()), allow)
    log_prob = visible.log_softmax(-1).masked_fill(drawn == 0, 0).sum(-1)
    mixed = torch.rand_like(log_prob) < expected
    return torch.where(mixed[..., None], softmax(logits, allow), drawn), log_prob.masked_fill(mixed, 0)


def straight_through(logits: Logits, allow: Allow | None) -> Weights:
    """A one-hot draw that passes gradients on as softmax(e) would.  Bengio et al. 2013 (straight-through)."""
    drawn = hardmax(perturbed(centred(logits, allow).detach()), allow)
    return _as_if(drawn, softmax(logits, allow))


def gumbel(logits: Logits, allow: Allow | None, temperature: float) -> Weights:
    """A one-hot draw that passes gradients on as softmax((e + G) / τ) would.  Jang et al. 2017, sec. 2.2."""
    noisy = perturbed(centred(logits, allow))
    return _as_if(hardmax(noisy.detach(), allow), softmax(noisy / temperature, allow))


def _as_if(chosen: Tensor, relaxed: Tensor) -> Tensor:
    return chosen + (relaxed - relaxed.detach())


class HardSelection(nn.Module):
    """Draws in training, by torch's global generator; in evaluation it takes the best key."""

    def __init__(self, part: "Hard") -> None:
        super().__init__()
        self.part, self.temperature = part, part.temperature

    def anneal(self, progress: float) -> None:
        """τ = temperature · (final_temperature / temperature)^progress, for progress in [0, 1].

        A training loop calls this before every update.  Raises BadRecipe for a progress outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise BadRecipe(f"progress must be a share of the training from 0 to 1, got {progress!r}")
        ratio = self.part.final_temperature / self.part.temperature
        self.temperature = self.part.temperature * ratio**progress

    def forward(self, logits: Logits, allow: Allow | None) -> tuple[Weights, LogProb | None]:
        """Weights [B,H,T,S]; in training with "reinforce" also log p(s) [B,H,T], in float32 at least."""
        part, log_prob = self.part, None
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not self.training:
            weights = (hardmax if part.evaluate == "argmax" else softmax)(wide, allow)
        elif part.estimator == "reinforce":
            weights, log_prob = reinforce(wide, allow, part.expected)
        elif part.estimator == "straight_through":
            weights = straight_through(wide, allow)
        else:
            weights = gumbel(wide, allow, self.temperature)
        return weights.to(logits.dtype), log_prob

    def extra_repr(self) -> str:
        """The part."""
        return repr(self.part)


@dataclass(frozen=True, config=PART)
class Hard(Part):
    """One key gets all the weight: a sample in training, the best key in evaluation.

    estimator: how the scores learn.  "reinforce" draws without a gradient and reports log p(s) for an
    objective that rewards it; "straight_through" and "gumbel" pass a gradient through the draw.
    evaluate: "argmax", or "expectation" for the softmax weights.
    expected: for "reinforce", the probability with which a context is the softmax average instead of a draw;
    every row, head and query decides by itself.
    temperature, final_temperature: for "gumbel", τ at the beginning and at the end of training.
    """

    estimator: Literal["reinforce", "straight_through", "gumbel"] = "reinforce"
    _: KW_ONLY
    evaluate: Literal["argmax", "expectation"] = "argmax"
    expected: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: PositiveFloat = 1.0
    final_temperature: PositiveFloat = 0.3

    axis: ClassVar[str] = "select"
    name: ClassVar[str] = "hard"
    formula: ClassVar[str] = "one_hot(s), s ~ softmax(e); argmax in evaluation"
    paper: ClassVar[str] = "Xu et al. 2015, section 4.1"
    sparse: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    is_softmax: ClassVar[bool] = False
    is_annealed: ClassVar[bool] = True

    @property
    def gives_log_prob(self) -> bool:
        """Whether training returns log p(s), which the objective must use."""
        return self.estimator == "reinforce"

    def build(self, dims: Dims) -> HardSelection:
        """The selection as a module: it draws only in training."""
        return HardSelection(self)
