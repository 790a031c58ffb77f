"""Which symbols may come next: none of the forbidden ones, no early end, and the rest of a prompt first."""

import math
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from qkv.decode.prompts import Prompts


class Constraints(NamedTuple):
    """What beams may be extended by.

    Args:
        forbidden: [F] symbols that are never emitted.
        eos: the end symbol.
        min_length: fewest symbols emitted before the end symbol.
        prompts: what entries repeat before they are free.
    """

    forbidden: Int[Tensor, "F"]
    eos: int
    min_length: int
    prompts: Prompts

    def apply(
        self, log_probs: Float[Tensor, "N V"], entries: Int[Tensor, "A"], step: int
    ) -> Float[Tensor, "N V"]:
        """The log-probabilities with those of symbols that may not come next at -inf; changes its argument.

        Args:
            log_probs: scores of the next symbol of every beam; N is A × beams.
            entries: the number of each entry in the batch.
            step: number of this step after the tokens that all entries share, from 1.
        """
        log_probs.index_fill_(1, self.forbidden, -math.inf)
        if step <= self.min_length + self.prompts.longest_remaining:
            is_short = step - self.prompts.remaining_lengths[entries] <= self.min_length
            is_short = is_short.repeat_interleave(len(log_probs) // len(entries))
            log_probs[:, self.eos].masked_fill_(is_short, -math.inf)
        return self.prompts.force(log_probs, entries, step)
