"""Traces of a classifier: the weights of every attention with the axes that they lie between."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from qkv.errors import BadData
from qkv.shapes import Attended
from qkv.task.classify.encoding import Encoded
from qkv.task.texts import AnyTokenizer
from qkv.trace import Axis, WeightAxes

START = "<s>"
LABEL, QUERY = "label", "query"  # axes of one position: of the whole document, and of a sentence
PREFIXES = ("", "second.")  # of the names of the first and the second text of a pair
LONGEST_TRACED = 4096  # tokens; the weights of a layer grow with the square


class TracedWeights(NamedTuple):
    """The weights of one attention on one text, or on one sentence of it.

    Args:
        name: what the trace calls them.
        layer: the name of the attention in the model.
        values: [H, rows, columns].
        axes: the names of both axes.
    """

    name: str
    layer: str
    values: np.ndarray
    axes: WeightAxes


def refuse_long_trace(encoded: Encoded, number: int) -> None:
    """Check that the weights between all tokens of a document fit into a trace.

    Args:
        encoded: documents, of which one is to be traced.
        number: its number, from 0.

    Raises:
        BadData: it is too long.
    """
    longest = max(len(column[number]) for column in encoded.texts)
    if encoded.sentences is None and longest > LONGEST_TRACED:
        raise BadData(
            f"text {number + 1} has {longest:,} tokens: a trace holds the weights between at most "
            f"{LONGEST_TRACED:,}. Shorten the text"
        )


def make_axes(encoded: Encoded, tokenizer: AnyTokenizer) -> dict[str, Axis]:
    """The axes of the texts of one document: tokens, or sentences and the tokens of each.

    Args:
        encoded: the document alone.
        tokenizer: the vocabulary.
    """
    axes: dict[str, Axis] = {}
    for i, prefix in enumerate(PREFIXES[: len(encoded.texts)]):
        ids = encoded.texts[i][0]
        if encoded.sentences is None:
            axes[name_axis(prefix, "text")] = (START, *tokenizer.pieces(ids))
            continue
        ends = np.cumsum(encoded.sentences[i][0], dtype=int).tolist()
        sentences = [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        axes[name_axis(prefix, "sentences")] = tuple(map(tokenizer.decode, sentences)) or ("",)
        for number, sentence in enumerate(sentences, start=1):
            axes[name_axis(prefix, f"sentence {number}")] = tuple(tokenizer.pieces(sentence))
    return axes


def list_weights(encoded: Encoded, attended: list[dict[str, Attended]]) -> Iterator[TracedWeights]:
    """The weights of every attention of the model on one document.

    Args:
        encoded: the document alone.
        attended: for every text, what the model returned.
    """
    for i, (prefix, layers) in enumerate(zip(PREFIXES, attended, strict=False)):
        weights = {
            name: each.weights.float().cpu().numpy()
            for name, each in layers.items()
            if each.weights is not None
        }
        if encoded.sentences is None:
            for name, values in weights.items():
                axes = _find_axes(prefix, name, "text", LABEL)
                yield TracedWeights(prefix + name, name, values[0], axes)
        else:
            yield from _list_levels(prefix, weights, encoded.sentences[i][0])


def _list_levels(
    prefix: str, weights: Mapping[str, np.ndarray], lengths: list[int]
) -> Iterator[TracedWeights]:
    """Of the names "words.NAME" one array per sentence without its padding, of "sentences.NAME" one."""
    for layer, values in weights.items():
        level, _, name = layer.partition(".")
        if level == "sentences":
            axes = _find_axes(prefix, name, "sentences", LABEL)
            yield TracedWeights(prefix + layer, layer, values[0], axes)
            continue
        for number, length in enumerate(lengths, start=1):
            axes = _find_axes(prefix, name, f"sentence {number}", QUERY)
            inside = values[number - 1, :, :length, :length]
            yield TracedWeights(f"{prefix}words.{number}.{name}", layer, inside, axes)


def _find_axes(prefix: str, name: str, columns: str, pooled: str) -> WeightAxes:
    """Rows are the one query of a pooling, or the same positions as the columns."""
    columns = name_axis(prefix, columns)
    return WeightAxes(pooled if name == "pool" else columns, columns)


def name_axis(prefix: str, name: str) -> str:
    """The name of an axis of the first or, behind its prefix, of the second text.

    Args:
        prefix: one of `PREFIXES`.
        name: the name for the first text.
    """
    return f"{prefix.removesuffix('.')} {name}".strip()
