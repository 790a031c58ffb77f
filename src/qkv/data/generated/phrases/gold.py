"""Exact word alignments of generated dates: words that write the same field of a day are linked."""

import re
from datetime import date
from typing import NamedTuple

from babel.dates import format_date

from qkv.data.generated.phrases.language import Language

ALIGNED_KINDS = ("dates",)
_FIELD = re.compile(r"'[^']*'|(E+|c+|M+|L+|d+|y+)")
_NAMES = {"E": "weekday", "c": "weekday", "M": "month", "L": "month", "d": "day", "y": "year"}
_BEGIN, _END = "\x01", "\x02"

Links = frozenset[tuple[int, int]]


class GoldPair(NamedTuple):
    """A pair of phrases with the links between their words.

    Args:
        source: the source phrase.
        target: the target phrase.
        links: (source word, target word) from 0, of words between white space. Words such as the Spanish "de"
            have no link.
    """

    source: str
    target: str
    links: Links


def align_date(source: Language, target: Language, style: str, day: date) -> Links:
    """The links between the words of a date in two languages.

    Args:
        source: the language of the source phrase.
        target: the language of the target phrase.
        style: "full" or "long".
        day: the day.
    """
    source_words, target_words = (_find_words(language, style, day) for language in (source, target))
    return frozenset(
        (i, j) for field, words in source_words.items() for i in words for j in target_words.get(field, ())
    )


def _find_words(language: Language, style: str, day: date) -> dict[str, list[int]]:
    """Field -> the numbers of the words that write it."""
    pattern = str(language.data["date_formats"][style])
    fields = [match[1] for match in _FIELD.finditer(pattern) if match[1]]
    marked = _FIELD.sub(lambda match: f"{_BEGIN}{match[1]}{_END}" if match[1] else match[0], pattern)
    text = format_date(day, marked, language.locale)
    words: dict[str, list[int]] = {}
    for number, word in enumerate(_split_marked(text)):
        for field in word:
            words.setdefault(_NAMES[fields[field][0]], []).append(number)
    return words


def _split_marked(text: str) -> list[list[int]]:
    """For every word between white space, the numbers of the marked fields of which it has a character."""
    words: list[list[int]] = []
    field, count, is_in_field, is_in_word = -1, 0, False, False
    for character in text:
        if character == _BEGIN:
            field, count, is_in_field = count, count + 1, True
        elif character == _END:
            is_in_field = False
        elif character.isspace():
            is_in_word = False
        else:
            if not is_in_word:
                words.append([])
                is_in_word = True
            if is_in_field and field not in words[-1]:
                words[-1].append(field)
    return words
