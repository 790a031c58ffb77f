"""Reads the pairs of a recipe, splits them, encodes them as token ids and builds training batches."""

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
from qkv.task.translate.pair_lengths import check_pair_lengths
from qkv.task.translate.recipe import DataConfig, TranslationRecipe

Lines = list[tuple[str, str]]


class Splits(NamedTuple):
    """Training and held-out pairs of text.

    Args:
        train: the pairs to train on.
        valid: the held-out pairs.
    """

    train: Lines
    valid: Lines


def _read_phrases(data: PhraseData) -> Split:
    """Generated phrases for training, validation and testing; generated once per process."""
    return _generate_phrases(data.model_dump_json())


@cache
def _generate_phrases(json_config: str) -> Split:
    data = PhraseData.model_validate_json(json_config)
    return split_phrases(generate_phrases(data), data.dev, data.test)


def read_splits(data: DataConfig, seed: int) -> Splits:
    """The training and held-out pairs that a recipe names.

    Args:
        data: the section of the recipe; without held-out files some training pairs are held out.
        seed: chooses the pairs to hold out.

    Raises:
        BadData: the files cannot be read as pairs, or are too small to hold any pair out.
    """
    if data.phrases is not None:
        phrases = _read_phrases(data.phrases)
        return Splits(phrases.train, phrases.dev)
    assert data.train is not None
    train = read_pairs(data.train)
    if data.valid is not None:
        return Splits(train, read_pairs(data.valid))
    count = min(data.holdout, len(train) // 20)
    if count == 0:
        raise BadData(
            f"{len(train)} training pairs are too few to hold any out: name held-out files as data.valid"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = set(order[:count])
    remaining = [pair for i, pair in enumerate(train) if i not in held_out]
    return Splits(remaining, [train[i] for i in sorted(held_out)])


def read_test_pairs(data: DataConfig) -> Lines:
    """The pairs that `evaluate` scores by default.

    Args:
        data: the section of the recipe.

    Raises:
        BadData: the recipe names neither test nor held-out files, or they cannot be read as pairs.
    """
    if data.phrases is not None:
        return _read_phrases(data.phrases).test
    files = data.test or data.valid
    if files is None:
        raise BadData("the recipe names no data.test: pass --source and --target")
    return read_pairs(files)


class Encoded(NamedTuple):
    """Pairs as token ids, without BOS and EOS.

    Args:
        source: the ids of every source.
        target: the ids of every target.
    """

    source: list[list[int]]
    target: list[list[int]]


def encode_pairs(pairs: Lines, tokens: TokenizerPair, max_length: int) -> Encoded:
    """Both sides of the pairs as token ids; a side that is only white space has none.

    Args:
        pairs: source and target lines.
        tokens: the tokenizers of both sides.
        max_length: the most tokens of a side in training. A side with too many characters for them is not
            tokenised; it gets max_length + 1 unknown tokens, so that it counts as too long.
    """
    return Encoded(*(_encode_side([pair[i] for pair in pairs], tokens[i], max_length) for i in (0, 1)))


def _encode_side(lines: list[str], tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    longest, too_long = compute_max_characters(max_length), [UNK] * (max_length + 1)
    rows = iter(tokenizer.encode([_clear_blank_line(line) for line in lines if len(line) <= longest]))
    return [next(rows) if len(line) <= longest else too_long for line in lines]


def _clear_blank_line(line: str) -> str:
    return line if line.strip() else ""


def build_batches(
    pairs: Lines, tokens: TokenizerPair, recipe: TranslationRecipe, report: Progress
) -> BatchPlan[Pairs]:
    """The training batches.

    Args:
        pairs: the training pairs.
        tokens: the tokenizers of both sides.
        recipe: the complete recipe.
        report: where the number of pairs that are left out is printed.

    Raises:
        BadData: no pair is usable, or the model cannot hold some of them.
    """
    encoded = encode_pairs(pairs, tokens, recipe.batch.max_length)
    rows, dropped = find_usable_pairs(encoded.source, encoded.target, recipe.batch.max_length)
    if dropped.first is not None:
        report.print_line(str(dropped))
    check_pair_lengths(recipe.model.length_limits, *encoded, rows)
    dataset = make_pair_dataset([encoded.source[i] for i in rows], [encoded.target[i] for i in rows])
    return BatchPlan(dataset, recipe.batch, recipe.train.seed)
