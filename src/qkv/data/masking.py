"""Which tokens a masked language model has to guess: BERT's masking (Devlin et al. 2019, section 3.1)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.data.streams import StreamPlan
from qkv.data.tokens import CONTROL

SHARE_MASKED, SHARE_RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


class Masked(NamedTuple):
    """Tokens with some hidden.

    Args:
        inputs: [B,N] ids, in which most chosen tokens are replaced.
        chosen: [B,N], True at the tokens to predict.
    """

    inputs: Int[Tensor, "B N"]
    chosen: Bool[Tensor, "B N"]


def mask_tokens(
    ids: Int[Tensor, "B N"],
    keep: Bool[Tensor, "B N"],
    *,
    mask: int,
    first: int,
    vocab: int,
    rate: float = 0.15,
    starts_word: Bool[Tensor, "B N"] | None = None,
    generator: torch.Generator | None = None,
) -> Masked:
    """Choose tokens with probability `rate`, and replace 80 % of them by [MASK] and 10 % by random tokens.

    At least one real token of every row is chosen.

    Args:
        ids: the tokens.
        keep: True at real tokens.
        mask: the id of [MASK].
        first: the lowest id of a random token: those below are control symbols.
        vocab: V, the number of tokens.
        rate: probability of every token, or word, to be chosen.
        starts_word: True at the first token of every word; words are then chosen as a whole.
        generator: the random generator; None takes torch's default.

    Returns:
        The inputs of the model and the chosen positions.
    """
    shape, options = ids.shape, {"generator": generator, "device": ids.device}
    draws = torch.rand(shape, **options)
    if starts_word is not None:
        draws = draws.gather(1, _first_of_word(starts_word))
    draws = draws.masked_fill(~keep, 2.0)
    least = draws.min(1, keepdim=True).values
    chosen = (draws < rate) | ((draws == least) & keep)
    kind = torch.rand(shape, **options)
    random = torch.randint(first, vocab, shape, **options)
    inputs = torch.where(chosen & (kind < SHARE_MASKED), mask, ids)
    is_random = chosen & (kind >= SHARE_MASKED) & (kind < SHARE_MASKED + SHARE_RANDOM)
    return Masked(torch.where(is_random, random, inputs), chosen)


def _first_of_word(starts_word: Bool[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """For every token the position of the first token of its word."""
    positions = torch.arange(starts_word.shape[1], device=starts_word.device).expand(starts_word.shape)
    return positions.masked_fill(~starts_word, 0).cummax(1).values


class MaskedSegment(NamedTuple):
    """Segments with hidden tokens.

    Args:
        inputs: [B,N] ids, in which most chosen tokens are replaced.
        targets: [B,N], the tokens themselves.
        keep: [B,N], True at real tokens.
        chosen: [B,N], True at the tokens to predict.
    """

    inputs: Int[Tensor, "B N"]
    targets: Int[Tensor, "B N"]
    keep: Bool[Tensor, "B N"]
    chosen: Bool[Tensor, "B N"]


class MaskedPlan:
    """Masked segments of a text: a pure function of the position, like the plan that it masks.

    All rows of an update are masked together and then dealt to the processes, so the updates are the same
    for any number of processes.

    Args:
        plan: independent segments; their inputs are masked.
        mask: the id of [MASK]; random tokens have lower ids.
        rate: probability of every token, or word, to be chosen.
        starts_word: [V], True at tokens that start a word; None masks tokens on their own.
        seed: decides the masks, together with the position.
    """

    def __init__(
        self, plan: StreamPlan, mask: int, rate: float, starts_word: Bool[Tensor, "V"] | None, seed: int
    ) -> None:
        self.plan, self.mask, self.rate, self.starts_word, self.seed = plan, mask, rate, starts_word, seed

    def steps(self, epoch: int) -> int:
        """The number of updates in this epoch."""
        return self.plan.steps(epoch)

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[MaskedSegment]:
        """The masked segments of one update on one process."""
        rows = [part[rank::world] for part in self._update(epoch, index)]
        return [MaskedSegment(*rows)] if len(rows[0]) else []

    def count(self, epoch: int, index: int) -> int:
        """How many tokens one update predicts, over all processes."""
        return int(self._update(epoch, index).chosen.sum())

    def _update(self, epoch: int, index: int) -> MaskedSegment:
        (segment,) = self.plan.window(epoch, index, 0, 1)
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0]) >> 1)
        masked = mask_tokens(
            segment.inputs,
            segment.keep,
            mask=self.mask,
            first=len(CONTROL),
            vocab=self.mask,
            rate=self.rate,
            starts_word=None if self.starts_word is None else self.starts_word[segment.inputs],
            generator=generator,
        )
        return MaskedSegment(masked.inputs, segment.inputs, segment.keep, masked.chosen)
