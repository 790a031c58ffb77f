"""Beam search over a `Stepper`: batch and beams in one tensor, finished entries leave it, weights on request.

A hypothesis of n emitted symbols (the end symbol included, the prompt not) scores, after Wu et al. 2016
(arXiv:1609.08144), section 7, equation 14 without its coverage term,

    score(y) = log p(y | x, prompt) / lp(n),     lp(n) = ((5 + n) / 6)^alpha.

Every step looks at the 2K best extensions of an entry's K beams by one symbol.  Those by the end symbol that
rank among the first K are finished; the first K others live on.  An entry is done when

* K hypotheses are finished; so a beam of one is greedy: it ends where the end symbol is the best; or
* its n-best list is full and nothing alive can enter it any more.  A log-probability is never positive, so
  from a sum s no score above s / lp(N) can follow, N being the longest length allowed: an upper bound,
  because alpha >= 0; or
* N symbols are emitted.  What is alive then fills the n-best list behind the finished, with `finished=False`.

Equal sums are taken in the order of beam, then of token id; of equal finished scores the earlier one wins.
Tokens that all prompts of a batch have are read before the first step.  Where a prompt is longer than the
shortest one, its entry repeats the rest of it, at a log-probability of 0, while others are free already.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.decode.config import SearchConfig
from qkv.decode.constraints import Constraints
from qkv.decode.hypotheses import Candidates, Emitted, Hypothesis, NBestLists
from qkv.decode.largest import find_largest
from qkv.decode.prompts import read_tokens, split_prompts
from qkv.errors import BadData, BadRecipe, BadRun
from qkv.model.stepper import Step, Stepper
from qkv.state import batch_size, first_tensor, select_rows
from qkv.symbols import BOS, EOS, PAD, UNK

DEFAULT = SearchConfig()


@torch.inference_mode()
def search(  # noqa: PLR0913 -- three of them name the control symbols
    model: Stepper,
    *source: Any,
    max_length: int | Int[Tensor, "B"] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    batch: int | None = None,
    config: SearchConfig = DEFAULT,
    capture: bool = False,
    bos: int | None = BOS,
    eos: int = EOS,
    pad: int = PAD,
) -> list[list[Hypothesis]]:
    """The best hypotheses of every batch entry.

    Args:
        model: in eval mode, where it has dropout.
        source: what `model.start` takes: tensors with the batch first, such as token ids and their mask, or
            pictures. Without it, or where it is None, `model.start` gets `batch` instead.
        max_length: most symbols that an entry may emit, end symbol included; one number for all, or [B].
            Where `config.max_length` is smaller, it applies instead.
        prompts: token ids per entry that are read before free decoding; hypotheses do not repeat them.
        batch: the number of entries, needed where neither a source nor prompts tell it.
        config: beam, length penalty and further options.
        capture: return attention weights with every hypothesis.
        bos: the begin symbol, read before the prompt; None: every entry begins with its prompt.
        eos: the end symbol.
        pad: never emitted; neither are the begin symbol and, where the config says so, the unknown symbol.
            The log-probabilities of the other symbols stay the model's.

    Returns:
        For every entry up to `n_best` hypotheses, best first.

    Raises:
        BadData: prompts or limits do not fit the batch, or its size is unknown.
        BadRecipe: there is no limit on the length.
        BadRun: the model's scores are not numbers.
    """
    has_source = any(part is not None for part in source)
    batch = _find_batch_size(source if has_source else (), prompts, batch)
    if batch == 0:
        return []
    options = {"capture": capture} if has_source else {"capture": capture, "batch": batch}
    state = model.start(*(source if has_source else ()), **options)
    device = _find_device(model, source, state)
    forced = split_prompts(prompts, batch, bos, device)
    limits = _combine_limits(max_length, config, batch, device)
    symbols = [pad, bos, UNK if config.forbid_unknown else None]
    forbidden = torch.tensor([symbol for symbol in symbols if symbol is not None], device=device)
    constraints = Constraints(forbidden, eos, config.min_length, forced)
    n_best = NBestLists(config, eos, limits, forced.remaining_lengths)
    step = read_tokens(model, forced.shared, state, capture=capture)
    return _run_search(model, step, constraints, n_best, capture)


def _run_search(
    model: Stepper, step: Step, constraints: Constraints, n_best: NBestLists, capture: bool
) -> list[list[Hypothesis]]:
    """Extend the beams, from the step that scores their first symbol on, until every entry is done."""
    beam, entries = n_best.config.beam, torch.arange(len(n_best.ends), device=step.logits.device)
    totals = torch.zeros(len(entries), 1, device=entries.device)
    history: list[Emitted] = []
    while True:
        number = len(history) + 1
        log_probs = constraints.apply(_compute_log_probs(step.logits, number), entries, number)
        live, continues = n_best.update(_extend_beams(totals, log_probs, 2 * beam), entries, number)
        live, entries = live.select_entries(continues), entries[continues]
        history.append(Emitted.from_candidates(live, step.weights))
        if not len(entries):
            return n_best.build_hypotheses(history)
        totals = live.totals
        state = _reorder_state(step.state, live.rows.flatten(), before=len(log_probs))
        step = model.step(live.tokens.flatten(), state, capture=capture)


def _find_batch_size(source: Any, prompts: Sequence[Sequence[int]] | None, batch: int | None) -> int:
    """The number of entries: the caller's `batch`, else that of the source, else that of the prompts."""
    if batch is not None:
        return batch
    if source:
        return batch_size(source)
    if prompts is not None:
        return len(prompts)
    raise BadData("the number of sequences to decode is unknown: pass a source, prompts or batch")


def _find_device(model: Stepper, source: Any, state: Any) -> torch.device:
    """The device of the source, else of the state, else of the model's parameters, else the CPU."""
    tensor = first_tensor((source, state))
    if tensor is None and isinstance(model, nn.Module):
        tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _combine_limits(
    max_length: int | Int[Tensor, "B"] | None, config: SearchConfig, batch: int, device: torch.device
) -> Int[Tensor, "B"]:
    """The most symbols that each entry may emit."""
    bounds = [bound for bound in (max_length, config.max_length) if bound is not None]
    if not bounds:
        raise BadRecipe("the search has no limit on the length: pass max_length or set it in the config")
    limits = torch.full((batch,), torch.iinfo(torch.int64).max, device=device)
    for bound in map(torch.as_tensor, bounds):
        if bound.shape not in ((), (batch,)):
            raise BadData(
                f"max_length has the shape {list(bound.shape)}, but there are {batch} entries: give one "
                "number for all, or one per entry"
            )
        limits = limits.minimum(bound.to(device))
    if int(limits.min()) < 1:
        raise BadData(f"max_length must be at least 1 for every entry, got {int(limits.min())}")
    return limits


def _compute_log_probs(logits: Float[Tensor, "N V"], step: int) -> Float[Tensor, "N V"]:
    """The log-probabilities of all symbols; raises BadRun where they are not numbers."""
    log_probs = logits.float().log_softmax(-1)
    nan_count = int(log_probs[:, 0].isnan().sum())
    if nan_count:
        raise BadRun(
            f"the model's scores of symbol {step} are not numbers in {nan_count} of {len(log_probs)} "
            "hypotheses: its training diverged or its weights are damaged; use an earlier checkpoint, or "
            "train again with a lower learning rate"
        )
    return log_probs


def _extend_beams(totals: Float[Tensor, "A K"], log_probs: Float[Tensor, "N V"], count: int) -> Candidates:
    """The `count` best extensions of every entry's beams by one symbol."""
    entries, beams = totals.shape
    symbol_log_probs, tokens = find_largest(log_probs, count)
    sums = (totals.view(-1, 1) + symbol_log_probs).view(entries, -1)
    best, index = find_largest(sums, count)
    first = torch.arange(entries, device=totals.device)[:, None] * beams
    rows = first + index // symbol_log_probs.shape[1]
    symbol_log_probs, tokens = (
        field.view(entries, -1).gather(1, index) for field in (symbol_log_probs, tokens)
    )
    return Candidates(best, rows, tokens, symbol_log_probs)


def _reorder_state(state: Any, rows: Int[Tensor, "N"], before: int) -> Any:
    """The state of the beams that live on; the state itself where every beam keeps its place."""
    is_same = len(rows) == before and torch.equal(rows, torch.arange(before, device=rows.device))
    return state if is_same else select_rows(state, rows)
