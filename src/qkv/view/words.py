"""Tokens as people read them: clean labels, and word pieces put together to words."""

from collections.abc import Sequence

import numpy as np

MARK = "▁"  # opens a word in SentencePiece vocabularies
SPECIAL = {"<s>": "⟨start⟩", "</s>": "⟨end⟩", "<unk>": "⟨unknown⟩", "<pad>": "⟨padding⟩"}
LONGEST = 28


def label(token: str) -> str:
    """The token without its word mark; special ones as words, control characters visible, long ones cut.

    >>> label("▁Haus"), label("</s>"), label("▁")
    ('Haus', '⟨end⟩', '␣')
    """
    if token in SPECIAL:
        return SPECIAL[token]
    text = token.removeprefix(MARK).replace(MARK, " ")
    text = "".join(c if c.isprintable() or c in "\u200c\u200d" else "␣" for c in text)
    if not text.strip():
        return "␣"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def words(tokens: Sequence[str]) -> list[list[int]]:
    """The places of the tokens that make up every word: a word begins at a "▁" and around special tokens.

    Tokens of which none has the mark (characters, whole words) stay by themselves.

    >>> words(["▁the", "▁hou", "se", "</s>"])
    [[0], [1, 2], [3]]
    """
    if not any(token.startswith(MARK) for token in tokens):
        return [[place] for place in range(len(tokens))]
    groups: list[list[int]] = []
    for place, token in enumerate(tokens):
        begins = place == 0 or token.startswith(MARK) or token in SPECIAL or tokens[place - 1] in SPECIAL
        if begins:
            groups.append([])
        groups[-1].append(place)
    return groups


def merge_words(
    weights: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Word-level weights [.., rows, columns] and their labels from those of the pieces.

    A word that is looked at gets the sum over its pieces, a word that looks the mean over its pieces; so rows
    that are distributions stay distributions.
    """
    across, down = words(columns), words(rows)
    summed = np.stack([weights[..., group].sum(-1) for group in across], axis=-1)
    merged = np.stack([summed[..., group, :].mean(-2) for group in down], axis=-2)
    return merged, _joined(rows, down), _joined(columns, across)


def _joined(tokens: Sequence[str], groups: list[list[int]]) -> list[str]:
    return ["".join(tokens[place] for place in group) for group in groups]
