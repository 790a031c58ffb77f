"""Which tokens a masked language model has to guess: BERT's masking (Devlin et al. 2019, section 3.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

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
