"""Tokens as people read them: clean labels, where words begin, and word pieces put together to words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qkv.view.scripts import may_begin_word

MARK = "▁"  # opens a word in SentencePiece vocabularies
ZERO_WIDTH_SPACE = "\u200b"  # between words of Khmer and others
OPENS = "␣"  # the same in a picture, where "▁" would be a heavy bar
SPECIAL = {"<s>": "⟨start⟩", "</s>": "⟨end⟩", "<unk>": "⟨unknown⟩", "<pad>": "⟨padding⟩"}
LONGEST = 28


class Side(NamedTuple):
    """What stands along one side of a matrix.

    labels: one for each row or column.  name: what they are ("source").
    starts: the places at which words begin, where some word has several pieces; empty otherwise.
    """

    labels: tuple[str, ...]
    name: str = ""
    starts: tuple[int, ...] = ()


def side(tokens: Sequence[str], name: str = "") -> Side:
    """The labels of tokens; where words are cut into pieces, "␣" stands before those that open a word.

    >>> side(["▁the", "▁hou", "se", "</s>"]).labels, side(["▁the", "▁house"]).labels
    (('␣the', '␣hou', 'se', '⟨end⟩'), ('the', 'house'))
    """
    groups = words(tokens)
    if len(groups) == len(tokens):
        return Side(tuple(map(label, tokens)), name)
    labels = ((OPENS if len(token) > 1 and _opens(token) else "") + label(token) for token in tokens)
    return Side(tuple(labels), name, tuple(group[0] for group in groups))


def label(token: str) -> str:
    """The token without its word mark; special ones as words, control characters visible, long ones cut.

    >>> label("▁Haus"), label("</s>"), label("▁")
    ('Haus', '⟨end⟩', '␣')
    """
    if token in SPECIAL:
        return SPECIAL[token]
    text = (token[1:] if _opens(token) else token).replace(MARK, " ")
    text = "".join(c if c.isprintable() or c in "\u200c\u200d" else "␣" for c in text)
    if not text.strip():
        return "␣"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def words(tokens: Sequence[str]) -> list[list[int]]:
    """The places of the tokens that make up every word.

    A word begins at a "▁" or another space, around special tokens, and between pieces of a script without
    spaces (see `scripts.may_begin_word`).  Tokens of which none has the mark (characters, complete words)
    stay separate.

    >>> words(["▁the", "▁hou", "se", "</s>"])
    [[0], [1, 2], [3]]
    >>> words(["▁2", "0", "年", "7", "月"])
    [[0, 1], [2], [3], [4]]
    """
    if not any(token.startswith(MARK) for token in tokens):
        return [[place] for place in range(len(tokens))]
    groups: list[list[int]] = []
    for place, token in enumerate(tokens):
        if place == 0 or _begins_word(tokens[place - 1], token):
            groups.append([])
        groups[-1].append(place)
    return groups


def merge_words(
    weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Word-level weights [.., rows, columns] and their labels from those of the pieces.

    A key gets the sum over the pieces of its word, a query the mean over the pieces of its word; so rows
    that are distributions stay distributions.
    """
    across, down = words(columns), words(rows)
    summed = np.stack([weights[..., group].sum(-1) for group in across], axis=-1)
    merged = np.stack([summed[..., group, :].mean(-2) for group in down], axis=-2)
    return merged, _join_pieces(rows, down), _join_pieces(columns, across)


def _opens(token: str) -> bool:
    """Whether a space leads the token: "▁" for the plain one, any other as it is."""
    return token[:1].isspace() or token.startswith((MARK, ZERO_WIDTH_SPACE))


def _begins_word(before: str, token: str) -> bool:
    if _opens(token) or token in SPECIAL or before in SPECIAL:
        return True
    if not token or not before.strip().strip(MARK + ZERO_WIDTH_SPACE):
        return False
    return may_begin_word(before[-1], token[0])


def _join_pieces(tokens: Sequence[str], groups: list[list[int]]) -> list[str]:
    return ["".join(tokens[place] for place in group) for group in groups]
