"""Generated examples as training data of a language model: token ids, batches, and scores of the answers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from qkv.data.examples import ExampleBatch, ScoredTokens, collate_examples
from qkv.data.generated.examples import (
    LINE_END,
    ExampleData,
    SymbolSequence,
    generate_examples,
)
from qkv.errors import BadRecipe, UnknownName
from qkv.symbols import UNK
from qkv.task.checksums import digest_lines
from qkv.task.generate.recipe import LanguageRecipe
from qkv.task.generate.scoring import POSITIONS_AT_ONCE, Total, sum_scores
from qkv.task.texts import AnyTokenizer, start_token

DIGESTED = 100  # examples of a split that show whether the same ones are generated


class ExampleSets(NamedTuple):
    """The examples of a recipe; no example is in two of the sets.

    Args:
        data: the section of the recipe that generates them.
        train: examples to train on.
        valid: examples to choose the weights by.
        test: examples for `qkv evaluate`.
    """

    data: ExampleData
    train: Sequence[SymbolSequence]
    valid: Sequence[SymbolSequence]
    test: Sequence[SymbolSequence]


def make_example_sets(data: ExampleData) -> ExampleSets:
    """The examples that a section of a recipe describes.

    Raises:
        BadData: there are too few different examples.
    """
    splits = generate_examples(data)
    return ExampleSets(data, splits.train, splits.valid, splits.test)


def fingerprint_examples(sets: ExampleSets) -> dict[str, dict[str, Any]]:
    """The number of examples and a digest of the first ones; see `Task.compute_fingerprint`."""
    return {
        f"{split}.examples": {
            "lines": len(examples),
            "digest": digest_lines(
                [sets.data.model_dump_json(), *map(_format_example, islice(examples, DIGESTED))]
            ),
        }
        for split, examples in (("train", sets.train), ("valid", sets.valid))
    }


def list_vocabulary_words(data: ExampleData) -> list[str]:
    """The line that a tokenizer of words is learnt from: every symbol once."""
    return [" ".join(symbol for symbol in data.list_symbols() if symbol != LINE_END)]


class EncodedExamples(Sequence[ScoredTokens]):
    """Examples as token ids behind a line end; each is encoded when it is read.

    Args:
        examples: the examples.
        data: the section of the recipe that generates them.
        tokenizer: a tokenizer of words that knows every symbol.

    Raises:
        BadRecipe: a symbol is not in the vocabulary, which may be that of another run.
    """

    def __init__(
        self, examples: Sequence[SymbolSequence], data: ExampleData, tokenizer: AnyTokenizer
    ) -> None:
        self.examples, self.start = examples, start_token(tokenizer)
        symbols = data.list_symbols()
        rows = tokenizer.encode([symbol for symbol in symbols if symbol != LINE_END])
        ids = iter(rows)
        self.ids = np.array([self.start if symbol == LINE_END else next(ids)[0] for symbol in symbols])
        if [UNK] in rows:
            unknown = symbols[int(np.flatnonzero(self.ids == UNK)[0])]
            raise BadRecipe(
                f"the vocabulary has no token for the symbol {unknown!r} of the generated examples: start "
                "from a run on the same symbols, or without one"
            )

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.examples)

    def __getitem__(self, index: int) -> ScoredTokens:
        """The token ids of one example."""
        example = self.examples[index]
        inputs = np.concatenate([[self.start], self.ids[example.symbols[:-1]]])
        return ScoredTokens(inputs, self.ids[example.targets], example.scored)


@torch.inference_mode()
def score_examples(
    model: Any,
    examples: Iterable[ScoredTokens],
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """The scores of the answers alone: nll, nats per answer, and accuracy, the fraction that is right.

    Args:
        model: a language model in evaluation mode.
        examples: at least one example.
        on_progress: called with the number of examples that are scored so far.
    """
    device = next(model.parameters()).device
    totals, finished = [], 0
    for batch in _iterate_batches(examples):
        hidden = model(batch.inputs.to(device))
        targets = batch.targets.masked_fill(~batch.scored, -1)
        totals.append(sum_scores(model, hidden, targets.to(device)))
        finished += len(batch.inputs)
        on_progress(finished)
    total = Total(*(sum(column) for column in zip(*totals, strict=True)))
    return {"nll": total.nll / total.count, "accuracy": total.correct / total.count}


def refuse_text_options(recipe: LanguageRecipe, **options: Any) -> None:
    """Raise UnknownName where an option for the scores of text is passed to a run on generated examples."""
    for name, value in options.items():
        if value is not None:
            raise UnknownName(
                f"{name} has no meaning for a run on generated examples, {recipe.data.examples_key}, whose "
                "test examples are generated: leave it out"
            )


def _iterate_batches(examples: Iterable[ScoredTokens]) -> Iterator[ExampleBatch]:
    rows: list[ScoredTokens] = []
    for example in examples:
        longest = max(len(row.scored) for row in (example, *rows))
        if rows and longest * (len(rows) + 1) > POSITIONS_AT_ONCE:
            yield collate_examples(rows)
            rows = []
        rows.append(example)
    if rows:
        yield collate_examples(rows)


def _format_example(example: SymbolSequence) -> str:
    return f"{example.symbols.tolist()} {example.targets[example.scored].tolist()}"
