"""Sampling from a language model: temperature, top-k and top-p, a token of every row at a time.

Every row draws from a random generator of its own, seeded with (seed, row number), so a sample does not
depend on the other rows of its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from qkv.decode.prompts import read_tokens
from qkv.errors import BadData, BadRun
from qkv.model.stepper import Step, Stepper
from qkv.state import select_rows
from qkv.strict import Strict

DROPPED_TOGETHER = 1024  # tokens


class SampleConfig(Strict):
    """How to sample.

    Args:
        temperature: divides the scores; below 1 sharpens the distribution, 0 takes the best token.
        top_k: sample from the k best tokens only; None: from all.
        top_p: sample from the best tokens that together have this probability; 1: from all.
        length: most tokens to emit after the prompt.
        seed: the seed of the random generators.
    """

    temperature: float = Field(default=0.8, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    length: int = Field(default=300, ge=1)
    seed: int = Field(default=0, ge=0)


class Emitted(NamedTuple):
    """One sampled token.

    Args:
        row: the number of its prompt.
        token: its id.
        log_prob: the model's log-probability of it, at temperature 1 and without top-k or top-p.
        weights: name -> attention weights [H,S] of the step that scored it; empty unless captured.
    """

    row: int
    token: int
    log_prob: float
    weights: dict[str, Tensor]


def next_token_probabilities(logits: Float[Tensor, "B V"], config: SampleConfig) -> Float[Tensor, "B V"]:
    """The distribution to sample from: softmax(logits / temperature), cut by top-k, then by top-p.

    A token stays if fewer than k tokens are better, and if the better ones together have a probability
    below p (Holtzman et al. 2020, arXiv:1904.09751, section 3.1).  Equal scores rank in the order of their
    ids.  Temperature 0 puts all probability on the best token.

    Args:
        logits: scores of the next token.
        config: temperature, top-k and top-p.

    Returns:
        Probabilities that sum to 1 in every row.
    """
    if config.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    below_best = logits.double() - logits.double().amax(-1, keepdim=True)  # so that no quotient is infinite
    probabilities = (below_best / config.temperature).softmax(-1)
    if config.top_k is None and config.top_p == 1:
        return probabilities.to(logits.dtype)
    ranked, order = probabilities.sort(dim=1, descending=True, stable=True)
    if config.top_k is not None:
        ranked[:, config.top_k :] = 0
        ranked /= ranked.sum(1, keepdim=True)
    better = ranked.cumsum(1) - ranked
    ranked = ranked.masked_fill(better >= config.top_p, 0)
    ranked = ranked / ranked.sum(1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(1, order, ranked).to(logits.dtype)


@torch.inference_mode()
def sample(  # noqa: PLR0913 -- one for each choice
    model: Stepper,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    device: torch.device | str = "cpu",
    context: int | None = None,
    is_finished: Callable[[int, int], bool] = lambda row, token: False,
    first_row: int = 0,
    capture: bool = False,
    forbidden: Sequence[int] = (),
) -> Iterator[Emitted]:
    """Continue every prompt; yields a token of every unfinished row in turn.

    Args:
        model: the language model, in evaluation mode.
        prompts: token ids, at least one per row.
        config: temperature, top-k, top-p, length and seed.
        device: where the model is.
        context: most positions that the model can read.  Where a row reaches it, the model starts again
            from the last half of them.  None: there is no limit.
        is_finished: whether a row ends with this token; called with the row and every emitted token.
        first_row: added to the row number that seeds a row's generator, so that batches differ.
        capture: return the attention weights of every step.
        forbidden: tokens that are never emitted, such as the one for unknown words.

    Yields:
        The emitted tokens, in the order of the rows within a step.

    Raises:
        BadData: a prompt is empty, or longer than the context.
        BadRun: the model's scores are not numbers.
    """
    _check_prompts(prompts, context)
    rows = _Rows(prompts, config.seed, first_row)
    end = min(map(len, prompts), default=0)  # of the tokens that every row has
    state, unread = model.start(batch=len(prompts), capture=capture), rows.tokens(0, end)
    while rows.alive:
        if context is not None and end - rows.first > context:
            rows.first = end - 1 - context // 2
            state, unread = model.start(batch=len(rows.alive), capture=capture), rows.tokens(rows.first, end)
        step = read_tokens(model, unread.to(device), state, capture=capture)
        emitted, stays = rows.advance(step, end, config, is_finished, forbidden)
        yield from emitted
        rows.keep(stays)
        kept = torch.tensor(stays).nonzero()[:, 0].to(device)
        state = step.state if all(stays) else select_rows(step.state, kept)
        rows.drop_tokens_before(end if context is None else end - context)
        unread, end = rows.tokens(end, end + 1), end + 1


class _Rows:
    """The unfinished rows: their numbers, tokens and random generators."""

    def __init__(self, prompts: Sequence[Sequence[int]], seed: int, first_row: int) -> None:
        self.alive = list(range(len(prompts)))
        self.sequences = [list(prompt) for prompt in prompts]
        self.dropped = 0  # tokens that are no longer in the sequences
        self.prompt_lengths = [len(prompt) for prompt in prompts]
        self.generators = [
            torch.Generator().manual_seed((seed * 1_000_003 + first_row + row) % 2**63) for row in self.alive
        ]
        self.first = 0  # the position of the first token that the state holds

    def tokens(self, begin: int, end: int) -> Int[Tensor, "A N"]:
        begin_kept, end_kept = begin - self.dropped, end - self.dropped
        chosen = [self.sequences[row][begin_kept:end_kept] for row in self.alive]
        return torch.tensor(chosen, dtype=torch.int64).view(len(chosen), end - begin)

    def drop_tokens_before(self, position: int) -> None:
        """Drop tokens that will not be read again, some at a time, so that memory does not grow."""
        count = position - self.dropped
        if count < DROPPED_TOGETHER:
            return
        for sequence in self.sequences:
            del sequence[:count]
        self.dropped = position

    def advance(
        self,
        step: Step,
        position: int,
        config: SampleConfig,
        is_finished: Callable[[int, int], bool],
        forbidden: Sequence[int],
    ) -> tuple[list[Emitted], list[bool]]:
        """Add a token to every row that has none at this position; returns them and which rows go on."""
        logits = step.logits.cpu()
        if not logits.isfinite().all():
            raise BadRun("the model's scores are not numbers: its training diverged; use an earlier run")
        draws = torch.tensor([self._draw_number(row, position) for row in self.alive])
        allowed = logits.clone()
        allowed[:, list(forbidden)] = -torch.inf
        chosen = _draw(next_token_probabilities(allowed, config), draws)
        log_probs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
        emitted, stays = [], []
        for i, (row, token) in enumerate(zip(self.alive, chosen.tolist(), strict=True)):
            count = position - self.prompt_lengths[row]
            if count >= 0:  # the prompt has ended
                self.sequences[row].append(token)
                weights = {name: each[i] for name, each in step.weights.items()}
                emitted.append(Emitted(row, token, log_probs[i], weights))
            stays.append(count < 0 or not (is_finished(row, token) or count + 1 == config.length))
        return emitted, stays

    def keep(self, stays: list[bool]) -> None:
        self.alive = [row for row, goes_on in zip(self.alive, stays, strict=True) if goes_on]

    def _draw_number(self, row: int, position: int) -> float:
        """A uniform number; none is drawn within a prompt, whose length must not change the sample."""
        within = position < self.prompt_lengths[row]
        return 0.0 if within else float(torch.rand((), generator=self.generators[row]))


def _draw(probabilities: Float[Tensor, "B V"], uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """The token at which the cumulative probability passes a uniform number."""
    cumulative = probabilities.double().cumsum(1)
    return torch.searchsorted(cumulative, uniform[:, None].double() * cumulative[:, -1:], right=True)[:, 0]


def _check_prompts(prompts: Sequence[Sequence[int]], context: int | None) -> None:
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise BadData(f"prompt {number} is empty: at least one token is needed")
        if context is not None and len(prompt) > context:
            raise BadData(
                f"prompt {number} has {len(prompt):,} tokens, but the model reads at most {context:,}: "
                "shorten it"
            )
