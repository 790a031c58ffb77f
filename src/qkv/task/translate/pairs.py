"""The pairs of a recipe: read, split, as token ids, as training batches."""

from functools import cache
from typing import NamedTuple

import torch

from qkv.data import (
    UNK,
    BatchPlan,
    Pairs,
    Tokenizer,
    TokenizerPair,
    compute_max_characters,
    find_usable_pairs,
    make_pair_dataset,
    read_pairs,
)
from qkv.data.generated.phrases import PhraseData, Split, generate_phrases, split_phrases
from qkv.errors import BadData
from qkv.progress import Progress
from qkv.task.translate.capacity import check_capacity
from qkv.task.translate.recipe import DataConfig, TranslationRecipe

Lines = list[tuple[str, str]]


class Splits(NamedTuple):
    """Training and held-out pairs of text."""

    train: Lines
    valid: Lines


def phrase_splits(data: PhraseData) -> Split:
    """Generated phrases to train on, to choose by and to measure with; generated once per process."""
    return _phrase_splits(data.model_dump_json())


@cache
def _phrase_splits(told: str) -> Split:
    data = PhraseData.model_validate_json(told)
    return split_phrases(generate_phrases(data), data.dev, data.test)


def read_splits(data: DataConfig, seed: int) -> Splits:
    """The training and held-out pairs that a recipe names; without held-out files some training pairs are set
    aside.
    """
    if data.phrases is not None:
        phrases = phrase_splits(data.phrases)
        return Splits(phrases.train, phrases.dev)
    assert data.train is not None
    train = read_pairs(data.train)
    if data.valid is not None:
        return Splits(train, read_pairs(data.valid))
    count = min(data.holdout, len(train) // 20)
    if count == 0:
        raise BadData(f"{len(train)} pairs are too few to hold any out: name held-out files as data.valid")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = set(order[:count])
    return Splits([p for i, p in enumerate(train) if i not in aside], [train[i] for i in sorted(aside)])


def read_test_pairs(data: DataConfig) -> Lines:
    """The pairs that `evaluate` takes by default.  Raises BadData where the recipe names none."""
    if data.phrases is not None:
        return phrase_splits(data.phrases).test
    named = data.test or data.valid
    if named is None:
        raise BadData("the recipe names no data.test: pass --source and --target")
    return read_pairs(named)


class Encoded(NamedTuple):
    """Pairs as token ids, without BOS and EOS."""

    source: list[list[int]]
    target: list[list[int]]


def encode(pairs: Lines, tokens: TokenizerPair, max_length: int) -> Encoded:
    """Both sides of the pairs as token ids; a side that is only white space has none.

    A side with too many characters for `max_length` tokens is not tokenised: it has max_length + 1 unknown
    ones.
    """
    return Encoded(*(_encode_side([pair[i] for pair in pairs], tokens[i], max_length) for i in (0, 1)))


def _encode_side(lines: list[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    longest, too_long = compute_max_characters(max_length), [UNK] * (max_length + 1)
    rows = iter(tokenizer.encode([_visible(line) for line in lines if len(line) <= longest]))
    return [next(rows) if len(line) <= longest else too_long for line in lines]


def _visible(line: str) -> str:
    return line if line.strip() else ""


def build_batches(
    pairs: Lines, tokens: TokenizerPair, recipe: TranslationRecipe, report: Progress
) -> BatchPlan[Pairs]:
    """The training batches; says what had to be left out."""
    encoded = encode(pairs, tokens, recipe.batch.max_length)
    kept, dropped = find_usable_pairs(encoded.source, encoded.target, recipe.batch.max_length)
    if dropped.first is not None:
        report.print_line(str(dropped))
    check_capacity(recipe.model.length_limits, *encoded, kept)
    dataset = make_pair_dataset([encoded.source[i] for i in kept], [encoded.target[i] for i in kept])
    return BatchPlan(dataset, recipe.batch, recipe.train.seed)
