"""Scores of a text under a language model: perplexity, bits per byte, accuracy."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.symbols import UNK
from qkv.task.generate.recipe import LanguageRecipe
from qkv.task.generate.windows import Mode, Windows
from qkv.task.texts import AnyTokenizer, EncodedText, start_token
from qkv.train.objective.output_layer import sum_output_cross_entropy

MODES = get_args(Mode)
POSITIONS_AT_ONCE = 16_384


class Total(NamedTuple):
    """Sums over the scored tokens: negative log-likelihood in nats, correct guesses, and the count."""

    nll: float
    correct: float
    count: int


def choose_windows(recipe: LanguageRecipe, mode: str | None = None, stride: int | None = None) -> Windows:
    """How a recipe reads text, with another mode or stride if wanted.

    Raises:
        UnknownName: there is no such mode.
        BadData: the stride is longer than a segment, the state of the model grows with the text, or the model
            holds fewer positions than the text has.
    """
    if mode is not None and mode not in MODES:
        raise UnknownName(f"no scoring mode {mode!r}. {did_you_mean(mode, MODES)}")
    windows = recipe.windows
    read_mode: Any = mode or windows.mode
    if stride is not None and read_mode != "sliding":
        raise BadData(f"a stride has no meaning in the mode {read_mode}: leave it out, or set mode: sliding")
    windows = windows._replace(mode=read_mode, stride=stride or windows.stride)
    if windows.stride > windows.segment:
        raise BadData(
            f"the stride of a sliding window is at most its length, {windows.segment}, got {windows.stride}"
        )
    if read_mode == "carry":
        _check_carry(recipe)
    return windows


def _check_carry(recipe: LanguageRecipe) -> None:
    if not recipe.model.has_bounded_state:
        raise BadData(
            "mode carry keeps one state over the whole text, and that of softmax attention over all keys "
            "grows with it: use mode sliding or segments"
        )
    if (limit := recipe.model.length_limits.target) is not None:
        raise BadData(f"mode carry needs more positions than {limit.key}={limit.positions} holds")


@torch.inference_mode()
def score_ids(
    model: Any,
    ids: np.ndarray,
    first: int,
    windows: Windows,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Total:
    """The log-likelihood of every token of a text, each predicted once.

    Args:
        model: a language model in evaluation mode.
        ids: the tokens of the text, [N].
        first: the token that stands before the first one.
        windows: what the model reads for every token.
        on_progress: called with the number of tokens that are scored so far.

    Returns:
        Sums over all N tokens.
    """
    text = np.concatenate([[first], ids]).astype(np.int64)
    device = next(model.parameters()).device
    totals = [Total(0.0, 0.0, 0)]
    state: Any = model.start(batch=1) if windows.mode == "carry" else None
    for inputs, targets in _iterate_batches(text, windows):
        if state is None:
            hidden = model(inputs.to(device))
        else:
            hidden, state = model.extend(inputs.to(device), state)
        totals.append(sum_scores(model, hidden, targets.to(device)))
        on_progress(sum(total.count for total in totals))
    return Total(*(sum(column) for column in zip(*totals, strict=True)))


def compute_scores(total: Total, text: EncodedText, tokenizer: AnyTokenizer) -> dict[str, float]:
    """The scores of a text by name.

    nll: nats per token.  perplexity: exp(nll).  bits_per_byte: of the UTF-8 text.  word_perplexity: exp of
    the nats per word and line end, so that vocabularies can be compared.  The last one is left out where
    tokens are words and some of the text are unknown: all unknown words are one, which is easy to guess.
    """
    nll = total.nll / total.count
    scores = {"nll": nll, "perplexity": _compute_exp(nll), "accuracy": total.correct / total.count}
    if tokenizer.kind != "word":  # unknown words have no bytes
        scores["bits_per_byte"] = total.nll / text.bytes / math.log(2)
    if tokenizer.kind == "bpe" or (tokenizer.kind == "word" and UNK not in text.ids):
        scores["word_perplexity"] = _compute_exp(total.nll / text.words)
    return scores


def _iterate_batches(
    text: np.ndarray, windows: Windows
) -> Iterator[tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]]:
    """Inputs and targets; a negative target is not scored.  Every token but the first is a target once."""
    last, step = len(text) - 1, windows.stride if windows.mode == "sliding" else windows.segment
    rows = 1 if windows.mode == "carry" else max(1, POSITIONS_AT_ONCE // windows.segment)
    ends = [*range(min(windows.segment, last), last, step), last]  # of windows; the last one may be short
    for start in range(0, len(ends), rows):
        yield from _pack_windows(
            text, ends[start : start + rows], ([0, *ends[:-1]])[start : start + rows], windows
        )


def _pack_windows(text: np.ndarray, ends: list[int], scored: list[int], windows: Windows) -> Iterator[Any]:
    """Batches of equal length; a window of another length stands alone."""
    spans = []
    for end, before in zip(ends, scored, strict=True):
        begin = max(0, end - windows.segment) if windows.mode == "sliding" else before
        if before < end:
            spans.append((begin, before, end))
    for length in sorted({end - begin for begin, _, end in spans}, reverse=True):
        rows = [span for span in spans if span[2] - span[0] == length]
        inputs = np.stack([text[begin:end] for begin, _, end in rows])
        targets = np.stack([text[begin + 1 : end + 1] for begin, _, end in rows])
        for row, (begin, before, _) in enumerate(rows):
            targets[row, : before - begin] = -1
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


def sum_scores(model: Any, hidden: Tensor, targets: Tensor) -> Total:
    """The scores of the targets [B,N] that are not negative, from hidden states [B,N,M]."""
    real = targets >= 0
    labels = targets[real]
    _, nll, correct = sum_output_cross_entropy(model.output, hidden[real], labels, smoothing=0.0)
    return Total(float(nll.double().sum()), float(correct), labels.numel())


def _compute_exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def score_text(
    model: Any,
    text: EncodedText,
    tokenizer: AnyTokenizer,
    windows: Windows,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """The scores of an encoded text; see `score_ids` and `compute_scores`."""
    return compute_scores(
        score_ids(model, text.ids, start_token(tokenizer), windows, on_progress), text, tokenizer
    )
