"""What the data of a recipe gives a training: its batches, its sizes in words, and the held-out scores."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qkv.data.examples import ExamplePlan
from qkv.data.streams import StreamPlan
from qkv.task.attention_measures import list_segments
from qkv.task.generate.examples import EncodedExamples, ExampleSets, score_examples
from qkv.task.generate.recipe import LanguageRecipe
from qkv.task.generate.scoring import choose_windows, score_text
from qkv.task.texts import AnyTokenizer, EncodedText, Texts, encode_text
from qkv.train import Batches


class DataPlan(NamedTuple):
    """The batches of a training, and how its held-out data is scored.

    Args:
        batches: where updates come from.
        sizes: how much there is to train on and held out, in words.
        scored: what is scored, in words.
        score: the held-out scores of a model.
        list_segments: the token ids of the first so many held-out segments.
    """

    batches: Batches
    sizes: str
    scored: str
    score: Callable[[Any], dict[str, float]]
    list_segments: Callable[[int], list[list[int]]]


def plan_text(recipe: LanguageRecipe, texts: Texts, tokenizer: AnyTokenizer) -> DataPlan:
    """The plan for contiguous text."""
    train, valid = (encode_text(lines, tokenizer) for lines in texts)
    sizes = f"{len(train.ids):,} tokens to train on, {len(valid.ids):,} held out"
    windows, limit = choose_windows(recipe), recipe.validation.tokens
    if limit and limit < len(valid.ids):
        valid = _take_lines(texts.valid, valid, tokenizer, limit)
    return DataPlan(
        StreamPlan(train.ids, recipe.batch, recipe.train.seed),
        sizes,
        f"{len(valid.ids):,} tokens, {windows}",
        lambda model: score_text(model, valid, tokenizer, windows),
        lambda count: list_segments(valid.ids, recipe.batch.length, count),
    )


def _take_lines(lines: list[str], text: EncodedText, tokenizer: AnyTokenizer, limit: int) -> EncodedText:
    """The first lines that have at most so many tokens; the beginning of a first line that is longer."""
    ends = np.cumsum([len(row) + 1 for row in tokenizer.encode(lines)])
    count = int(np.searchsorted(ends, limit, side="right"))
    if count:
        return encode_text(lines[:count], tokenizer)
    fraction = limit / len(text.ids)
    return EncodedText(text.ids[:limit], round(text.bytes * fraction), round(text.words * fraction))


def plan_examples(recipe: LanguageRecipe, sets: ExampleSets, tokenizer: AnyTokenizer) -> DataPlan:
    """The plan for generated examples, a segment each."""
    train, valid = (EncodedExamples(each, sets.data, tokenizer) for each in (sets.train, sets.valid))
    limit = recipe.validation.tokens // sets.data.longest if recipe.validation.tokens else len(valid)
    count = min(max(limit, 1), len(valid))
    return DataPlan(
        ExamplePlan(train, recipe.batch.streams, recipe.train.seed),
        f"{len(train):,} examples to train on, {len(valid):,} held out, none of which is trained on",
        f"the answers of {count:,} examples",
        lambda model: score_examples(model, (valid[i] for i in range(count))),
        lambda segments: [valid[i].inputs.tolist() for i in range(min(segments, len(valid)))],
    )
