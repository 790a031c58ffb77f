"""Tokens that a model reads before it is free to continue: the begin symbol and the prompt of every entry."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.errors import BadData
from qkv.model.stepper import PromptReader, Step, Stepper


class Prompts(NamedTuple):
    """The prompts of a batch: as many tokens as all entries have, and what the longer ones have beyond.

    Args:
        shared: [B,P] the first tokens of every entry.
        remaining: [B,Q] the tokens beyond, padded on the right.
        remaining_lengths: [B] how many of them are real.
        longest_remaining: Q.
    """

    shared: Int[Tensor, "B P"]
    remaining: Int[Tensor, "B Q"]
    remaining_lengths: Int[Tensor, "B"]
    longest_remaining: int

    def force(
        self, log_probs: Float[Tensor, "N V"], entries: Int[Tensor, "A"], step: int
    ) -> Float[Tensor, "N V"]:
        """Let entries within their prompts continue by it alone, at a log-probability of 0.

        Args:
            log_probs: scores of the next symbol of every beam; N is A × beams.
            entries: the number of each entry in the batch.
            step: number of this step after the shared tokens, from 1.
        """
        if step > self.longest_remaining:
            return log_probs
        beams = len(log_probs) // len(entries)
        is_forced = (self.remaining_lengths[entries] >= step).repeat_interleave(beams)
        tokens = self.remaining[entries, step - 1].repeat_interleave(beams)
        forced = torch.full_like(log_probs, -math.inf).scatter_(1, tokens[:, None], 0.0)
        return torch.where(is_forced[:, None], forced, log_probs)


def split_prompts(
    prompts: Sequence[Sequence[int]] | None, batch: int, bos: int | None, device: torch.device
) -> Prompts:
    """The tokens to read before free decoding.

    Args:
        prompts: token ids of every entry; None: there are none.
        batch: B, the number of entries.
        bos: the begin symbol, read first; None: the prompt alone is read.
        device: where the tokens are to be.

    Raises:
        BadData: the prompts are not B, or an entry has neither a begin symbol nor a prompt.
    """
    begin = [] if bos is None else [bos]
    prompts = [[]] * batch if prompts is None else prompts
    if len(prompts) != batch:
        raise BadData(f"{len(prompts):,} prompts for a batch of {batch:,}: give one prompt per entry")
    rows = [[*begin, *map(int, prompt)] for prompt in prompts]
    lengths = [len(row) for row in rows]
    shortest, longest = min(lengths), max(lengths)
    if shortest == 0:
        raise BadData(
            f"entry {lengths.index(0) + 1} has no prompt, and there is no begin symbol to start from: "
            "give every entry a prompt of at least one token"
        )
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    remaining_lengths = torch.tensor(lengths, device=device) - shortest
    return Prompts(padded[:, :shortest], padded[:, shortest:], remaining_lengths, longest - shortest)


def read_tokens(model: Stepper, tokens: Int[Tensor, "B P"], state: Any, *, capture: bool) -> Step:
    """Read tokens at once where the model can, else one by one; the result scores the next symbol."""
    if tokens.shape[1] > 1 and isinstance(model, PromptReader):
        return model.read(tokens, state, capture=capture)
    *first, last = tokens.unbind(1)
    for column in first:
        state = model.step(column, state).state
    return model.step(last, state, capture=capture)
