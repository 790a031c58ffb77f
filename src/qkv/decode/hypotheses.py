"""The best hypotheses of every batch entry, and the rule that says when they cannot change any more."""

import bisect
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.decode.config import SearchConfig


class Hypothesis(NamedTuple):
    """One decoded sequence.

    Args:
        tokens: the emitted symbols, without prompt and end symbol.
        score: log-probability over length penalty; the hypotheses of an entry are sorted by it, finished ones
            first.
        log_probs: the model's log-probability of every emitted symbol, the last one of the end symbol where
            it was emitted.
        finished: False where the length limit cut the sequence off.
        weights: name -> for every emitted symbol, the attention weights of its step: float32 [H,S], on the
            CPU. Empty unless captured. S counts padded source positions too.
    """

    tokens: list[int]
    score: float
    log_probs: list[float]
    finished: bool
    weights: dict[str, list[Tensor]]


class Candidates(NamedTuple):
    """Extensions of the beams by one symbol, best first.

    Args:
        totals: [A,C] sums of log-probabilities.
        rows: [A,C] the beam that each extends, counted over all entries.
        tokens: [A,C] the symbols.
        log_probs: [A,C] the log-probabilities of the symbols alone.
    """

    totals: Float[Tensor, "A C"]
    rows: Int[Tensor, "A C"]
    tokens: Int[Tensor, "A C"]
    log_probs: Float[Tensor, "A C"]

    def select_entries(self, mask: Bool[Tensor, "A"]) -> "Candidates":
        """The candidates of the entries where the mask is True."""
        return Candidates(*(field[mask] for field in self))

    def select_columns(self, columns: Int[Tensor, "A K"]) -> "Candidates":
        """The candidates in these columns, chosen per entry."""
        return Candidates(*(field.gather(1, columns) for field in self))


class Emitted(NamedTuple):
    """One step's symbols: token, log-probability and parent of every beam; the weights of the parents."""

    tokens: Tensor
    log_probs: Tensor
    rows: Tensor
    weights: dict[str, Tensor]

    @classmethod
    def from_candidates(cls, live: Candidates, weights: dict[str, Tensor]) -> "Emitted":
        """The symbols of the beams that live on."""
        stored = {name: weight.to("cpu", torch.float32) for name, weight in weights.items()}
        return cls(live.tokens.flatten(), live.log_probs.flatten(), live.rows.flatten(), stored)


class _End(NamedTuple):
    """Where a hypothesis ends: its last symbol, and the beam and step (from 0) that emitted it."""

    score: float
    finished: bool
    step: int
    row: int
    token: int
    log_prob: float


_Links = tuple[list[int], list[float], list[int]]


class NBestLists:
    """The n-best list of every batch entry.

    Args:
        config: the options of the search.
        eos: the end symbol.
        limits: [B] most symbols emitted per entry.
        prompt_lengths: [B] steps at the start of each entry that repeat its prompt.
    """

    def __init__(
        self, config: SearchConfig, eos: int, limits: Int[Tensor, "B"], prompt_lengths: Int[Tensor, "B"]
    ) -> None:
        self.config, self.eos = config, eos
        self.prompt_lengths, self.last_steps = prompt_lengths, limits + prompt_lengths
        self.prompt_counts = prompt_lengths.tolist()
        self.longest_prompt = max(self.prompt_counts)
        penalties = [compute_length_penalty(limit, config.length_penalty) for limit in limits.tolist()]
        self.largest_penalties = torch.tensor(penalties, dtype=torch.float32, device=limits.device)
        self.ends: list[list[_End]] = [[] for _ in penalties]
        self.finished_counts = torch.zeros_like(limits)
        self.worst_scores = torch.full_like(limits, -math.inf, dtype=torch.float32)

    def update(
        self, candidates: Candidates, entries: Int[Tensor, "A"], step: int
    ) -> tuple[Candidates, Bool[Tensor, "A"]]:
        """Store what ends at this step; return the beams that live on, and which entries continue."""
        beam = self.config.beam
        is_end = candidates.tokens == self.eos
        if step <= self.longest_prompt:  # an end symbol within a prompt ends nothing
            is_end &= (self.prompt_lengths[entries] < step)[:, None]
        is_finished = is_end & candidates.totals.isfinite()
        is_finished[:, beam:] = False
        self.finished_counts[entries] += is_finished.sum(1)
        self._store(candidates, is_finished, entries, step, finished=True)
        live = candidates._replace(totals=candidates.totals.masked_fill(is_end, -math.inf))
        live = live.select_columns(is_end.int().argsort(dim=1, stable=True)[:, :beam])
        is_cut = self.last_steps[entries] <= step
        self._store(live, is_cut[:, None] & live.totals.isfinite(), entries, step, finished=False)
        bounds = bound_scores(live.totals[:, 0], self.largest_penalties[entries])
        is_settled = self.worst_scores[entries] >= bounds
        return live, ~(is_settled | is_cut | (self.finished_counts[entries] >= beam))

    def _store(
        self, candidates: Candidates, mask: Tensor, entries: Tensor, step: int, *, finished: bool
    ) -> None:
        """Insert the candidates where the mask is True into the lists of their entries."""
        if not mask.any():
            return
        owners = entries[:, None].expand_as(mask)[mask].tolist()
        alpha = self.config.length_penalty
        penalties = [compute_length_penalty(step - self.prompt_counts[owner], alpha) for owner in owners]
        totals = candidates.totals[mask]
        scores = totals / torch.tensor(penalties, dtype=totals.dtype, device=totals.device)
        fields = (candidates.rows, candidates.tokens, candidates.log_probs)
        columns = [scores.tolist(), *(field[mask].tolist() for field in fields)]
        for owner, score, row, token, log_prob in zip(owners, *columns, strict=True):
            ends = self.ends[owner]
            bisect.insort(ends, _End(score, finished, step - 1, row, token, log_prob), key=_sort_key)
            del ends[self.config.n_best :]
            if len(ends) == self.config.n_best:
                self.worst_scores[owner] = ends[-1].score

    def build_hypotheses(self, history: list[Emitted]) -> list[list[Hypothesis]]:
        """Every entry's n-best list, recovered through the beams that the steps point back to."""
        steps = [(e.tokens.tolist(), e.log_probs.tolist(), e.rows.tolist()) for e in history]
        weights = [emitted.weights for emitted in history]
        return [
            [_trace_back(end, steps, weights, prompt) for end in ends]
            for ends, prompt in zip(self.ends, self.prompt_counts, strict=True)
        ]


def compute_length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha, by which a sum of log-probabilities is divided."""
    return ((5.0 + length) / 6.0) ** alpha


def bound_scores(totals: Float[Tensor, "A"], penalties: Float[Tensor, "A"]) -> Float[Tensor, "A"]:
    """The highest scores that hypotheses with these sums of log-probabilities can still reach."""
    return totals / penalties


def _sort_key(end: _End) -> tuple[bool, float]:
    """Finished hypotheses first, the best score first."""
    return (not end.finished, -end.score)


def _trace_back(end: _End, steps: list[_Links], weights: list[dict[str, Tensor]], prompt: int) -> Hypothesis:
    """The hypothesis with this end, without the first `prompt` steps."""
    tokens, log_probs, rows = [end.token], [end.log_prob], [end.row]
    for step_tokens, step_log_probs, parents in reversed(steps[prompt : end.step]):
        row = rows[-1]
        tokens.append(step_tokens[row])
        log_probs.append(step_log_probs[row])
        rows.append(parents[row])
    path = list(enumerate(reversed(rows), start=prompt))
    captured = {name: [weights[step][name][row].clone() for step, row in path] for name in weights[0]}
    tokens = tokens[: 0 if end.finished else None : -1]
    return Hypothesis(tokens, end.score, log_probs[::-1], end.finished, captured)
