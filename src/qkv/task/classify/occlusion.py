"""The effect of every word of a document: how far the log-probability of its label falls without the word."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from qkv.task.classify.encoding import Encoded
from qkv.task.classify.traces import LABEL, PREFIXES, TracedWeights, make_axes, name_axis
from qkv.task.texts import AnyTokenizer
from qkv.trace import WeightAxes
from qkv.view.words import group_words

OCCLUSION = "occlusion"


class Word(NamedTuple):
    """A word of a document.

    Args:
        text: which text of the document: 0, or 1 for the second one of a pair.
        sentence: the number of its sentence, from 0; None where the model reads no sentences.
        tokens: the positions of its tokens in the text.
        name: the name of the effects that its own belongs to: "text", or "words.N" of sentence N, behind the
            prefix of its text.
        axis: the axis of the trace that it lies on.
        places: the positions of its tokens there.
    """

    text: int
    sentence: int | None
    tokens: list[int]
    name: str
    axis: str
    places: list[int]


def measure_occlusion(
    document: Encoded, tokenizer: AnyTokenizer, score: Callable[[Encoded], np.ndarray]
) -> list[TracedWeights]:
    """How far the log-probability of a label falls when a word is left out, for every word.

    The effect of a word is divided evenly between its tokens, so that it is their sum.  The start symbol,
    which is never left out, has no effect.

    Args:
        document: one document.
        tokenizer: the vocabulary.
        score: log-probabilities [N] of the label of N documents.

    Returns:
        "occlusion.text", or "occlusion.words.N" for every sentence N, each [1,1,tokens]; of the second text
        of a pair "occlusion.second.text" and so on.
    """
    words = list(_iterate_words(document, tokenizer))
    if not words:
        return []
    axes = make_axes(document, tokenizer)
    effects = score(document)[0] - score(_leave_out_each(document, words))
    falls: dict[str, TracedWeights] = {}
    for word, effect in zip(words, effects.tolist(), strict=True):
        if word.name not in falls:
            zeros = np.zeros((1, 1, len(axes[word.axis])), np.float32)
            name, pair = f"{OCCLUSION}.{word.name}", WeightAxes(LABEL, word.axis)
            falls[word.name] = TracedWeights(name, OCCLUSION, zeros, pair)
        falls[word.name].values[0, 0, word.places] = effect / len(word.places)
    return list(falls.values())


def _iterate_words(document: Encoded, tokenizer: AnyTokenizer) -> Iterator[Word]:
    for text, (column, prefix) in enumerate(zip(document.texts, PREFIXES, strict=False)):
        if document.sentences is None:
            for word in group_words(tokenizer.pieces(column[0])):
                places = [position + 1 for position in word]  # behind the start symbol
                yield Word(text, None, list(word), f"{prefix}text", name_axis(prefix, "text"), places)
            continue
        start = 0
        for number, length in enumerate(document.sentences[text][0]):
            for word in group_words(tokenizer.pieces(column[0][start : start + length])):
                tokens = [start + position for position in word]
                axis = name_axis(prefix, f"sentence {number + 1}")
                yield Word(text, number, tokens, f"{prefix}words.{number + 1}", axis, list(word))
            start += length


def _leave_out_each(document: Encoded, words: list[Word]) -> Encoded:
    """The document without each of the words, one row for each."""
    texts = [[column[0]] * len(words) for column in document.texts]
    sentences = (
        None if document.sentences is None else [[each[0]] * len(words) for each in document.sentences]
    )
    for row, word in enumerate(words):
        left_out = set(word.tokens)
        ids = document.texts[word.text][0]
        texts[word.text][row] = [token for position, token in enumerate(ids) if position not in left_out]
        if sentences is not None and word.sentence is not None:
            lengths = list(sentences[word.text][row])
            lengths[word.sentence] -= len(left_out)
            sentences[word.text][row] = [length for length in lengths if length]
    return Encoded(texts, document.labels * len(words), [], sentences)
