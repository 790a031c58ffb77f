"""Hard selection: one key gets all the weight, a sample in training and the best key in evaluation.

s ~ Multinoulli(softmax(e)),   z = v_s
"""

from dataclasses import KW_ONLY
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from qkv.annealing import AnnealedModule
from qkv.errors import BadRecipe
from qkv.part import Part
from qkv.select.soft import mask_logits, softmax
from qkv.shapes import Allow, Dims, Logits, Weights
from qkv.strict import PART

LogProb = Float[Tensor, "B H T"]


def hardmax(logits: Logits, allow: Allow | None) -> Weights:
    """Compute 1 for the highest allowed score, the first of equal ones, and 0 for every other key.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

    Returns:
        One-hot weights [B,H,T,S]; zeros in rows that allow no key.
    """
    ranked = logits if allow is None else logits.masked_fill(~allow, -torch.inf)
    if logits.shape[-1] == 0:
        return ranked
    one_hot = torch.zeros_like(logits).scatter(-1, ranked.argmax(-1, keepdim=True), 1)
    return one_hot if allow is None else one_hot * allow


def add_gumbel_noise(logits: Logits) -> Logits:
    """Compute e + G with G = -log(-log U): its argmax is a sample of softmax(e).  Jang et al. 2017, eq. 1.

    Args:
        logits: Scores [B,H,T,S].

    Returns:
        Scores with noise of torch's global generator, [B,H,T,S].
    """
    smallest = torch.finfo(logits.dtype).tiny
    return logits - torch.empty_like(logits).exponential_().clamp_min(smallest).log()


def subtract_max(logits: Logits, allow: Allow | None) -> Logits:
    """Mask the scores and subtract the highest one of every row.

    Beside scores near the largest number of their dtype, noise would be rounded away, and a division by the
    temperature would overflow.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

    Returns:
        Scores [B,H,T,S] of at most 0, with -inf at masked keys.
    """
    masked = logits if allow is None else mask_logits(logits, allow, allow.any(-1, keepdim=True))
    return masked - masked.detach().amax(-1, keepdim=True) if logits.shape[-1] else masked


def sample_reinforce(logits: Logits, allow: Allow | None, expected: float) -> tuple[Weights, LogProb]:
    """Sample one-hot weights without a gradient, with their log-probability.  Xu et al. 2015, section 4.1.

    Each row, head and query decides by itself whether it takes the softmax weights instead of a sample.
    (Xu et al. decide once for a whole minibatch.)

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.
        expected: The probability with which a query takes the softmax weights instead of a sample.

    Returns:
        Weights [B,H,T,S], and log p(s) [B,H,T] with a gradient; 0 where the softmax was taken.
    """
    shifted = subtract_max(logits, allow)
    sample = hardmax(add_gumbel_noise(shifted.detach()), allow)
    log_prob = shifted.log_softmax(-1).masked_fill(sample == 0, 0).sum(-1)
    is_soft = torch.rand_like(log_prob) < expected
    return torch.where(is_soft[..., None], softmax(logits, allow), sample), log_prob.masked_fill(is_soft, 0)


def sample_straight_through(logits: Logits, allow: Allow | None) -> Weights:
    """Sample one-hot weights that have the gradient of softmax(e).  Bengio et al. 2013 (straight-through).

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

    Returns:
        Weights [B,H,T,S].
    """
    sample = hardmax(add_gumbel_noise(subtract_max(logits, allow).detach()), allow)
    return _replace_gradient(sample, softmax(logits, allow))


def sample_gumbel(logits: Logits, allow: Allow | None, temperature: float) -> Weights:
    """Sample one-hot weights that have the gradient of softmax((e + G) / τ).  Jang et al. 2017, section 2.2.

    Args:
        logits: Scores [B,H,T,S].
        allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.
        temperature: τ; smaller makes the gradient closer to that of the sample, and noisier.

    Returns:
        Weights [B,H,T,S].
    """
    noisy = add_gumbel_noise(subtract_max(logits, allow))
    return _replace_gradient(hardmax(noisy.detach(), allow), softmax(noisy / temperature, allow))


def _replace_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, whose gradient flows into the surrogate."""
    return value + (surrogate - surrogate.detach())


class HardSelection(AnnealedModule):
    """Samples one key in training with torch's global generator, and takes the best key in evaluation.

    Args:
        part: The options.
    """

    def __init__(self, part: "Hard") -> None:
        super().__init__()
        self.part, self.temperature = part, part.temperature

    def anneal(self, progress: float) -> None:
        """Set τ = temperature · (final_temperature / temperature)^progress.

        Args:
            progress: The share of the training that is complete, from 0 to 1.

        Raises:
            BadRecipe: `progress` is outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise BadRecipe(
                f"progress must be between 0 (the start of the training) and 1 (its end), got {progress!r}"
            )
        ratio = self.part.final_temperature / self.part.temperature
        self.temperature = self.part.temperature * ratio**progress

    def forward(self, logits: Logits, allow: Allow | None) -> tuple[Weights, LogProb | None]:
        """Compute the weights, in float32 at least.

        Args:
            logits: Scores [B,H,T,S].
            allow: Mask that broadcasts to [B,H,T,S], True = may be attended; None allows all.

        Returns:
            Weights [B,H,T,S]; and log p(s) [B,H,T] in training with "reinforce", otherwise None.
        """
        part, log_prob = self.part, None
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not self.training:
            weights = (hardmax if part.evaluate == "argmax" else softmax)(wide, allow)
        elif part.estimator == "reinforce":
            weights, log_prob = sample_reinforce(wide, allow, part.expected)
        elif part.estimator == "straight_through":
            weights = sample_straight_through(wide, allow)
        else:
            weights = sample_gumbel(wide, allow, self.temperature)
        return weights.to(logits.dtype), log_prob

    def extra_repr(self) -> str:
        """Show the part with its options."""
        return repr(self.part)


@dataclass(frozen=True, config=PART)
class Hard(Part):
    """One key gets all the weight: a sample in training, the best key in evaluation.

    Args:
        estimator: How the scores learn.  "reinforce" samples without a gradient and returns log p(s), which
            the objective must reward; "straight_through" and "gumbel" pass a gradient through the sample.
        evaluate: "argmax", or "expectation" for the softmax weights.
        expected: For "reinforce", the probability with which a query takes the softmax weights instead of a
            sample; every row, head and query decides by itself.
        temperature: For "gumbel", τ at the start of the training.
        final_temperature: For "gumbel", τ at the end of the training.

    References:
        Xu et al. 2015, section 4.1; Bengio et al. 2013 (straight-through); Jang et al. 2017 (Gumbel).

    Example:
        >>> attention = qkv.Attention(16, select=qkv.Hard(estimator="gumbel"))
        >>> attention.attend(torch.randn(1, 4, 16)).weights.count_nonzero(-1)
        tensor([[[1, 1, 1, 1]]])
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

    @property
    def gives_log_prob(self) -> bool:
        """Whether training returns log p(s), which the objective must use."""
        return self.estimator == "reinforce"

    def build(self, dims: Dims) -> HardSelection:
        """Build the selection as a module, which samples only in training.

        Args:
            dims: Not used: the selection has no parameters.

        Returns:
            The selection.
        """
        return HardSelection(self)
