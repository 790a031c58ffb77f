"""Beam search over a `Stepper`: batch and beams in one tensor, finished rows leave it, attention on request.

A hypothesis of n emitted symbols (the end symbol included) scores, after Wu et al. 2016 (arXiv:1609.08144),
section 7, equation 14 without its coverage term,

    score(y) = log p(y | x) / lp(n),     lp(n) = ((5 + n) / 6)^alpha.

Every step looks at the 2K best extensions of a sentence's K beams by one symbol.  Those by the end symbol
that rank among the first K are finished; the first K others live on.  A sentence is done when

* K hypotheses are finished; so a beam of one is greedy: it ends where the end symbol is the best; or
* its n-best list is full and nothing alive can enter it any more.  A log-probability is never positive, so
  from a sum s no score above s / lp(N) can follow, N being the longest length allowed: an upper bound,
  because alpha >= 0; or
* N symbols are emitted.  What is alive then fills the n-best list behind the finished, with `finished=False`.

Equal sums are taken in the order of beam, then of token id; of equal finished scores the earlier one wins.
"""

import bisect
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from qkv.decode.largest import largest
from qkv.errors import BadRun
from qkv.model.stepper import Stepper
from qkv.state import select_rows
from qkv.strict import Strict
from qkv.symbols import BOS, EOS, PAD, UNK


class SearchConfig(Strict):
    """How to search: the `decode` options of a recipe and of the command line.

    beam: hypotheses kept alive per sentence; 1 is greedy search.
    n_best: hypotheses returned per sentence, at most `beam`.
    length_penalty: alpha of the score, from 0 to 10; 0 sums log-probabilities, 1 nearly averages them.
    max_length: most symbols emitted, end symbol included; None allows 2 x (source tokens) + 10 per sentence.
        A model that holds fewer positions stops there.
    forbid_unknown: never emit the unknown symbol.
    """

    beam: int = Field(default=5, ge=1)
    n_best: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=1.0, ge=0.0, le=10.0)
    max_length: int | None = Field(default=None, ge=1)
    forbid_unknown: bool = True

    @model_validator(mode="after")
    def _n_best_fits(self) -> "SearchConfig":
        if self.n_best > self.beam:
            raise ValueError(
                f"n_best={self.n_best} needs a beam at least as wide, but beam={self.beam}; raise beam"
            )
        return self


class Hypothesis(NamedTuple):
    """One decoded sequence.

    tokens: the emitted symbols without BOS and EOS.
    score: log-probability over length penalty; a sentence's hypotheses are sorted by it, finished ones first.
    log_probs: the model's log-probability of every emitted symbol, the last one of EOS where it was emitted.
    finished: False where the length limit cut the sequence off.
    weights: name -> for every emitted symbol, where its step looked: float32 [H,S], on the CPU.
        Empty unless captured.  S counts padded source positions too.
    """

    tokens: list[int]
    score: float
    log_probs: list[float]
    finished: bool
    weights: dict[str, list[Tensor]]


DEFAULT = SearchConfig()
_Links = tuple[list[int], list[float], list[int]]


@torch.inference_mode()
def search(  # noqa: PLR0913 -- three of them name the control symbols
    model: Stepper,
    source: Tensor,
    keep: Bool[Tensor, "B S"],
    *,
    config: SearchConfig = DEFAULT,
    capture: bool = False,
    longest: int | None = None,
    bos: int = BOS,
    eos: int = EOS,
    pad: int = PAD,
) -> list[list[Hypothesis]]:
    """The best hypotheses of every source: outer list = batch, inner list = up to `n_best`, best first.

    `source` and `keep` (True = real token) go to `model.start` as they are; dropout belongs in eval mode.
    `longest`: most symbols that the model can emit, if it has such a limit; it caps the config's.
    PAD, BOS and, where the config says so, UNK are never emitted; other log-probabilities stay the model's.
    Raises BadRun if the model's scores are not numbers.
    """
    if len(keep) == 0:
        return []
    forbidden = torch.tensor([pad, bos] + [UNK] * config.forbid_unknown, device=keep.device)
    best = _Best(keep, config, eos, longest)
    sentences = torch.arange(len(keep), device=keep.device)
    totals = torch.zeros(len(keep), 1, device=keep.device)
    tokens, state = torch.full_like(sentences, bos), model.start(source, keep, capture=capture)
    history: list[_Emitted] = []
    while len(sentences):
        length = len(history) + 1
        step = model.step(tokens, state, capture=capture)
        candidates = _extend(totals, _log_probs(step.logits, forbidden, length), 2 * config.beam)
        alive, stays = best.update(candidates, sentences, length)
        alive, sentences = alive.of(stays), sentences[stays]
        history.append(_Emitted.of(alive, step.weights))
        state = _follow(step.state, alive.rows.flatten(), before=len(tokens))
        tokens, totals = alive.tokens.flatten(), alive.totals
    return best.hypotheses(history)


class _Candidates(NamedTuple):
    """Extensions of the beams by one symbol, best first.

    totals: the sum of log-probabilities.  rows: the row extended, counted over all sentences.
    tokens, log_probs: the symbol and its own log-probability.
    """

    totals: Float[Tensor, "A C"]
    rows: Int[Tensor, "A C"]
    tokens: Int[Tensor, "A C"]
    log_probs: Float[Tensor, "A C"]

    def of(self, sentences: Bool[Tensor, "A"]) -> "_Candidates":
        return _Candidates(*(field[sentences] for field in self))

    def take(self, columns: Int[Tensor, "A K"]) -> "_Candidates":
        return _Candidates(*(field.gather(1, columns) for field in self))


class _Emitted(NamedTuple):
    """What a step left behind: symbol, log-probability and parent of its rows; weights of the parents."""

    tokens: Tensor
    log_probs: Tensor
    rows: Tensor
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, alive: _Candidates, weights: dict[str, Tensor]) -> "_Emitted":
        stored = {name: weight.to("cpu", torch.float32) for name, weight in weights.items()}
        return cls(alive.tokens.flatten(), alive.log_probs.flatten(), alive.rows.flatten(), stored)


class _End(NamedTuple):
    """Where a hypothesis ends: its last symbol, and the row and step (from 0) that emitted it."""

    score: float
    finished: bool
    step: int
    row: int
    token: int
    log_prob: float


class _Best:
    """The n-best list of every sentence, and the rule that says when it cannot change any more."""

    def __init__(
        self, keep: Bool[Tensor, "B S"], config: SearchConfig, eos: int, longest: int | None
    ) -> None:
        self.config, self.eos = config, eos
        self.limits = 2 * keep.sum(1) + 10
        if config.max_length is not None:
            self.limits = torch.full_like(self.limits, config.max_length)
        if longest is not None:
            self.limits = self.limits.clamp_max(longest)
        most = [_penalty(limit, config.length_penalty) for limit in self.limits.tolist()]
        self.penalties = torch.tensor(most, dtype=torch.float32, device=keep.device)
        self.ends: list[list[_End]] = [[] for _ in keep]
        self.finished = torch.zeros_like(self.limits)
        self.worst = torch.full_like(self.limits, -math.inf, dtype=torch.float32)

    def update(
        self, candidates: _Candidates, sentences: Int[Tensor, "A"], length: int
    ) -> tuple[_Candidates, Bool[Tensor, "A"]]:
        """Take in what is finished or cut off; return what lives on, and which sentences go on."""
        beam = self.config.beam
        ends = candidates.tokens == self.eos
        done = ends & candidates.totals.isfinite()
        done[:, beam:] = False
        self.finished[sentences] += done.sum(1)
        self._add(candidates, done, sentences, length, finished=True)
        alive = candidates._replace(totals=candidates.totals.masked_fill(ends, -math.inf))
        alive = alive.take(ends.int().argsort(dim=1, stable=True)[:, :beam])
        cut = self.limits[sentences] <= length
        self._add(alive, cut[:, None] & alive.totals.isfinite(), sentences, length, finished=False)
        hopeless = self.worst[sentences] >= _bound(alive.totals[:, 0], self.penalties[sentences])
        return alive, ~(hopeless | cut | (self.finished[sentences] >= beam))

    def _add(
        self, candidates: _Candidates, chosen: Tensor, sentences: Tensor, length: int, *, finished: bool
    ) -> None:
        if not chosen.any():
            return
        owners = sentences[:, None].expand_as(chosen)[chosen].tolist()
        totals = candidates.totals[chosen]
        scores = totals / torch.full_like(totals, _penalty(length, self.config.length_penalty))
        fields = (candidates.rows, candidates.tokens, candidates.log_probs)
        columns = [scores.tolist(), *(field[chosen].tolist() for field in fields)]
        for owner, score, row, token, log_prob in zip(owners, *columns, strict=True):
            ends = self.ends[owner]
            bisect.insort(ends, _End(score, finished, length - 1, row, token, log_prob), key=_rank)
            del ends[self.config.n_best :]
            if len(ends) == self.config.n_best:
                self.worst[owner] = ends[-1].score

    def hypotheses(self, history: list[_Emitted]) -> list[list[Hypothesis]]:
        """Every sentence's n-best list, recovered through the rows that the steps point back to."""
        steps = [(e.tokens.tolist(), e.log_probs.tolist(), e.rows.tolist()) for e in history]
        weights = [emitted.weights for emitted in history]
        return [[_recover(end, steps, weights) for end in ends] for ends in self.ends]


def _penalty(length: int, alpha: float) -> float:
    return ((5.0 + length) / 6.0) ** alpha


def _rank(end: _End) -> tuple[bool, float]:
    return (not end.finished, -end.score)


def _bound(totals: Float[Tensor, "A"], penalties: Float[Tensor, "A"]) -> Float[Tensor, "A"]:
    """The highest score that a hypothesis with this sum of log-probabilities can still reach."""
    return totals / penalties


def _log_probs(
    logits: Float[Tensor, "N V"], forbidden: Int[Tensor, "F"], length: int
) -> Float[Tensor, "N V"]:
    log_probs = logits.float().log_softmax(-1)
    bad = int(log_probs[:, 0].isnan().sum())
    if bad:
        raise BadRun(
            f"the model's scores of symbol {length} are not numbers in {bad} of {len(log_probs)} hypotheses: "
            "its training diverged or its weights are damaged; use an earlier checkpoint, or train again "
            "with a lower learning rate"
        )
    return log_probs.index_fill_(1, forbidden, -math.inf)


def _extend(totals: Float[Tensor, "A K"], log_probs: Float[Tensor, "N V"], count: int) -> _Candidates:
    sentences, beams = totals.shape
    own, tokens = largest(log_probs, count)
    sums = (totals.view(-1, 1) + own).view(sentences, -1)
    best, index = largest(sums, count)
    first = torch.arange(sentences, device=totals.device)[:, None] * beams
    rows = first + index // own.shape[1]
    own, tokens = (field.view(sentences, -1).gather(1, index) for field in (own, tokens))
    return _Candidates(best, rows, tokens, own)


def _follow(state: Any, rows: Int[Tensor, "N"], before: int) -> Any:
    """The state of the rows that live on; as it is where every row lives on in its place."""
    same = len(rows) == before and torch.equal(rows, torch.arange(before, device=rows.device))
    return state if same else select_rows(state, rows)


def _recover(end: _End, steps: list[_Links], weights: list[dict[str, Tensor]]) -> Hypothesis:
    tokens, log_probs, rows = [end.token], [end.log_prob], [end.row]
    for emitted, emitted_log_probs, parents in reversed(steps[: end.step]):
        row = rows[-1]
        tokens.append(emitted[row])
        log_probs.append(emitted_log_probs[row])
        rows.append(parents[row])
    path = list(enumerate(reversed(rows)))
    seen = {name: [weights[step][name][row].clone() for step, row in path] for name in weights[0]}
    tokens = tokens[: 0 if end.finished else None : -1]
    return Hypothesis(tokens, end.score, log_probs[::-1], end.finished, seen)
