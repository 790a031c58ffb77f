"""Word alignments of known pairs, read from the attention of a translator by forced decoding."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from qkv.data import Tokenizer
from qkv.errors import BadData, BadRun, UnknownName, did_you_mean
from qkv.task.translate.forced_decoding import compute_weights
from qkv.task.translate.links import Gold, Link, Links, score_links
from qkv.view.words import MARK

Weights = Float[np.ndarray, "T S"]
Pair = tuple[str, str]


class AlignOptions(NamedTuple):
    """Which weights alignments are read from.

    Args:
        layer: the name of a cross-attention, such as "cross.1"; None chooses one.
        head: the number of a head; None takes the mean over heads.
        is_shifted: whether a target word is aligned by the step that reads it, not by the one that writes it
            (Chen et al. 2020, section 3.1); None chooses for a Transformer, and is False for others.
    """

    layer: str | None = None
    head: int | None = None
    is_shifted: bool | None = None


class Reading(NamedTuple):
    """One way to read alignments.

    Args:
        layer: the name of a cross-attention.
        is_shifted: as in `AlignOptions`.
    """

    layer: str
    is_shifted: bool

    def __str__(self) -> str:
        return (
            f"{self.layer}, {'the step that reads a word' if self.is_shifted else 'the step that writes it'}"
        )


class Alignments(NamedTuple):
    """The alignments of pairs.

    Args:
        reading: how they were read.
        links: (source word, target word) from 0, of every pair.
    """

    reading: Reading
    links: list[Links]


def align_pairs(
    translator: Any, pairs: Sequence[Pair], options: AlignOptions, gold: Sequence[Gold] = ()
) -> Alignments:
    """Align the words of pairs: every target word with the source word of the largest weight.

    The weights of the pieces of a source word are summed, and averaged over the pieces of a target word. The
    end symbols are left out. What the options leave open is chosen: by the error rate on the first pairs if
    their gold links are known, otherwise so that linked words occur in the same pairs as often as possible.

    Args:
        translator: a loaded translator.
        pairs: source and target lines.
        options: which weights are read.
        gold: gold alignments of the first pairs.

    Returns:
        The links of every pair, none for a pair with an empty side; and how they were read.

    Raises:
        UnknownName: the model has no such layer or head.
        BadRun: the model has no attention between target and source.
        BadData: a line is longer than the model can read.
    """
    readings = list_readings(translator, options)
    by_pair = [
        _read_links(translator, number, pair, readings, options.head)
        for number, pair in enumerate(pairs, start=1)
    ]
    candidates = [
        Alignments(reading, [links[column] for links in by_pair]) for column, reading in enumerate(readings)
    ]
    if gold:
        return min(candidates, key=lambda each: score_links(each.links[: len(gold)], gold).error_rate)
    measure = _make_cooccurrence(pairs)
    return max(candidates, key=lambda each: measure(each.links))


def list_readings(translator: Any, options: AlignOptions) -> list[Reading]:
    """The ways to read alignments that the options leave open.

    Args:
        translator: a loaded translator.
        options: which weights are read.

    Raises:
        UnknownName: the model has no such layer.
        BadRun: the model has no attention between target and source.
    """
    places = translator.model.attention_places()
    names = [name for name, place in places.items() if place == "cross"]
    if not names:
        raise BadRun("the model has no attention between target and source: align with a run that has one")
    if options.layer is not None and options.layer not in names:
        raise UnknownName(
            f"the model has no layer {options.layer!r} between target and source. "
            f"{did_you_mean(options.layer, names)}"
        )
    is_transformer = translator.recipe.model.kind == "transformer"
    open_shifts = (False, True) if is_transformer else (False,)
    shifts = open_shifts if options.is_shifted is None else (options.is_shifted,)
    layers = names if options.layer is None else [options.layer]
    return [Reading(layer, is_shifted) for layer in layers for is_shifted in shifts]


def _make_cooccurrence(pairs: Sequence[Pair]) -> Callable[[Sequence[Links]], float]:
    """A function that computes the mean Dice coefficient of linked words: 2 c(s, t) / (c(s) + c(t)).

    c counts the pairs in which words occur.
    """
    words = [tuple(line.split() for line in pair) for pair in pairs]
    source_counts = Counter(word for source, _ in words for word in set(source))
    target_counts = Counter(word for _, target in words for word in set(target))
    both = Counter((s, t) for source, target in words for s in set(source) for t in set(target))

    def measure(alignments: Sequence[Links]) -> float:
        coefficients = [
            2 * both[source[i], target[j]] / (source_counts[source[i]] + target_counts[target[j]])
            for (source, target), links in zip(words, alignments, strict=True)
            for i, j in links
            if i < len(source) and j < len(target)
        ]
        return sum(coefficients) / max(len(coefficients), 1)

    return measure


def _read_links(
    translator: Any, number: int, pair: Pair, readings: Sequence[Reading], head: int | None
) -> list[Links]:
    """The links of one pair, for every reading."""
    tokenizers = (translator.tokens.source, translator.tokens.target)
    ids = [tokenizer.encode([line])[0] for tokenizer, line in zip(tokenizers, pair, strict=True)]
    if not all(ids):
        return [frozenset()] * len(readings)
    _check_lengths(translator, number, ids)
    words = [_number_words(*side) for side in zip(tokenizers, ids, strict=True)]
    weights = compute_weights(translator.model, *ids)
    links = []
    for layer, is_shifted in readings:
        heads = weights[layer]
        if head is not None and head >= len(heads):
            raise UnknownName(f"{layer} has no head {head}: it has {len(heads)}, counted from 0")
        steps = heads.mean(0) if head is None else heads[head]
        first = int(is_shifted)
        links.append(_link_words(steps[first : first + len(ids[1]), : len(ids[0])], *words))
    return links


def _check_lengths(translator: Any, number: int, ids: Sequence[Sequence[int]]) -> None:
    limits = translator.model.length_limits
    for side, limit, token_ids in zip(("source", "target"), (limits.source, limits.target), ids, strict=True):
        if limit is not None and len(token_ids) + 1 > limit.positions:
            raise BadData(
                f"the {side} of line {number} has {len(token_ids)} tokens, but the model reads at most "
                f"{limit.positions - 1}: shorten the line"
            )


def _number_words(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The number of the word that each token belongs to; words stand between spaces."""
    pieces = tokenizer.pieces(ids)
    if tokenizer.kind == "word":
        return list(range(len(pieces)))
    begins = [position > 0 and piece.startswith(MARK) for position, piece in enumerate(pieces)]
    return np.cumsum(begins).tolist()


def _link_words(weights: Weights, source_words: Sequence[int], target_words: Sequence[int]) -> Links:
    merged = np.zeros((target_words[-1] + 1, source_words[-1] + 1))
    np.add.at(merged, np.ix_(np.array(target_words), np.array(source_words)), weights)
    links: list[Link] = [(int(i), j) for j, i in enumerate(merged.argmax(1))]
    return frozenset(links)
