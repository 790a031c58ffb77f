"""Labels of tokens, the beginnings of words, and word pieces merged to words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qkv.view.scripts import may_begin_word

MARK = "▁"  # opens a word in SentencePiece vocabularies
ZERO_WIDTH_SPACE = "\u200b"  # between words of Khmer and others
VISIBLE_MARK = "␣"  # the same in a picture, where "▁" would look like a heavy bar
SPECIAL = {"<s>": "⟨start⟩", "</s>": "⟨end⟩", "<unk>": "⟨unknown⟩", "<pad>": "⟨padding⟩"}
LONGEST = 28  # characters of a label


class Side(NamedTuple):
    """The labels along one side of a matrix.

    Args:
        labels: one for each row or column.
        name: what the rows or columns are, as "source".
        starts: the positions at which words begin; empty if every word has one piece.
    """

    labels: tuple[str, ...]
    name: str = ""
    starts: tuple[int, ...] = ()


def label_tokens(tokens: Sequence[str], name: str = "") -> Side:
    """The labels of tokens. Where words have several pieces, "␣" precedes the first piece of a word.

    Args:
        tokens: as the model reads them.
        name: what the tokens are.

    >>> label_tokens(["▁the", "▁hou", "se", "</s>"]).labels, label_tokens(["▁the", "▁house"]).labels
    (('␣the', '␣hou', 'se', '⟨end⟩'), ('the', 'house'))
    """
    groups = group_words(tokens)
    if len(groups) == len(tokens):
        return Side(tuple(map(format_token, tokens)), name)
    labels = (
        (VISIBLE_MARK if len(token) > 1 and _opens_word(token) else "") + format_token(token)
        for token in tokens
    )
    return Side(tuple(labels), name, tuple(group[0] for group in groups))


def format_token(token: str, longest: int = LONGEST) -> str:
    """The label of a token, without its word mark.

    Special tokens become words, control characters become visible, and long tokens are cut.

    Args:
        token: as the model reads it.
        longest: most characters of a label.

    >>> format_token("▁Haus"), format_token("</s>"), format_token("▁")
    ('Haus', '⟨end⟩', '␣')
    """
    if token in SPECIAL:
        return SPECIAL[token]
    text = (token[1:] if _opens_word(token) else token).replace(MARK, " ")
    text = "".join(c if c.isprintable() or c in "\u200c\u200d" else "␣" for c in text)
    if not text.strip():
        return "␣"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def group_words(tokens: Sequence[str]) -> list[list[int]]:
    """The positions of the tokens of every word.

    A word begins at a "▁" or another space, around special tokens, and between pieces of a script without
    spaces (see `scripts.may_begin_word`). If no token has the mark (characters, complete words), every
    token is a word.

    >>> group_words(["▁the", "▁hou", "se", "</s>"])
    [[0], [1, 2], [3]]
    >>> group_words(["▁2", "0", "年", "7", "月"])
    [[0, 1], [2], [3], [4]]
    """
    if not any(token.startswith(MARK) for token in tokens):
        return [[position] for position in range(len(tokens))]
    groups: list[list[int]] = []
    for position, token in enumerate(tokens):
        if position == 0 or _begins_word(tokens[position - 1], token):
            groups.append([])
        groups[-1].append(position)
    return groups


def merge_words(
    weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Merge the word pieces of a matrix of weights to words.

    A key gets the sum over the pieces of its word, and a query the mean over the pieces of its word. Rows
    that are distributions remain distributions.

    Args:
        weights: [.., rows, columns], between pieces.
        rows: tokens of the queries.
        columns: tokens of the keys.

    Returns:
        The weights between words, the words of the rows, and the words of the columns.
    """
    key_words, query_words = group_words(columns), group_words(rows)
    summed = np.stack([weights[..., group].sum(-1) for group in key_words], axis=-1)
    merged = np.stack([summed[..., group, :].mean(-2) for group in query_words], axis=-2)
    return merged, _join_pieces(rows, query_words), _join_pieces(columns, key_words)


def _opens_word(token: str) -> bool:
    """Whether a token begins with a space, which is "▁" for the plain one."""
    return token[:1].isspace() or token.startswith((MARK, ZERO_WIDTH_SPACE))


def _begins_word(before: str, token: str) -> bool:
    """Whether a token that follows another one begins a word."""
    if _opens_word(token) or token in SPECIAL or before in SPECIAL:
        return True
    if not token or not before.strip().strip(MARK + ZERO_WIDTH_SPACE):
        return False
    return may_begin_word(before[-1], token[0])


def _join_pieces(tokens: Sequence[str], groups: list[list[int]]) -> list[str]:
    return ["".join(tokens[position] for position in group) for group in groups]
