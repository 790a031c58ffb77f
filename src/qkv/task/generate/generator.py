"""A trained language model: prompts in, continuations out, with scores of text and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from qkv.decode.sample import SampleConfig, sample
from qkv.errors import BadData, BadRecipe
from qkv.strict import describe_errors
from qkv.symbols import BOS, PAD, UNK
from qkv.task.generate.examples import (
    EncodedExamples,
    make_example_sets,
    refuse_text_options,
    score_examples,
)
from qkv.task.generate.recipe import LanguageRecipe, Mode
from qkv.task.generate.scoring import choose_windows, score_text
from qkv.task.texts import AnyTokenizer, decode_text, encode_prompt, encode_text, read_test_text
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Example, Trace, WeightAxes

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
PROMPTS_AT_ONCE = 64


class Piece(NamedTuple):
    """New text of one continuation, as it is sampled.

    Args:
        prompt: the number of the prompt, from 0.
        text: what was added; it never ends inside a character or a stop string.
    """

    prompt: int
    text: str


class Generator:
    """A language model with its tokenizer and its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        tokenizer: the vocabulary of the run.
        model: the trained model, in evaluation mode.
    """

    def __init__(self, recipe: LanguageRecipe, tokenizer: AnyTokenizer, model: Any) -> None:
        self.recipe, self.tokenizer, self.model = recipe, tokenizer, model

    def generate(
        self, prompts: str | Iterable[str] = "", *, stop: Sequence[str] = (), **options: Any
    ) -> str | list[str]:
        """Sample a continuation of a prompt, or of every prompt.

        Args:
            prompts: a text, or several; the empty text begins at the start of a line.
            stop: strings that end a continuation; they are not part of it.
            options: `temperature`, `top_k`, `top_p`, `length` and `seed`, instead of the recipe's.

        Returns:
            The continuations without their prompts: a string for a string, otherwise a list.

        Raises:
            BadRecipe: an unknown option, or a value out of range.
            BadData: a prompt is longer than the model can read.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        continuations = [""] * len(texts)
        for piece in self.stream(texts, stop=stop, **options):
            continuations[piece.prompt] += piece.text
        return continuations[0] if isinstance(prompts, str) else continuations

    def stream(self, prompts: Sequence[str], *, stop: Sequence[str] = (), **options: Any) -> Iterator[Piece]:
        """Sample continuations and yield their text piece by piece; see `generate`.

        The prompts are read in batches of PROMPTS_AT_ONCE; a sample does not depend on its batch.
        """
        config = self.sample_config(**options)
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[first : first + PROMPTS_AT_ONCE]
            writers = [_Writer(prompt, self.tokenizer, stop) for prompt in some]
            emitted = sample(
                self.model,
                [encode_prompt(prompt, self.tokenizer) for prompt in some],
                config,
                device=next(self.model.parameters()).device,
                context=self.context,
                is_finished=lambda row, token, writers=writers: writers[row].add(token),
                first_row=first,
                forbidden=(PAD, UNK, BOS),
            )
            for each in emitted:
                text = writers[each.row].take()
                if text:
                    yield Piece(first + each.row, text)
            for row, writer in enumerate(writers):
                if text := writer.finish():
                    yield Piece(first + row, text)

    def evaluate(
        self,
        lines: Sequence[str] | None = None,
        *,
        mode: Mode | None = None,
        stride: int | None = None,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """The scores of a text: nll, perplexity, accuracy, bits per byte, word-level perplexity.

        A model of generated examples has the scores nll and accuracy of the answers in its test examples.

        Args:
            lines: the text; None takes the recipe's test text or examples.
            mode: "segments", "sliding" or "carry", instead of the recipe's.
            stride: tokens that a sliding window moves by.
            on_progress: called with the number of tokens, or examples, that are scored.

        Returns:
            Name -> score; which ones depends on the vocabulary.

        Raises:
            BadData: there is no text, or the stride is longer than a segment.
            UnknownName: the run is on generated examples, and an option for text is passed.
        """
        if self.recipe.data.examples is not None:
            refuse_text_options(self.recipe, lines=lines, mode=mode, stride=stride)
            sets = make_example_sets(self.recipe.data.examples)
            examples = EncodedExamples(sets.test, sets.data, self.tokenizer)
            return score_examples(self.model, examples, on_progress)
        lines = read_test_text(self.recipe.data) if lines is None else lines
        if not any(lines):
            raise BadData("there is no text to score, every line is empty: pass a file with text")
        windows = choose_windows(self.recipe, mode, stride)
        text = encode_text(lines, self.tokenizer)
        return score_text(self.model, text, self.tokenizer, windows, on_progress)

    def trace(self, texts: str | Iterable[str], *, cut: bool = False) -> Trace:
        """Where every layer attends while the model reads each text, and how likely each token is.

        Args:
            texts: a text, or several.
            cut: of a text that is longer than the model can read, trace its end; "left out" in the example's
                `meta` counts the other tokens.  Otherwise such a text is refused.

        Raises:
            BadData: there is no text, one is empty or too long, or the model has no attention.
        """
        self.check_traceable()
        several = enumerate(_as_list(texts), start=1)
        examples = [self._trace_text(text, number, cut) for number, text in several]
        if not examples:
            raise BadData("there is no text to trace")
        unnormalised = find_unnormalised(self.model)
        meta = {"model": self.recipe.model.mixer}
        return Trace(tuple(examples), "language model", unnormalised=unnormalised, meta=meta)

    def check_traceable(self) -> None:
        """Raise BadData if the model has no attention to trace."""
        if not self.model.attention_layers():
            mixer = self.recipe.model.mixer
            raise BadData(f"this model has no attention to trace: its mixer is {mixer}: leave out the trace")

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands for a language model."""
        return ("generate",)

    @property
    def context(self) -> int | None:
        """Most positions that the model can read at once; None: any number."""
        limit = self.model.length_limits.target
        return None if limit is None else limit.positions

    def sample_config(self, **options: Any) -> SampleConfig:
        """The recipe's way of sampling with some options changed; None leaves an option as it is.

        Raises:
            BadRecipe: an unknown option, or a value out of range.
        """
        changed = {name: value for name, value in options.items() if value is not None}
        try:
            return SampleConfig(**{**self.recipe.sample.model_dump(), **changed})
        except ValidationError as error:
            raise BadRecipe(describe_errors(error, SampleConfig)) from None

    def _trace_text(self, text: str, number: int, cut: bool) -> Example:
        ids = encode_prompt(text, self.tokenizer)
        if len(ids) < 2:
            raise BadData(f"text {number} is empty, so there is nothing to trace: pass a text with content")
        excess = 0 if self.context is None else max(len(ids) - self.context, 0)
        if excess and not cut:
            raise BadData(
                f"text {number} has {len(ids):,} tokens, but the model reads at most {self.context:,}: "
                "shorten it"
            )
        left_out = {"left out": excess} if excess else {}
        return replace(self.trace_tokens(ids[excess:]), meta={"line": number, "text": text, **left_out})

    @torch.inference_mode()
    def trace_tokens(self, ids: Sequence[int]) -> Example:
        """Where every layer attends while the model reads token ids, and how likely each is.

        Args:
            ids: at least two, and no more than the model can read.
        """
        tokens = torch.tensor([list(ids)], device=next(self.model.parameters()).device)
        hidden, attended = self.model.forward_with_weights(tokens)
        log_probs = self.model.output(hidden).float().log_softmax(-1)[0, :-1]
        log_probs = log_probs.gather(1, tokens[0, 1:, None])[:, 0]
        axis = tuple(self.tokenizer.pieces(ids[:-1]))
        weights = {
            name: each.weights[0, :, :-1, :-1].float().cpu().numpy()
            for name, each in attended.items()
            if each.weights is not None
        }
        return Example(
            named_axes={"read": axis, "predicted": tuple(self.tokenizer.pieces(ids[1:]))},
            weights=weights,
            weight_axes={name: WeightAxes("predicted", "read", causal=True) for name in weights},
            log_probs=log_probs.cpu().numpy(),
            log_probs_axis="predicted",
        )


class _Writer:
    """The text of one continuation, held back while it may still turn out to be a stop string.

    It keeps what is held back alone, so that memory does not grow with the text.
    """

    def __init__(self, prompt: str, tokenizer: AnyTokenizer, stop: Sequence[str]) -> None:
        self.follows_space = not prompt or prompt[-1].isspace()
        self.tokenizer, self.stop = tokenizer, [text for text in stop if text]
        self.undecoded: list[int] = []  # tokens whose text is not complete yet
        self.text, self.is_stopped = "", False

    def add(self, token: int) -> bool:
        """Append a token; True where a stop string ends the text."""
        self.undecoded.append(token)
        new = decode_text(self.undecoded, self.tokenizer)
        if new.endswith(INCOMPLETE) and len(self.undecoded) < 4:
            return False  # the bytes of a character are not complete yet
        self._append_decoded(new)
        ends = [at for text in self.stop if (at := self.text.find(text)) >= 0]
        if ends:
            self.text, self.is_stopped = self.text[: min(ends)], True
        return self.is_stopped

    def take(self) -> str:
        """The new text that no stop string can begin in."""
        overlap = (
            0
            if self.is_stopped
            else max((_measure_overlap(self.text, text) for text in self.stop), default=0)
        )
        end = len(self.text) - overlap
        new, self.text = self.text[:end], self.text[end:]
        return new

    def finish(self) -> str:
        """What was held back until the end."""
        if not self.is_stopped and self.undecoded:
            self._append_decoded(decode_text(self.undecoded, self.tokenizer))
        new, self.text = self.text, ""
        return new

    def _append_decoded(self, new: str) -> None:
        new = self._restore_space(new)
        self.text += new
        self.follows_space = new[-1].isspace() if new else self.follows_space
        self.undecoded.clear()

    def _restore_space(self, text: str) -> str:
        """Restore the space that the tokenizer removes at the start of what it decodes."""
        first = self.tokenizer.pieces(self.undecoded[:1])
        has_space = bool(first) and first[0].startswith("▁") and self.tokenizer.kind == "bpe"
        joins_words = self.tokenizer.kind == "word" and not text[:1].isspace()
        return " " + text if (has_space or joins_words) and not self.follows_space else text


def _measure_overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that begins the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)


def _as_list(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
